"""How the states of several layers, or the heads of an attention, become one state: by a linear map or by routing.

Dou, Tu, Wang, Wang, Shi & Zhang, Dynamic Layer Aggregation for Neural Machine Translation with Routing-by-Agreement,
AAAI 2019 (arXiv 1902.05770); of heads Li, Yang, Dou, Wang, Lyu & Tu, NAACL 2019 (arXiv 1904.03100).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from typing_extensions import override

from capsule_lightning.capsules import Capsules
from capsule_lightning.errors import require, require_one_of
from capsule_lightning.routing.base import Routing

LINEAR = "linear"

RoutingFactory = Callable[[int, int, int, int], Routing]


class RoutedAggregation(nn.Module):
    """The children of each position are routed to N parents, which are put next to each other.

    Every child has activation 1. A parent counts by its activation: if the algorithm's activations are not the lengths
    of its poses (EM, for example), poses are multiplied by them, as Dou et al. do.

    Args:
        num_in: children, I.
        dim_in: dimensions of a child, D.
        dim_out: dimensions of the result.
        routing: called with ``(I, D, N, dim_out / N)``.
        num_parents: N.

    Raises:
        InputError: N does not divide ``dim_out``, or the routing has statistics over the batch, by which a later word
            would change an earlier one, and one sentence another.
    """

    def __init__(self, num_in: int, dim_in: int, dim_out: int, routing: RoutingFactory, num_parents: int) -> None:
        super().__init__()
        require(
            num_parents >= 1 and dim_out % num_parents == 0,
            f"num_parents={num_parents}: expected a number that divides the {dim_out} of a state, such as 16",
        )
        self.routing = routing(num_in, dim_in, num_parents, dim_out // num_parents)
        name = type(self.routing).__name__
        require(
            not any(isinstance(module, _BatchNorm) for module in self.routing.modules()),
            f"{name}: has statistics over the batch, by which sentences and later words would change each other; "
            "choose another routing, such as DynamicRouting",
        )
        self.is_weighted = not self._activations_are_lengths(num_in, dim_in)

    @torch.no_grad()
    def _activations_are_lengths(self, num_in: int, dim_in: int) -> bool:
        if any(parameter.is_meta for parameter in self.routing.parameters()):
            return False  # of shapes alone, whose sizes are looked at and nothing else
        trial = torch.linspace(-1, 1, num_in * dim_in).sin().view(1, num_in, dim_in)
        training = self.routing.training
        poses, activations = self.routing.eval()(Capsules(trial, torch.ones(1, num_in)))
        self.routing.train(training)
        return torch.allclose(torch.linalg.vector_norm(poses, dim=-1), activations, atol=1e-5)

    @override
    def forward(self, children: Tensor) -> Tensor:
        """Return ``(..., dim_out)`` of children ``(..., I, D)``."""
        poses, activations = self.routing(Capsules(children, children.new_ones(children.shape[:-1])))
        parents = poses * activations.unsqueeze(-1) if self.is_weighted else poses
        result: Tensor = parents.flatten(-2).to(children.dtype)
        return result


class LinearAggregation(nn.Module):
    """A sum of the children, each through a matrix of its own: routing without the routing.

    Args:
        num_in: children, I.
        dim_in: dimensions of a child, D.
        dim_out: dimensions of the result.
    """

    def __init__(self, num_in: int, dim_in: int, dim_out: int) -> None:
        super().__init__()
        self.sum = nn.Linear(num_in * dim_in, dim_out, bias=False)

    @override
    def forward(self, children: Tensor) -> Tensor:
        """Return ``(..., dim_out)`` of children ``(..., I, D)``."""
        result: Tensor = self.sum(children.flatten(-2))
        return result


class LayerAggregation(nn.Module):
    """The normalized states of all layers at a position, in place of the state of the top layer.

    Nothing is mixed over positions, so that a decoder stays causal.

    Args:
        num_layers: layers, L.
        dim: dimensions of a state, d.
        how: null for the top layer alone; ``linear``; or a routing, see `RoutedAggregation`.
        num_parents: N parents of d / N dimensions.
    """

    def __init__(self, num_layers: int, dim: int, how: RoutingFactory | str | None, num_parents: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.together: RoutedAggregation | LinearAggregation | None = None
        if isinstance(how, str):
            require_one_of("layer_aggregation", how, [LINEAR])
            self.together = LinearAggregation(num_layers, dim, dim)
        elif how is not None:
            self.together = RoutedAggregation(num_layers, dim, dim, how, num_parents)
        self.out_norm = None if self.together is None else nn.LayerNorm(dim)

    @override
    def forward(self, states: list[Tensor]) -> Tensor:
        """Return ``(B, T, d)`` of the states ``(B, T, d)`` after each of the L layers."""
        if self.together is None or self.out_norm is None:
            top: Tensor = self.norm(states[-1])
            return top
        result: Tensor = self.out_norm(self.together(self.norm(torch.stack(states, dim=-2))))
        return result
