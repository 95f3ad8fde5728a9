"""What a run will need, reported before it begins: parameters, multiply-adds and memory."""

from __future__ import annotations

import inspect
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NamedTuple

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.flop_counter import FlopCounterMode
from typing_extensions import override

from capsule_lightning.callbacks.informing import Informing, undisturbed
from capsule_lightning.data.module import DataModule
from capsule_lightning.tasks.base import Task

_FEW, _MORE = 2, 4  # images in the steps that are measured; batch normalization wants at least two
_COPIES = 4  # of the largest maps, at their way back: gradients in and out, and a convolution's own layout of both
_ADAMS_STATES = 2
_GIB = 2**30


class Needs(NamedTuple):
    """What one training step needs on one device.

    Attributes:
        parameters: number of learned values.
        multiply_adds: multiply-adds of matrix products and convolutions in the forward pass of one image, decoder
            included.
        fixed: bytes that do not depend on the batch: weights, gradients and the optimizer's state.
        per_image: bytes that each image of the batch adds: what the backward pass keeps, and room to work in.
    """

    parameters: int
    multiply_adds: int
    fixed: int
    per_image: int

    def memory(self, batch_size: int) -> int:
        """Return the expected peak in bytes, above what the program takes before training."""
        return self.fixed + batch_size * self.per_image

    def largest_batch(self, memory: int) -> int:
        """Return the largest batch that should fit into ``memory`` bytes; 0 if not even one image fits."""
        return max(0, (memory - self.fixed) // self.per_image)


class Forecast(Informing):
    """Report at the start of training how large the network is and how much memory a step is expected to take.

    If that is more than the device has left, a warning names the batch size that fits.
    """

    @override
    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure two small steps, and report."""
        data = getattr(trainer, "datamodule", None)
        if not isinstance(pl_module, Task) or not isinstance(data, DataModule):
            return
        if pl_module.example_batch(1) is None:
            return
        needs = forecast(pl_module, trainer.optimizers, trainer.precision_plugin.train_step_context())
        batch_size, left = data.batch_size // trainer.world_size, memory_left(pl_module.device)
        peak, noun = needs.memory(batch_size), data.example_name
        rank_zero_info(
            f"{needs.parameters:,} parameters, {needs.multiply_adds / 1e6:,.1f} M multiply-adds per {noun}\na step of "
            f"{batch_size} {noun}s should take {readable(peak)}"
            + ("" if left is None else f" of the {readable(left)} left on {pl_module.device}")
        )
        if left is not None and peak > left:
            fits = needs.largest_batch(left) * trainer.world_size
            rank_zero_warn(
                f"a step of {batch_size} {noun}s should take {readable(peak)} and {pl_module.device} has "
                f"{readable(left)} left: "
                + (f"--data.batch_size {fits} should fit" if fits else f"not even one {noun} should fit")
            )


def forecast(
    task: Task, optimizers: list[Optimizer] | None = None, precision: AbstractContextManager[object] | None = None
) -> Needs:
    """Measure what steps of two and of four images keep; task and random numbers are afterwards as before.

    Args:
        task: the task, on its device.
        optimizers: optimizers whose state is counted.
        precision: autocast of a training step.
    """
    weights = sum(p.numel() * p.element_size() for p in task.parameters())
    modes = {part: part.training for part in task.modules()}
    with undisturbed(task), precision or nullcontext():
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            _losses(task, 1)
        for part, training in modes.items():
            part.training = training
        few, more = (_kept(task, n) for n in (_FEW, _MORE))
    if len(few) != len(more):  # a step that keeps other tensors of other batches: known in all, not each by itself
        few, more = [sum(few)], [sum(more)]
    growth = [(b - a) // (_MORE - _FEW) for a, b in zip(few, more, strict=True)]
    constant = sum(few) - _FEW * sum(growth)
    return Needs(
        parameters=sum(p.numel() for p in task.parameters()),
        multiply_adds=counter.get_total_flops() // 2,
        fixed=weights * (2 + max(map(_states, optimizers or []), default=0)) + constant,
        per_image=max(1, sum(growth) + _COPIES * max(growth, default=0)),
    )


def readable(size: int) -> str:
    """Return a number of bytes in the unit that suits it.

    Example:
        >>> readable(3 * 2**29), readable(2**20)
        ('1.5 GiB', '1 MiB')
    """
    return f"{size / _GIB:.1f} GiB" if size >= _GIB else f"{size / 2**20:.0f} MiB"


def memory_left(device: torch.device) -> int | None:
    """Return the bytes that a device has left, or None if that is unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _losses(task: Task, size: int) -> dict[str, Tensor]:
    batch = task.example_batch(size)
    return task.losses(task.output(batch), batch)


def _kept(task: Task, size: int) -> list[int]:
    """Return the bytes of each tensor, other than weights, that a step keeps for its backward pass."""
    own = {p.untyped_storage().data_ptr() for p in task.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}  # held, so that no two of them share an address one after the other

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        _losses(task, size)
    return [storage.nbytes() for storage in kept.values()]


def _states(optimizer: Optimizer) -> int:
    """Return how many values an optimizer keeps for each parameter value, found by one step on a small one.

    If it cannot be made again or makes no such step, the answer is that of Adam.
    """
    probe = nn.Parameter(torch.zeros(2, 2))
    probe.grad = torch.zeros_like(probe)
    known = inspect.signature(type(optimizer)).parameters  # `defaults` may hold what a base class has added
    try:
        small = type(optimizer)([probe], **{k: v for k, v in optimizer.defaults.items() if k in known})
        small.step()
    except Exception:
        return _ADAMS_STATES
    return sum(isinstance(value, Tensor) and value.shape == probe.shape for value in small.state[probe].values())
