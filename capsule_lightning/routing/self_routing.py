"""Self-routing, in which every child decides from its own pose how it divides itself among the parents.

Hahn, Pyeon & Kim, Self-Routing Capsule Networks, NeurIPS 2019.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from typing_extensions import override

from capsule_lightning.capsules import Capsules
from capsule_lightning.errors import require
from capsule_lightning.kernels.cpu_products import multiply
from capsule_lightning.layers.couplings import coupling_coefficients
from capsule_lightning.layers.precision import full_precision
from capsule_lightning.routing.base import Routing

_SILENT = 1e-8  # lower activations count as this one, so that in a layer of silent children all count the same
_MOST_WEIGHTED = {"cpu": 0, "cuda": 2**25}  # numbers in the poses weighted at once, unless one parent's are more


@full_precision
def routing_logits(poses: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return the logit with which each child chooses each parent, ``W[i, j] . u[i] + b[i, j]``.

    Args:
        poses: ``(..., I, D)``, poses of the children, u.
        weight: ``(K, J, D)``, W; child i uses the vectors of row i modulo K, and K divides I.
        bias: ``(K, J)``, b.

    Returns:
        ``(..., I, J)``.

    Source: Hahn et al. 2019.
    """
    of_types = poses.reshape(*poses.shape[:-2], -1, weight.shape[0], poses.shape[-1])  # (..., I / K, K, D)
    return (torch.einsum("...nkd,kjd->...nkj", of_types, weight) + bias).flatten(-3, -2)


@full_precision
def self_routing(logits: Tensor, activations: Tensor) -> tuple[Tensor, Tensor]:
    """Route activations, ``a[j] = sum_i c[i, j] a[i] / sum_i a[i]``, c the softmax of the logits over the parents.

    It is computed with logarithms, which need no division and stay finite if no child is active or none chooses a
    parent.

    Args:
        logits: ``(..., I, J)``.
        activations: ``(..., I)``, of the children, not negative; those below 1e-8 count as 1e-8.

    Returns:
        Shares ``(..., I, J)`` of the children in the pose of each parent, ``c[i, j] a[i] / sum_i c[i, j] a[i]``, which
        sum to 1 over the children; and activations ``(..., J)``, which sum to 1 over the parents.

    Source: Hahn et al. 2019.
    """
    messages = logits.log_softmax(dim=-1) + activations.clamp_min(_SILENT).log().unsqueeze(-1)
    received = messages.logsumexp(dim=-2)  # (..., J); the sum of its exponentials is sum_i a[i]
    return (messages - received.unsqueeze(-2)).exp(), received.softmax(dim=-1)


@full_precision
def weighted_votes(shares: Tensor, poses: Tensor, weight: Tensor) -> Tensor:
    """Return ``u[j] = sum_i s[i, j] W[i, j] u[i]``, for each parent one matrix product of weighted poses.

    Nothing of the size of the votes is formed, forwards or backwards. The result can be differentiated once.

    Args:
        shares: ``(..., I, J)``, s.
        poses: ``(..., I, D)``.
        weight: ``(K, J, E, D)``, W; child i uses the matrices of row i modulo K.

    Returns:
        ``(..., J, E)``.

    Source: Hahn et al. 2019.
    """
    (count, num_out, dim_out, dim_in), num_in = weight.shape, poses.shape[-2]
    children, shares = poses.reshape(-1, num_in, dim_in), shares.reshape(-1, num_in, num_out)
    if count == num_in:
        maps = weight.permute(1, 0, 3, 2).flatten(1, 2)  # (J, I * D, E)
        parents: Tensor = _WeightedVotes.apply(shares.movedim(-1, 0).contiguous(), children, maps)
    else:  # children with the same matrices need only their weighted sum, which is small
        shares, children = (x.reshape(len(x), -1, count, x.shape[-1]) for x in (shares, children))
        weighted = torch.einsum("bnkj,bnkd->bjkd", shares, children)
        parents = torch.einsum("bjkd,kjed->bje", weighted, weight)
    return parents.reshape(*poses.shape[:-2], num_out, dim_out)


class _WeightedVotes(torch.autograd.Function):
    """The autograd function of `weighted_votes`.

    It turns shares ``(J, B, I)``, children ``(B, I, D)`` and maps ``(J, I * D, E)`` into parents ``(B, J, E)``. The
    weighted poses of one parent at a time stay in the cache of a CPU, and those of several keep a GPU busy; the
    backward pass forms them again.
    """

    @staticmethod
    def forward(ctx: Any, shares: Tensor, children: Tensor, maps: Tensor) -> Tensor:
        ctx.save_for_backward(shares, children, maps)
        groups = _groups(children, shares, maps)
        return torch.cat([_products(_weighted(children, share), of) for share, of in groups]).transpose(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        shares, children, maps = ctx.saved_tensors
        grad_shares, grad_maps = torch.empty_like(shares), maps.new_empty(maps.mT.shape)
        grad_children = torch.zeros_like(children)
        given = _groups(children, shares, maps, grad.transpose(0, 1), grad_shares, grad_maps)
        for share, of, grad_parents, grad_share, grad_of in given:
            _products(grad_parents.mT, _weighted(children, share), out=grad_of)
            grad_weighted = _products(grad_parents, of.mT).view(-1, *children.shape)
            for grad_one, share_one in zip(grad_weighted, share, strict=True):
                grad_children.addcmul_(grad_one, share_one.unsqueeze(-1))
            torch.sum(grad_weighted.mul_(children), dim=-1, out=grad_share)
        return grad_shares, grad_children, grad_maps.mT


def _groups(children: Tensor, *of_parents: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Split tensors ``(J, ...)`` into those of parents that are computed together."""
    parents = max(1, _MOST_WEIGHTED.get(children.device.type, 0) // max(1, children.numel()))
    return zip(*(torch.split(part, parents) for part in of_parents), strict=True)


def _weighted(children: Tensor, shares: Tensor) -> Tensor:
    """Return poses ``(B, I, D)`` weighted for each of some parents by ``(p, B, I)``, as ``(p, B, I * D)``."""
    return (children * shares.unsqueeze(-1)).flatten(2)


def _products(matrices: Tensor, columns: Tensor, out: Tensor | None = None) -> Tensor:
    """Multiply matrices ``(p, m, k)`` and ``(p, k, n)``."""
    if len(matrices) > 1:
        return torch.bmm(matrices, columns, out=out)
    return multiply(matrices[0], columns[0], out=None if out is None else out[0]).unsqueeze(0)


@full_precision
def weighted_poses(shares: Tensor, poses: Tensor) -> Tensor:
    """Return ``u[j] = sum_i s[i, j] u[i]``, ``(..., J, D)``, from shares ``(..., I, J)`` and poses ``(..., I, D)``."""
    return torch.einsum("...ij,...id->...jd", shares, poses)


class SelfRouting(Routing):
    """A mixture of experts, in which children choose their parents without iteration, agreement or squash.

    The activations of the parents sum to 1, so that the negative log-likelihood of the paper is ``CrossEntropyLoss``
    with ``of: activations``. They are means over the children and never surer than the surest child, so each child
    should see enough of the image to know its class, as it does after the paper's ResNet.

    Args:
        num_in, dim_in, num_out, dim_out, vote_weights: see `Routing`; the weights that choose parents are shared in the
            same way as the vote matrices.
        poses: form votes. ``false`` leaves out the vote matrices, as the released code does in its last layer, whose
            poses are not used; the pose of a parent is then the weighted mean of the children's poses, which needs
            ``dim_in = dim_out``.
        normalize: apply batch normalization to the parents' poses, as the released code does after every layer but the
            last.

    Raises:
        InputError: ``poses`` is false, and parents have other dimensions than children.

    Example:
        >>> routing = SelfRouting(2048, 16, 10, 16)
        >>> routing(Capsules.from_vectors(torch.rand(2, 2048, 16))).poses.shape
        torch.Size([2, 10, 16])
    """

    any_number = True

    def __init__(
        self,
        num_in: int,
        dim_in: int,
        num_out: int,
        dim_out: int,
        *,
        vote_weights: int | None = None,
        poses: bool = True,
        normalize: bool = False,
    ) -> None:
        super().__init__(num_in, dim_in, num_out, dim_out, vote_weights=vote_weights)
        require(
            poses or dim_in == dim_out,
            f"SelfRouting: poses=false with children of {dim_in} and parents of {dim_out} dimensions: expected the "
            "same number, as the parents' poses are then means of the children's; use poses=true",
        )
        self.poses = poses
        if poses:
            bound = sqrt(6 / dim_in)  # Kaiming's; the released code takes all J * E * D numbers of a child as the fan
            shape = (self.vote_weights, num_out, dim_out, dim_in)
            self.weight = nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
        self.route_weight = nn.Parameter(torch.zeros(self.vote_weights, num_out, dim_in))
        self.route_bias = nn.Parameter(torch.zeros(self.vote_weights, num_out))
        self.norm = nn.BatchNorm1d(num_out * dim_out) if normalize else None

    @override
    def forward(self, capsules: Capsules) -> Capsules:
        shares, activations = self_routing(self._logits(capsules), capsules.activations)
        if self.poses:
            poses = weighted_votes(shares, capsules.poses, self.weight)
        else:
            poses = weighted_poses(shares, capsules.poses)
        if self.norm is not None:
            poses = self.norm(poses.reshape(-1, self.num_out * self.dim_out)).view(poses.shape)
        return Capsules(poses, activations)

    @override
    def couplings(self, capsules: Capsules) -> Tensor:
        """Return the couplings of each child, whatever its activation; they sum to 1 over the parents."""
        return coupling_coefficients(self._logits(capsules))

    def _logits(self, capsules: Capsules) -> Tensor:
        return routing_logits(capsules.poses, self.route_weight, self.route_bias)
