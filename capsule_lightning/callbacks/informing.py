"""Callbacks that only inform: whatever fails in one costs a line, and training continues without a change."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import distributed, nn

from capsule_lightning.errors import first_line


class Informing(L.Callback):
    """A callback that reports, draws or measures, and can neither end a run nor alter it.

    An exception in one of its hooks is reported in one line, once for each hook. What the processes of a run do
    together is the exception: if one has lost the others, that is not hidden.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Guard the hooks that a subclass defines."""
        super().__init_subclass__(**kwargs)
        for name, value in list(vars(cls).items()):
            if name.startswith("on_") and callable(value):
                setattr(cls, name, guarded(value))


def guarded(hook: Callable[..., Any]) -> Callable[..., Any]:
    """Return a hook whose exceptions are reported and not raised."""

    @functools.wraps(hook)
    def call(self: Informing, *args: Any, **kwargs: Any) -> Any:
        try:
            return hook(self, *args, **kwargs)
        except distributed.DistError:
            raise
        except Exception as error:
            told: set[str] = self.__dict__.setdefault("_told", set())
            if hook.__name__ not in told:
                told.add(hook.__name__)
                tell(f"{type(self).__name__} failed ({reason(error)}); training continues without it")
            return None

    return call


def reason(error: BaseException) -> str:
    """Return the first line of an error's message, shortened, after its type."""
    line = "".join(character if character.isprintable() else " " for character in first_line(error))
    return f"{type(error).__name__}: {line[:160]}"


def tell(message: str) -> None:
    """Print a line from the first process; nothing happens if the terminal is gone."""
    with suppress(OSError, ValueError):
        rank_zero_info(message)


@contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """Restore what a try of a module changes: the modes of its parts, its buffers, and the random numbers.

    Args:
        module: is in evaluation mode within the block.
    """
    modes = {part: part.training for part in module.modules()}
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    devices = {value.device for value in (*module.parameters(), *module.buffers()) if value.device.type == "cuda"}
    try:
        with torch.random.fork_rng(list(devices)):
            module.eval()
            yield
    finally:
        for part, training in modes.items():
            part.training = training
        for buffer, value in buffers:
            buffer.copy_(value)
