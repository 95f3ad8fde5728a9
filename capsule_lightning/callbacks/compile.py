"""Compilation of the network."""

from __future__ import annotations

from typing import Literal, cast, get_args

import lightning as L
from torch.compiler import list_backends
from typing_extensions import override

from capsule_lightning.errors import require
from capsule_lightning.models.base import CapsuleNet

Mode = Literal["default", "reduce-overhead", "max-autotune"]


class CompileNetwork(L.Callback):
    """Compile the network by `torch.compile`, in place, so that checkpoints are those of the plain network.

    Training batches are all of one size and make one graph. Validation makes another, and a last batch of another size
    one more, which serves every size. Compilation takes up to some minutes; it pays for long runs, above all on GPUs.

    Args:
        mode: see `torch.compile`; ``reduce-overhead`` replays CUDA graphs.
        backend: see `torch.compile`.

    Raises:
        InputError: an unknown ``mode`` or ``backend``.
    """

    def __init__(self, mode: Mode = "default", backend: str = "inductor") -> None:
        require(mode in get_args(Mode), f"CompileNetwork: mode={mode!r}: expected one of {', '.join(get_args(Mode))}")
        require(
            backend in list_backends(exclude_tags=()),
            f"CompileNetwork: backend={backend!r}: expected one of {', '.join(list_backends())}",
        )
        self.mode: Mode = mode
        self.backend = backend

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compile the network, after the forecast, whose small batches are not worth graphs of their own."""
        options = {"mode": self.mode} if self.backend == "inductor" else {}
        cast(CapsuleNet, pl_module.net).compile(backend=self.backend, fullgraph=True, **options)
