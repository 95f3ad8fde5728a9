"""Losses and gradients that are not finite: how one is noticed, what is left out, and what is reported."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from capsule_lightning.errors import StoppedError, require

SKIPPING = "--model.skip_not_finite 10, which leaves such steps out"
OTHER_PRECISION = "--trainer.precision bf16-mixed, whose range is that of float32"

_FEW_NAMES, _FEW_EXAMPLES = 3, 8
_SCALER_SEARCH = 20  # steps that a gradient scaler may take to find its scale: from 2^16 on, far beyond any need
_IN_CHECKPOINT = "not_finite_in_a_row"


class SeenBatch(NamedTuple):
    """What is kept of a batch until its gradients are used.

    Attributes:
        indices: ``(B)`` int64, positions in the stored set; None if the batch does not have them.
        sizes: ``(B)``, the Euclidean norm of each example's input; None if inputs are not floating-point tensors.
        losses: the loss and its parts, by name.
    """

    indices: Tensor | None
    sizes: Tensor | None
    losses: Mapping[str, Tensor]


def seen(batch: Any) -> SeenBatch:
    """Return what to keep of a batch before its losses are known.

    Args:
        batch: a tuple whose first tensor ``(B, ...)`` is the input of the network; its ``indices (B)``, if it has that
            field, are the positions of the examples in the stored set.
    """
    inputs, indices = batch[0] if isinstance(batch, tuple | list) else batch, getattr(batch, "indices", None)
    sizes = None
    if isinstance(inputs, Tensor) and inputs.is_floating_point():
        sizes = torch.linalg.vector_norm(inputs.reshape(len(inputs), -1), dim=1)
    return SeenBatch(indices, sizes, {})


class NonFiniteGuard(L.Callback):
    """Leaves a step out, or stops the run, when losses or gradients are NaN or infinite.

    A task brings its guard along, see `Task.configure_callbacks`; every trainer that trains the task has it.

    Args:
        skip: steps in a row that are left out without any update; one more ends the run. 0 ends it at the first.

    Raises:
        InputError: a negative ``skip``.
    """

    def __init__(self, skip: int = 0) -> None:
        require(skip >= 0, f"skip_not_finite={skip}: expected 0 or a number of steps")
        self.skip = skip
        self._in_a_row = 0
        self._seen: list[SeenBatch] = []  # since the last step of the optimizer
        self._buffers_before: dict[str, Tensor] = {}

    @override
    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._seen = []
            if self.skip:  # the running statistics of a batch that is left out must not stay
                self._buffers_before = {name: buffer.clone() for name, buffer in pl_module.named_buffers()}
        self._seen.append(seen(batch))

    @override
    def on_after_backward(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        losses: Mapping[str, Tensor] = pl_module.step_losses  # type: ignore[assignment]
        self._seen[-1] = self._seen[-1]._replace(losses=losses)

    @override
    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        """Leave the step out, or stop the run, if gradients are not finite.

        The gradients of all batches since the last step are examined, before they are clipped. All processes have the
        same gradients and decide alike. A gradient scaler leaves such steps out by itself, and causes some while it
        searches for a scale: as long as the losses are finite, it is given 20 in a row.

        Raises:
            StoppedError: there are more of them in a row than ``skip``, or the weights themselves are not finite.
        """
        if all_finite(p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None):
            self._in_a_row = 0
            return
        self._in_a_row += 1
        in_a_row, allowed = self._in_a_row, self.skip
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        scaled_too_far = scaler is not None and bool(
            trainer.strategy.reduce_boolean_decision(losses_are_finite(self._seen))
        )
        if scaled_too_far:
            allowed = max(_SCALER_SEARCH, self.skip) - 1
        weights_are_good = all_finite(pl_module.parameters())
        if scaled_too_far and weights_are_good and in_a_row <= allowed:
            return
        gradients = not_finite({name: p.grad for name, p in pl_module.named_parameters() if p.grad is not None})
        found = finding(trainer.global_step, trainer.current_epoch, self._accounts(trainer), gradients)
        if in_a_row > allowed or not weights_are_good:
            self._in_a_row = 0
            other = OTHER_PRECISION if scaled_too_far else SKIPPING if not self.skip else ""
            raise StoppedError(f"{found}. {remedies(in_a_row, other, weights_are_good, last_checkpoint(trainer))}")
        rank_zero_warn(f"left out {found} ({in_a_row} in a row; more than {allowed} end the run)")
        share = 1 / trainer.world_size  # summed over processes it is one step
        pl_module.log("train/skipped_steps", share, on_step=False, on_epoch=True, reduce_fx="sum", sync_dist=True)
        buffers = dict(pl_module.named_buffers())
        for name, before in self._buffers_before.items():
            buffers[name].copy_(before)
        if scaler is None:  # a scaler has seen the gradients, and expects to find them
            for parameter in pl_module.parameters():
                parameter.grad = None

    def _accounts(self, trainer: L.Trainer) -> list[str]:
        accounts = [account(self._seen)]
        if trainer.world_size > 1:
            accounts *= trainer.world_size
            torch.distributed.all_gather_object(accounts, accounts[0])
        return accounts

    @override
    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[_IN_CHECKPOINT] = self._in_a_row

    @override
    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self._in_a_row = checkpoint.get(_IN_CHECKPOINT, 0)


def nan_gradients_unless_finite(loss: Tensor) -> Tensor:
    """Return the same scalar, with gradients that are NaN if it is not finite; of a finite one, not a bit changes.

    A process sees only its own loss, but the gradients of all: what is NaN in one of them is NaN in their mean. If a
    loss is infinite, or a part of it is NaN, some of its gradients may well be finite.
    """
    return loss * (1 + (loss - loss).detach())


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Return whether the Euclidean norm of all floating-point tensors together is finite.

    It is not if a number is NaN or infinite, nor if their squares exceed the range of float32: Adam's second moments
    would then be infinite. This takes one reduction, and one wait for the device.

    Example:
        >>> all_finite([torch.ones(2), torch.zeros(3)]), all_finite([torch.tensor([1.0, float("nan")])])
        (True, False)
    """
    return bool(torch.nn.utils.get_total_norm([t for t in tensors if t.is_floating_point()]).isfinite())


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the tensors that, each by itself, are not `all_finite`."""
    return [name for name, tensor in tensors.items() if not all_finite([tensor])]


def first_few(names: Sequence[object], most: int) -> str:
    """Return the first names of a list, and how many more there are.

    Example:
        >>> first_few([3, 1, 4, 1, 5], 3), first_few("ab", 3)
        ('3, 1, 4 and 2 more', 'a, b')
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more


def losses_are_finite(batches: Iterable[SeenBatch]) -> bool:
    """Return whether the losses of all batches are finite."""
    return all(bool(value.isfinite().all()) for batch in batches for value in batch.losses.values())


def account(batches: Sequence[SeenBatch]) -> str:
    """Return what one process saw in a step: its losses that are not finite, and its examples.

    If the gradients of several batches are summed, those with such a loss are named, or all if there are none.

    Example:
        >>> one = SeenBatch(torch.tensor([7, 2]), torch.tensor([1.0, float("nan")]), {"loss": torch.tensor(1.0)})
        >>> account([one])
        'a finite loss of examples 7, 2 of the training set, of which 2 has inputs that are not finite'
    """
    bad = [batch for batch in batches if not losses_are_finite([batch])]
    told = bad or batches
    losses = [f"{name}={x.item():g}" for batch in bad for name, x in batch.losses.items() if not x.isfinite()]
    examples, broken = [], []
    for batch in told:
        if batch.indices is not None:
            examples += batch.indices.tolist()
            broken += [] if batch.sizes is None else batch.indices[~batch.sizes.isfinite()].tolist()
    text = ", ".join(dict.fromkeys(losses)) or "a finite loss"
    if examples:
        text += f" of examples {first_few(examples, _FEW_EXAMPLES)} of the training set"
    if broken:
        verb = "has" if len(broken) == 1 else "have"
        text += f", of which {first_few(broken, _FEW_EXAMPLES)} {verb} inputs that are not finite"
    return text


def finding(step: int, epoch: int, accounts: Sequence[str], gradients: Sequence[str]) -> str:
    """Return what is wrong with a step, as one sentence without its full stop.

    Args:
        step, epoch: counted from 0, as the metrics are.
        accounts: what each process saw, see `account`.
        gradients: names of the parameters whose gradients are not finite; empty if only their sum is not.
    """
    if len(accounts) > 1:
        accounts = [f"process {rank}: {account}" for rank, account in enumerate(accounts)]
    named = f"the gradients of {first_few(gradients, _FEW_NAMES)}" if gradients else "the norm of all gradients"
    verb = "is" if not gradients else "are"
    return f"step {step} in epoch {epoch}: {'; '.join(accounts)}; {named} {verb} not finite"


def remedies(in_a_row: int, other: str, weights_are_good: bool, checkpoint: str) -> str:
    """Return what to do after a stop, in sentences.

    Args:
        in_a_row: steps in a row that were not finite, the last one included.
        other: a remedy besides the usual two, if the weights are finite; empty for none.
        weights_are_good: whether the weights are finite.
        checkpoint: path of the last one; empty if there is none.
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
    resume = "There is no checkpoint yet: start again"
    if checkpoint:
        resume = f"Resume with: fit --ckpt_path {shlex.quote(checkpoint)}"
        if not weights_are_good:
            resume += ", or from an earlier one if its weights are not finite either"
    return f"{state}. Try {', '.join(tries[:-1])} or {tries[-1]}. {resume}"


def last_checkpoint(trainer: L.Trainer) -> str:
    """Return the path of the newest checkpoint that a run wrote, or of the one it began with; empty if none exists."""
    written = trainer.checkpoint_callback
    paths = [trainer.ckpt_path]
    if isinstance(written, ModelCheckpoint):
        paths = [written.last_model_path, written.best_model_path, *paths]
    return next((str(path) for path in paths if path and Path(path).is_file()), "")
