"""What costs time to make is made once for all pytest workers, and copied."""

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], Any]) -> tuple[Path, Any]:
    """Fill a folder by the first worker that asks for it; give each worker a copy of its own, which it may change.

    Args:
        factory: pytest's fixture ``tmp_path_factory``.
        name: of the folder.
        make: fills the folder that it is given, and returns what else there is to know; that is pickled.

    Returns:
        The copy, and what ``make`` has returned.
    """
    base = factory.getbasetemp()
    shared = (base.parent if base.name.startswith("popen-") else base) / "shared"  # a worker's name is popen-gw0
    shared.mkdir(exist_ok=True)
    with FileLock(shared / f"{name}.lock"):
        told = shared / f"{name}.pickle"
        if not told.exists():
            shutil.rmtree(shared / name, ignore_errors=True)  # left by a worker that failed
            (shared / name).mkdir()
            told.write_bytes(pickle.dumps(make(shared / name)))
    copy = factory.mktemp("copies") / name
    shutil.copytree(shared / name, copy, symlinks=True)
    return copy, pickle.loads(told.read_bytes())
