"""Numbers of the class capsules' routing, over training."""

from __future__ import annotations

from collections import deque
from typing import Any

import lightning as L
import torch
from torch import Tensor

from capsule_lightning.analysis.class_routing import agreement, class_routing, coupling_entropy
from capsule_lightning.callbacks.figures import publish
from capsule_lightning.data.base import ImageBatch
from capsule_lightning.errors import InputError
from capsule_lightning.figures.lengths import DEAD, dead_capsules
from capsule_lightning.models.base import CapsuleNet


class RoutingMonitor(L.Callback):
    """After each epoch: coupling entropy, agreement of the votes, and how many class capsules are dead.

    They are those of the network in evaluation, for the last training batches of the epoch (of the first process),
    logged as ``train/coupling_entropy``, ``train/agreement`` and ``train/dead_capsules`` and drawn after epochs 2, 4,
    8, ... and the last. A network without routing, or with votes that are no product of matrix and pose, has fewer of
    them; see `class_routing`.

    Args:
        batches: how many; a capsule is called dead that is long for none of their images.
        threshold: a dead capsule is not longer than this, in [0, 1].

    Raises:
        InputError: values out of range.
    """

    def __init__(self, batches: int = 4, threshold: float = DEAD) -> None:
        if batches < 1:
            raise InputError(f"RoutingMonitor: batches={batches}: expected at least 1")
        if not 0 <= threshold <= 1:
            raise InputError(f"RoutingMonitor: threshold={threshold}: expected a length in [0, 1]")
        self.threshold = threshold
        self._last: deque[ImageBatch] = deque(maxlen=batches)
        self._curves: dict[str, list[tuple[int, float]]] = {}

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the last batches."""
        if trainer.is_global_zero:
            self._last.append(batch)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure, log and now and then draw."""
        batches = list(self._last)
        self._last.clear()
        net = getattr(pl_module, "net", None)
        if not batches or not isinstance(net, CapsuleNet):
            return
        for name, value in measure(net, [batch.images for batch in batches], self.threshold).items():
            pl_module.log(f"train/{name}", value, rank_zero_only=True)
            self._curves.setdefault(name, []).append((trainer.global_step, value))
        epochs = trainer.current_epoch + 1
        if epochs > 1 and (epochs.bit_count() == 1 or epochs == trainer.max_epochs):
            from capsule_lightning.figures.curves import routing_curves

            publish(trainer, "train/routing", routing_curves(self._curves, "Routing over training"))

    def state_dict(self) -> dict[str, Any]:
        """What was measured, so that a resumed run draws it whole."""
        return {"curves": {name: [list(pair) for pair in pairs] for name, pairs in self._curves.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with what was measured."""
        self._curves = {name: [(step, value) for step, value in pairs] for name, pairs in state_dict["curves"].items()}


@torch.no_grad()
def measure(net: CapsuleNet, batches: list[Tensor], threshold: float = DEAD) -> dict[str, float]:
    """Numbers of a network's routing, each a mean over the images; the network is left in its mode.

    Args:
        net: the network.
        batches: of images, each ``(B, C, H, W)`` as the network expects them.
        threshold: of `dead_capsules`.

    Returns:
        ``coupling_entropy`` and ``agreement`` where the network has them, and ``dead_capsules``, a number of capsules.
    """
    training = [module for module in net.modules() if module.training]
    net.eval()
    try:
        seen = [(class_routing(net, images), images) for images in batches]
        activations = torch.cat([net(i).activations if s is None else s.parents.activations for s, i in seen])
    finally:
        for module in training:
            module.training = True
    values = {"dead_capsules": float(dead_capsules(activations.flatten(1), threshold).sum())}
    routed = [s for s, _ in seen if s is not None]
    if routed:
        entropies = [
            coupling_entropy(s.routing.couplings(s.children), s.children.activations).flatten() for s in routed
        ]
        values["coupling_entropy"] = float(torch.cat(entropies).mean())
    cosines = [cosine for s in routed if (cosine := agreement(s)) is not None]
    if cosines:
        values["agreement"] = float(torch.cat(cosines).mean())
    return dict(sorted(values.items()))
