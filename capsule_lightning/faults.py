"""What ended a run, in one line."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator

import torch

from capsule_lightning.errors import InputError, StoppedError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LOST = re.compile(r"gloo|NCCL|Connection (closed|reset|refused)|connectFullMesh|Broken pipe|[Tt]imed out|TCPStore")


def explain(error: BaseException) -> InputError | StoppedError | None:
    """The message behind an exception, where it is one that a user can act on; None for a fault of the program."""
    chain = list(causes(error))
    for cause in chain:
        if isinstance(cause, InputError | StoppedError):  # the parser wraps what a constructor refuses
            return cause
    for cause in chain:
        if isinstance(cause, OSError) and cause.errno in _FULL:
            where = f" for {cause.filename}" if cause.filename else ""
            return StoppedError(
                f"no space is left{where} ({cause.strerror}); what was saved before is whole. Make room, then go on "
                "with: fit --resume"
            )
        if lost_process(cause):
            return StoppedError(
                f"another process of this run is gone or out of reach ({str(cause).strip().splitlines()[0][:200]}); "
                "go on from the last checkpoint with: fit --resume"
            )
    return None


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and those that led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def lost_process(error: BaseException) -> bool:
    """Whether an exception says that processes have lost touch with each other."""
    if isinstance(error, torch.distributed.DistNetworkError | torch.distributed.DistBackendError):
        return True
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return distributed and isinstance(error, RuntimeError) and bool(_LOST.search(str(error)))
