"""Measure the time from the command to its end, and the test accuracy reached, for several seeds.

Runs ``python -m capsule_lightning fit`` as a user would, in a process of its own for each seed: start-up, training and
the final test are all in the time. W&B is as the environment has it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measure import add_config, config_words, parser, spread, write

from capsule_lightning.runs.files import read_metrics


def train(words: list[str], seed: int, runs: Path, limit: float | None) -> dict[str, Any]:
    """Train with one seed.

    Args:
        words: options of ``fit``.
        seed: seed of the run.
        runs: folder of the runs.
        limit: seconds after which to give up; None for no limit.

    Returns:
        Seconds, and the test accuracy of the run's ``metrics.csv``.
    """
    run_id = f"seed{seed}"
    own = ["--seed_everything", str(seed), "--runs", str(runs), "--run_id", run_id]
    before = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "capsule_lightning", "fit", *words, *own],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=limit,
        check=False,
    )
    seconds = time.perf_counter() - before
    if done.returncode != 0:
        raise SystemExit(f"seed {seed} ended with status {done.returncode}:\n{done.stdout[-3000:]}")
    (folder,) = runs.glob(f"*/{run_id}")
    return {"seed": seed, "seconds": seconds, "test_accuracy": last(folder / "metrics.csv", "test/accuracy")}


def last(path: Path, metric: str) -> float:
    """Return the last value of a metric in a run's ``metrics.csv``."""
    curve = read_metrics(path).history[metric]
    return curve[max(curve)]


def options() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parsed = parser("time_to_accuracy", __doc__)
    add_config(parsed)
    parsed.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="one run each (default: 0 1 2)")
    parsed.add_argument("--runs", type=Path, help="keep the runs in this folder (default: thrown away)")
    parsed.add_argument("--limit", type=float, help="seconds after which to give up a run")
    return parsed


def main() -> None:
    """Train, print each run and the mean, write the JSON."""
    arguments = options().parse_args()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    accelerator = "gpu" if arguments.device == "cuda" else "cpu"
    words = [*config_words(arguments), f"--trainer.accelerator={accelerator}"]
    with tempfile.TemporaryDirectory() as scratch:
        found = []
        for seed in arguments.seeds:
            found.append(train(words, seed, arguments.runs or Path(scratch), arguments.limit))
            print("seed {seed}: {seconds:.1f} s, test accuracy {test_accuracy:.4f}".format(**found[-1]), flush=True)
    seconds, accuracies = ([run[of] for run in found] for of in ("seconds", "test_accuracy"))
    mean = {"seconds": sum(seconds) / len(found), "test_accuracy": sum(accuracies) / len(found)}
    print("mean: {seconds:.1f} s, test accuracy {test_accuracy:.4f}".format(**mean))
    write(arguments, {"runs": found, "mean": mean, "seconds": spread(seconds), "test_accuracy": spread(accuracies)})


if __name__ == "__main__":
    main()
