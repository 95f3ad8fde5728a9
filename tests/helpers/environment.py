"""The environment in which tests start the program."""

import os
from pathlib import Path

HELPERS = Path(__file__).parent


def clean_environment(home: Path) -> dict[str, str]:
    """Return the environment of someone with no W&B account, no data and one thread a process."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "CAPSULE_LIGHTNING", "SLURM", "PL_"))}
    own = {
        "HOME": str(home),
        "NETRC": str(home / "netrc"),
        "PYTHONPATH": os.pathsep.join((str(HELPERS), str(HELPERS.parents[1]))),
    }
    return {**kept, **own, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
