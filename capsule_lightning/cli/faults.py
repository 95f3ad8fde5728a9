"""Describe in one line what ended a run."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from capsule_lightning.errors import InputError, StoppedError

_MEMORY = re.compile(r"can't allocate memory|out of memory|failed to allocate", re.I)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSED = (
    errno.ENAMETOOLONG,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENOENT,
    errno.EINVAL,
)
"""What a file system says to a path that it cannot use."""
_LONGEST = 80
_LOST = re.compile(r"gloo|NCCL|Connection (closed|reset|refused)|connectFullMesh|Broken pipe|[Tt]imed out|TCPStore")


def as_user_error(error: BaseException) -> InputError | StoppedError | None:
    """Return the message behind an exception if a user can act on it; None for a fault of the program."""
    chain = list(causes(error))
    for cause in chain:
        if isinstance(cause, InputError | StoppedError):  # the parser wraps what a constructor refuses
            return cause
    for cause in chain:
        if isinstance(cause, MisconfigurationException) or _lightning_refuses(cause):
            return InputError(f"{first_sentences(cause)}; correct that option, `fit --help_all` says what it takes")
        if isinstance(cause, KeyError) and _raised_in(cause, "torch.optim"):
            return InputError(
                f"the checkpoint is of another optimizer, whose state has no {cause}: give the --model.optimizer that "
                "it was trained with"
            )
        if isinstance(cause, ValueError | TypeError | RuntimeError) and _raised_in(cause, "torch.optim"):
            return InputError(f"model.optimizer: {first_sentences(cause)}; choose another, such as torch.optim.AdamW")
        if isinstance(cause, MemoryError) or (isinstance(cause, RuntimeError) and _MEMORY.search(str(cause))):
            return StoppedError(
                f"no memory is left ({first_sentences(cause)}); choose a smaller --data.batch_size or network"
            )
        if isinstance(cause, OSError) and cause.errno in _FULL:
            where = f" for {cause.filename}" if cause.filename else ""
            return StoppedError(
                f"no space is left{where} ({cause.strerror}); what was saved before is whole. Make room, then "
                "resume with: fit --resume"
            )
        if isinstance(cause, OSError) and cause.filename and cause.errno in _REFUSED:
            name = str(cause.filename)
            shown = name if len(name) <= _LONGEST else f"{name[:_LONGEST]}..."
            return InputError(f"{shown}: cannot be used ({cause.strerror}); give another path, or the right to use it")
        if lost_process(cause):
            return StoppedError(
                f"another process of this run is gone or out of reach ({str(cause).strip().splitlines()[0][:200]}); "
                "resume from the last checkpoint with: fit --resume"
            )
    return None


def first_sentences(error: BaseException) -> str:
    """Return the first sentences of a message, as far as they are short.

    Example:
        >>> first_sentences(ValueError("`x` is wrong." + chr(10) + "Details."))
        '`x` is wrong. Details'
    """
    words = " ".join(str(error).split()) or type(error).__name__
    end = words.find(". ", 100)
    return (words if end < 0 else words[:end])[:300].rstrip(".!; ")


def _lightning_refuses(error: BaseException) -> bool:
    return isinstance(error, ValueError) and _raised_in(error, "lightning.")


def _raised_in(error: BaseException, package: str) -> bool:
    """Return whether the function that raised an exception lies in a package."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and str(trace.tb_frame.f_globals.get("__name__", "")).startswith(package)


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and those that led to it."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:  # a chain may lead back to where it began
        yield error
        seen.append(error)
        error = error.__cause__ or error.__context__


def lost_process(error: BaseException) -> bool:
    """Return whether an exception means that processes have lost touch with each other."""
    if isinstance(error, torch.distributed.DistNetworkError | torch.distributed.DistBackendError):
        return True
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return distributed and isinstance(error, RuntimeError) and bool(_LOST.search(str(error)))
