"""What a network is made of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import lightning as L
import torch
from rich import box, get_console
from rich.table import Table
from torch import Tensor, nn
from typing_extensions import override

from capsule_lightning.callbacks.informing import Informing, undisturbed
from capsule_lightning.errors import require
from capsule_lightning.models.base import CapsuleNet


class Part(NamedTuple):
    """A part of a network.

    Attributes:
        name: its name in the network.
        kind: its class.
        shape: what it gives for one image, without the batch; empty if that is unknown.
        parameters: number of its learned values.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int


class NetworkSummary(Informing):
    """Print a table of the network's parts at the start of training: class, output for one image, parameters.

    Args:
        max_depth: levels of parts within parts; 1 for encoder, routing and decoder alone.

    Raises:
        InputError: ``max_depth`` below 1.
    """

    def __init__(self, max_depth: int = 2) -> None:
        require(max_depth >= 1, f"NetworkSummary: max_depth={max_depth}: must be at least 1")
        self.max_depth = max_depth

    @override
    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        net = getattr(pl_module, "net", pl_module)
        found = list(parts(net, self.max_depth))  # by all processes: parameters may be spread over them
        if not trainer.is_global_zero:
            return
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for column in ("part", "class"):
            table.add_column(column)
        table.add_column("output", justify="right")
        table.add_column("parameters", justify="right")
        for part in found:
            indented = "  " * part.name.count(".") + part.name.rpartition(".")[2]
            table.add_row(indented, part.kind, " x ".join(map(str, part.shape)), f"{part.parameters:,}")
        table.add_section()
        table.add_row("network", type(net).__name__, "", f"{number_of_parameters(net):,}")
        get_console().print(table)


def parts(net: nn.Module, max_depth: int) -> Iterator[Part]:
    """Yield the parts of a network that have parameters or an output, in their order.

    Args:
        net: the network.
        max_depth: levels of parts within parts.
    """
    shapes = output_shapes(net)
    for name, module in net.named_modules():
        shape, count = shapes.get(name, ()), number_of_parameters(module)
        if name and name.count(".") < max_depth and (count or name.count(".") == 0):
            yield Part(name, type(module).__name__, shape, count)


def number_of_parameters(module: nn.Module) -> int:
    """Return the number of learned values of a module, each counted once."""
    return sum(parameter.numel() for parameter in module.parameters())


def output_shapes(net: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return what the modules of a network give for one image, by name, as far as that can be tried.

    The network, its statistics and the random numbers are afterwards as before.
    """
    if not isinstance(net, CapsuleNet):
        return {}
    shapes: dict[str, tuple[int, ...]] = {}

    def note(name: str, output: Any) -> None:
        values = output if isinstance(output, tuple | list) else (output,)  # such as poses and activations
        if values and isinstance(values[0], Tensor):
            shapes[name] = tuple(values[0].shape[1:])

    hooks = [
        module.register_forward_hook(lambda module, given, output, name=name: note(name, output))
        for name, module in net.named_modules()
    ]
    first = next(net.parameters(), torch.empty(0))
    try:
        with suppress(Exception), torch.no_grad(), undisturbed(net):
            image = net.example_inputs(1).to(first.device)
            image = image.to(first.dtype) if image.is_floating_point() else image
            net.reconstruct(net(image), torch.zeros(1, dtype=torch.int64, device=first.device))
    finally:
        for hook in hooks:
            hook.remove()
    return shapes
