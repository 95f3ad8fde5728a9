"""Compilation of the network."""

from __future__ import annotations

from typing import Literal, cast, get_args

import lightning as L
from torch._dynamo import list_backends

from capsule_lightning.errors import InputError
from capsule_lightning.models.base import CapsuleNet

Mode = Literal["default", "reduce-overhead", "max-autotune"]


class CompileNetwork(L.Callback):
    """Trains with `torch.compile` of the network, in place, so that checkpoints are those of the plain one.

    Training batches are all of one size and make one graph. Validation makes another, and a last batch of another size
    one more, which serves every size. Compilation takes up to some minutes; it pays for long runs, on GPUs above all.

    Args:
        mode: see `torch.compile`; ``reduce-overhead`` replays CUDA graphs.
        backend: see `torch.compile`.

    Raises:
        InputError: an unknown ``mode`` or ``backend``.
    """

    def __init__(self, mode: Mode = "default", backend: str = "inductor") -> None:
        if mode not in get_args(Mode):
            raise InputError(f"CompileNetwork: mode={mode!r}: expected one of {', '.join(get_args(Mode))}")
        if backend not in list_backends(exclude_tags=None):
            raise InputError(f"CompileNetwork: backend={backend!r}: expected one of {', '.join(list_backends())}")
        self.mode: Mode = mode
        self.backend = backend

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compile, after the forecast, whose small batches are none to compile for."""
        options = {"mode": self.mode} if self.backend == "inductor" else {}
        cast(CapsuleNet, pl_module.net).compile(backend=self.backend, fullgraph=True, **options)
