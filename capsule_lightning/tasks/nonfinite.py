"""Losses and gradients that are not finite: how one is noticed, and what is said of it."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

SKIPPING = "--model.skip_not_finite 10, which leaves such steps out"
OTHER_PRECISION = "--trainer.precision bf16-mixed, whose range is that of float32"

_FEW_NAMES, _FEW_IMAGES = 3, 8


class SeenBatch(NamedTuple):
    """What is kept of a batch until its gradients are used.

    Attributes:
        indices: ``(B)`` int64, positions in the stored set.
        sizes: ``(B)``, the Euclidean norm of each image.
        parts: the loss and its parts, by name.
    """

    indices: Tensor
    sizes: Tensor
    parts: dict[str, Tensor]


def poisoning(loss: Tensor) -> Tensor:
    """The same scalar, whose gradients are NaN where it is not finite; not a bit changes of a finite one.

    A process sees its own loss alone, but the gradients of all: what is NaN in one is so in their mean. Of a loss that
    is infinite, or of which a part is NaN, some gradients may well be finite.
    """
    return loss * (1 + (loss - loss).detach())


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether the Euclidean norm of all floating-point tensors together is finite.

    It is not where a number is NaN or infinite, nor where their squares exceed the range of float32: Adam's second
    moments would then be infinite. One reduction, and one wait for the device.

    Example:
        >>> all_finite([torch.ones(2), torch.zeros(3)]), all_finite([torch.tensor([1.0, float("nan")])])
        (True, False)
    """
    return bool(torch.nn.utils.get_total_norm([t for t in tensors if t.is_floating_point()]).isfinite())


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that are not `all_finite` each by itself."""
    return [name for name, tensor in tensors.items() if not all_finite([tensor])]


def first_few(names: Sequence[object], most: int) -> str:
    """The first names of a list, and how many more.

    Example:
        >>> first_few([3, 1, 4, 1, 5], 3), first_few("ab", 3)
        ('3, 1, 4 and 2 more', 'a, b')
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more


def loss_is_finite(batches: Iterable[SeenBatch]) -> bool:
    """Whether the losses of all batches are."""
    return all(bool(value.isfinite().all()) for batch in batches for value in batch.parts.values())


def account(batches: Sequence[SeenBatch]) -> str:
    """What one process saw in a step: its losses that are not finite, and its images.

    Of several batches whose gradients are summed, those with such a loss are told of, or else all.

    Example:
        >>> one = SeenBatch(torch.tensor([7, 2]), torch.tensor([1.0, float("nan")]), {"loss": torch.tensor(1.0)})
        >>> account([one])
        'a finite loss of images 7, 2 of the training set, of which 2 has pixels that are not finite'
    """
    bad = [batch for batch in batches if not loss_is_finite([batch])]
    told = bad or batches
    parts = [f"{name}={value.item():g}" for batch in bad for name, value in batch.parts.items() if not value.isfinite()]
    images = [index for batch in told for index in batch.indices.tolist()]
    broken = [index for batch in told for index in batch.indices[~batch.sizes.isfinite()].tolist()]
    text = f"{', '.join(dict.fromkeys(parts)) or 'a finite loss'} of images {first_few(images, _FEW_IMAGES)}"
    text += " of the training set"
    if broken:
        verb = "has" if len(broken) == 1 else "have"
        text += f", of which {first_few(broken, _FEW_IMAGES)} {verb} pixels that are not finite"
    return text


def finding(step: int, epoch: int, accounts: Sequence[str], gradients: Sequence[str]) -> str:
    """What is wrong with a step, in one sentence without its full stop.

    Args:
        step, epoch: counted from 0, as the metrics are.
        accounts: of each process, see `account`.
        gradients: names of the parameters whose gradients are not finite; none where only their sum is not.
    """
    if len(accounts) > 1:
        accounts = [f"process {rank}: {account}" for rank, account in enumerate(accounts)]
    named = f"the gradients of {first_few(gradients, _FEW_NAMES)}" if gradients else "the norm of all gradients"
    verb = "is" if not gradients else "are"
    return f"step {step} in epoch {epoch}: {'; '.join(accounts)}; {named} {verb} not finite"


def remedies(in_a_row: int, other: str, weights_are_good: bool, checkpoint: str) -> str:
    """What to do after a stop, in sentences.

    Args:
        in_a_row: steps that were not finite, the last one included.
        other: a remedy besides the usual two, where the weights are finite; empty for none.
        weights_are_good: whether the weights are finite.
        checkpoint: the last one; empty where there is none.
    """
    tries = ["a lower --model.optimizer.lr", "--trainer.gradient_clip_val 1"]
    if weights_are_good:
        state = "This step changed no weight, and they are finite"
        if other:
            tries.append(other)
    else:
        state = "The weights were not finite before it: an earlier update was too large"
    if in_a_row > 1:
        state = f"It is number {in_a_row} of such steps in a row. {state}"
    go_on = "No checkpoint is there yet: begin anew"
    if checkpoint:
        go_on = f"Go on with: fit --ckpt_path {shlex.quote(checkpoint)}"
        if not weights_are_good:
            go_on += ", or from an earlier one if its weights are not finite either"
    return f"{state}. Try {', '.join(tries[:-1])} or {tries[-1]}. {go_on}"


def last_checkpoint(trainer: L.Trainer) -> str:
    """Path of the newest checkpoint that a run has written, or of the one it began with; empty where there is none."""
    written = trainer.checkpoint_callback
    paths = [trainer.ckpt_path]
    if isinstance(written, ModelCheckpoint):
        paths = [written.last_model_path, written.best_model_path, *paths]
    return next((str(path) for path in paths if path and Path(path).is_file()), "")
