"""How the class capsules are routed, measured over training."""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import Any

import lightning as L
import torch
from torch import Tensor
from typing_extensions import override

from capsule_lightning.analysis.class_routing import agreement, class_routing, coupling_entropy
from capsule_lightning.callbacks.figures import publish
from capsule_lightning.callbacks.informing import Informing
from capsule_lightning.errors import require
from capsule_lightning.figures.lengths import DEAD, dead_capsules
from capsule_lightning.models.base import CapsuleNet


class RoutingMonitor(Informing):
    """Measures, after each epoch, coupling entropy, agreement of the votes, and how many class capsules are dead.

    The network is measured in evaluation mode on the last training batches of the epoch (of the first process). The
    numbers are logged as ``train/coupling_entropy``, ``train/agreement`` and ``train/dead_capsules`` and drawn after
    epochs 2, 4, 8, ... and the last. A network without routing, or with votes that are not a matrix times a pose, has
    fewer of them; see `class_routing`. A checkpoint within an epoch holds the inputs of those batches, so that the
    numbers of an epoch that was cut are those of one that was not.

    Args:
        batches: number of batches; a capsule that is long for none of their images is called dead.
        threshold: greatest length of a dead capsule, in [0, 1].

    Raises:
        InputError: values out of range.
    """

    def __init__(self, batches: int = 4, threshold: float = DEAD) -> None:
        require(batches >= 1, f"RoutingMonitor: batches={batches}: expected at least 1")
        require(0 <= threshold <= 1, f"RoutingMonitor: threshold={threshold}: expected a length in [0, 1]")
        self.threshold = threshold
        self._last: deque[Tensor] = deque(maxlen=batches)  # inputs of the network
        self._curves: dict[str, list[tuple[int, float]]] = {}

    @override
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.is_global_zero:
            self._last.append(batch[0])

    @override
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure, log, and sometimes draw."""
        batches = [inputs.to(pl_module.device) for inputs in self._last]
        self._last.clear()
        net = getattr(pl_module, "net", None)
        if not batches or not isinstance(net, CapsuleNet):
            return
        for name, value in measure(net, batches, self.threshold).items():
            pl_module.log(f"train/{name}", value, rank_zero_only=True)
            self._curves.setdefault(name, []).append((trainer.global_step - 1, value))
        epochs = trainer.current_epoch + 1
        if epochs > 1 and (epochs.bit_count() == 1 or epochs == trainer.max_epochs):
            from capsule_lightning.figures.curves import routing_curves

            publish(trainer, "train/routing", partial(routing_curves, self._curves, "Routing over training"))

    @override
    def state_dict(self) -> dict[str, Any]:
        """Return what was measured, and the inputs of an epoch's last batches so far, for the end of that epoch."""
        curves = {name: [list(pair) for pair in pairs] for name, pairs in self._curves.items()}
        return {"curves": curves, "last": [inputs.cpu() for inputs in self._last]}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._curves = {name: [(step, value) for step, value in pairs] for name, pairs in state_dict["curves"].items()}
        self._last.extend(state_dict.get("last", ()))


@torch.no_grad()
def measure(net: CapsuleNet, batches: list[Tensor], threshold: float = DEAD) -> dict[str, float]:
    """Measure a network's routing; the network keeps its mode.

    Args:
        net: the network.
        batches: batches of images, each ``(B, C, H, W)`` as the network expects them.
        threshold: see `dead_capsules`.

    Returns:
        ``coupling_entropy`` and ``agreement``, means over the images, if the network has them, and ``dead_capsules``,
        a number of capsules.
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
