"""What ended a run is told in a line if a user can act on it, and is a fault of the program otherwise."""

import errno

import pytest
import torch

from capsule_lightning.cli.faults import as_user_error
from capsule_lightning.errors import InputError, StoppedError


def raised(error: BaseException, module: str = "mine") -> BaseException:
    """The error as a function of a module raises it."""
    space: dict = {"__name__": module}
    exec("def fail(error):\n    raise error", space)
    with pytest.raises(type(error)) as found:
        space["fail"](error)
    return found.value


LOST = RuntimeError("[gloo] Connection closed by peer [127.0.0.1]:5\nand more")


@pytest.mark.parametrize(
    ("error", "module", "kind", "said"),
    [
        (KeyError("exp_avg"), "torch.optim.adam", InputError, "of another optimizer, whose state has no 'exp_avg'"),
        (ValueError("Invalid lr."), "torch.optim.sgd", InputError, "model.optimizer: Invalid lr;"),
        (ValueError("no such thing."), "lightning.pytorch.trainer", InputError, "no such thing; correct that option"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "mine", StoppedError, "no memory is left"),
        (MemoryError(), "mine", StoppedError, "no memory is left (MemoryError); choose a smaller --data.batch_size"),
        (MemoryError("Unable to allocate 9 GiB for an array"), "numpy", StoppedError, "allocate 9 GiB for an array); "),
        (OSError(errno.ENOSPC, "No space", "a.ckpt"), "mine", StoppedError, "no space is left for a.ckpt"),
        (OSError(errno.EACCES, "Denied", "x" * 200), "mine", InputError, f"{'x' * 80}...: cannot be used (Denied)"),
        (torch.distributed.DistNetworkError("the port is taken"), "mine", StoppedError, "another process of this run"),
        (torch.distributed.DistBackendError("NCCL error"), "mine", StoppedError, "resume from the last checkpoint"),
        (KeyError("exp_avg"), "mine", None, ""),
        (ValueError("no such thing."), "mine", None, ""),
        (RuntimeError("no such thing."), "lightning.pytorch.trainer", None, ""),
        (OSError(errno.EIO, "Broken", "a.ckpt"), "mine", None, ""),
        (LOST, "mine", None, ""),  # nothing is shared with other processes
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_faults_are_told_from_what_a_user_can_act_on(
    error: BaseException, module: str, kind: type[BaseException] | None, said: str
) -> None:
    found = as_user_error(raised(error, module))
    if kind is None:
        assert found is None
    else:
        assert type(found) is kind
        assert said in str(found)
        assert "\n" not in str(found)


def test_a_process_that_is_gone_is_told_where_several_train(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    found = as_user_error(raised(LOST))
    assert isinstance(found, StoppedError)
    assert "(gloo] Connection" not in str(found)
    assert "Connection closed by peer" in str(found)
    assert as_user_error(raised(RuntimeError("shapes differ"))) is None


def test_what_the_parser_wraps_is_what_is_told() -> None:
    inner = InputError("dim=0: expected at least 1")
    outer = ValueError("the parser says more")
    outer.__cause__ = inner
    inner.__context__ = outer  # a chain that leads back to where it began
    assert as_user_error(outer) is inner
