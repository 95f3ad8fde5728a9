"""Functions in C that are compiled for the machine at hand when they are first needed.

Nothing compiled is kept: each process compiles what it needs, in a folder of its own that is gone at once, which takes
less than a second. So nobody else's code is run, and no file is met by another processor than it was made for.
Without a compiler there is none of it; whoever asks has another way.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import subprocess
import tempfile
from functools import cache
from pathlib import Path

_OPTIONS = "-std=gnu11 -O3 -march=native -ffp-contract=fast -fno-math-errno -fopenmp -fPIC"
_PATIENCE = 60  # seconds


@cache
def compile_c(source: str, constants: tuple[tuple[str, str | int], ...]) -> ctypes.CDLL | str:
    """Compile a C file of this folder and load it.

    The compiler is ``cc``, or what the environment variable ``CC`` says. Parallel loops run on the threads that torch
    has: the library is not linked to a runtime of OpenMP, and finds the one that torch has loaded.

    Args:
        source: name of the file.
        constants: names and values of macros.

    Returns:
        The library, or in a few words why there is none.
    """
    macros = [f"-D{name}={value}" for name, value in constants]
    code = str(Path(__file__).with_name(source))
    try:
        compiler = shlex.split(os.environ.get("CC", "")) or ["cc"]
        with tempfile.TemporaryDirectory(prefix="capsule_lightning-", ignore_cleanup_errors=True) as folder:
            compiled, library = f"{folder}/compiled.o", f"{folder}/compiled.so"
            for command in (
                [*compiler, *shlex.split(_OPTIONS), *macros, "-c", code, "-o", compiled],
                [*compiler, "-shared", compiled, "-o", library],
            ):
                subprocess.run(command, check=True, capture_output=True, text=True, errors="replace", timeout=_PATIENCE)
            return ctypes.CDLL(library)
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines()
        return f"{error.cmd[0]} failed: {lines[0] if lines else f'status {error.returncode}'}"
    except subprocess.TimeoutExpired as error:
        return f"{error.cmd[0]} took more than {error.timeout} s"
    except (OSError, ValueError) as error:  # no such program, no folder that may be used, quotes that do not close
        return str(error)
