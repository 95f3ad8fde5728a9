"""SLURM sends SIGTERM to a job that ends or is queued again, also to processes that are leaving."""

import subprocess
import sys
from pathlib import Path

import pytest
from program import clean_environment

#: What is registered first is called last.
PROGRAM = """
import atexit, os, signal, sys
atexit.register(lambda: (os.kill(os.getpid(), signal.SIGTERM), print("still here", flush=True)))
from capsule_lightning.cli import main
main(["test"])
"""


@pytest.mark.nightly
def test_a_signal_to_a_process_that_is_leaving(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, env=clean_environment(tmp_path), capture_output=True, text=True
    )
    assert done.returncode == 2  # of wrong input: there is no checkpoint
    assert done.stdout == "still here\n"
    assert "Traceback" not in done.stderr
