"""A kill at a random moment leaves nothing behind and changes nothing, whatever kind of run it meets."""

import subprocess
import sys
from pathlib import Path

import pytest
from kills import KINDS

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "kills.py"


@pytest.mark.nightly
@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_run_ends_as_if_nothing_had_happened(kind: str) -> None:
    words = (sys.executable, str(PROGRAM), "--count", "1", "--kind", kind)
    done = subprocess.run(words, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
