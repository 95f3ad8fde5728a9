"""What a Transformer looks at while it translates, and how its layers are put together."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from capsule_lightning.capsules import Capsules
from capsule_lightning.models.attention import Attention, DecoderLayer
from capsule_lightning.models.state_aggregation import LayerAggregation, RoutedAggregation
from capsule_lightning.models.transformer import Transformer


@torch.no_grad()
def cross_attention(net: Transformer, source: Tensor, target: Tensor) -> Tensor:
    """Return how much the top layer of the decoder sees of each word of the source, the mean over its heads.

    Args:
        net: the network, in evaluation mode.
        source: ``(B, S)`` int64.
        target: ``(B, T)`` int64, from `BEGIN` on; position t is where the word after t is chosen.

    Returns:
        ``(B, T, S)``, rows of which sum to 1.
    """
    layer = net.decoder[-1]
    assert isinstance(layer, DecoderLayer)
    given = _inputs_of(layer.cross, net, source, target)
    return layer.cross.weights(*given).mean(dim=1)


@torch.no_grad()
def layer_couplings(net: Transformer, source: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Return how the states of the layers are divided among the parents, the mean over all words.

    Args:
        net: the network, in evaluation mode.
        source, target: ``(B, S)`` and ``(B, T)`` int64 without padding.

    Returns:
        ``(L, N)`` of ``encoder`` and of ``decoder``; empty of a network whose layers are not routed.
    """
    found = {}
    for side, top in (("encoder", net.encoder_top), ("decoder", net.decoder_top)):
        assert isinstance(top, LayerAggregation)
        if isinstance(top.together, RoutedAggregation):
            (children,) = _inputs_of(top.together, net, source, target)  # (B, T, L, D)
            couplings = top.together.routing.couplings(Capsules(children, children.new_ones(children.shape[:-1])))
            found[side] = couplings.flatten(0, -3).mean(dim=0)
    return found


def _inputs_of(module: Attention | RoutedAggregation, net: Transformer, source: Tensor, target: Tensor) -> Any:
    """Return what a module of the network is called with."""
    seen: list[Any] = []

    def look(_: nn.Module, inputs: Any) -> None:
        seen.append(inputs)

    handle = module.register_forward_pre_hook(look)
    try:
        net.answer(source, target)
    finally:
        handle.remove()
    return seen[-1]
