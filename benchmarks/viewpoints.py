"""Train pose networks on one viewpoint and measure them on others: capsules beside the control of equal size.

Each network is trained by ``python -m capsule_lightning fit --config pose.yaml`` on bodies that are seen from the
front, and the best state on validation clips of that viewpoint is tested on the same new clips from the front, from
azimuths of 30, 60 and 90 degrees and from the top. A run that was cut off goes on where it was, and one that is done
is not repeated, nor are its tests: the measurement may be made in pieces, by ``--minutes`` or by networks and seeds.
Means over seeds have 95 % intervals of Student's t; so has the difference of two networks that share their seeds.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from measure import parser, write
from scipy.stats import t as student

from capsule_lightning.cli.configs import resolve
from capsule_lightning.components.build import build
from capsule_lightning.components.run_config import read_run_config
from capsule_lightning.runs.checkpoint_files import FOLDER, LAST

NETWORKS: Mapping[str, Sequence[str]] = {
    "capsules": (),
    "cnn": ("--config", "model/pose_cnn.yaml"),
    "uniform": ("--config", "routing/uniform.yaml"),
}
"""Options of ``fit`` for each network."""
FLAT = (-5.0, 5.0)
VIEWS: Mapping[str, Mapping[str, tuple[float, float]]] = {
    "front": {"azimuth": (-10.0, 10.0), "elevation": FLAT},
    "30 degrees": {"azimuth": (30.0, 30.0), "elevation": FLAT},
    "60 degrees": {"azimuth": (60.0, 60.0), "elevation": FLAT},
    "90 degrees": {"azimuth": (90.0, 90.0), "elevation": FLAT},
    "top": {"azimuth": (-10.0, 10.0), "elevation": (90.0, 90.0)},
}
"""Cameras of each test; the first are those of the training."""
EXPERIMENT = "viewpoints"


def train(network: str, seed: int, words: Sequence[str], runs: Path) -> Path:
    """Train a network with one seed, go on with its run, or take it as it is if it is done; return its folder."""
    run_id = f"{network}-{seed}"
    folder = runs / EXPERIMENT / run_id
    if (folder / "done").exists():
        return folder
    begun = (folder / FOLDER / LAST).is_file()
    own = ["--seed_everything", str(seed), "--data.draw", str(seed), "--experiment", EXPERIMENT, "--run_id", run_id]
    fresh = [
        "--config",
        "pose.yaml",
        *NETWORKS[network],
        *words,
        *own,
        "--runs",
        str(runs),
        "--test_after_fit",
        "false",
    ]
    given = ["--resume", str(folder)] if begun else fresh
    done = subprocess.run(
        [sys.executable, "-m", "capsule_lightning", "fit", *given],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"{run_id} ended with status {done.returncode}:\n{done.stdout[-3000:]}")
    (folder / "done").touch()
    return folder


def seen(folder: Path) -> dict[str, dict[str, float]]:
    """Return the test metrics of the best state of a run, by viewpoint; they are kept in its folder."""
    kept = folder / "views.json"
    if kept.exists():
        before: dict[str, dict[str, float]] = json.loads(kept.read_text())
        if [*before] == [*VIEWS]:
            return before
    (best,) = (path for path in (folder / FOLDER).glob("epoch*.ckpt"))
    state = torch.load(best, map_location="cpu", weights_only=True)["state_dict"]
    found = {}
    for view, camera in VIEWS.items():
        config = read_run_config(folder)
        config["data"]["init_args"] |= {name: list(ends) for name, ends in camera.items()}
        experiment = build(config)
        experiment.task.load_state_dict(state)
        trainer = L.Trainer(logger=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu")
        (metrics,) = trainer.test(experiment.task, datamodule=experiment.data, verbose=False)
        found[view] = {name.removeprefix("test/"): float(value) for name, value in metrics.items()}
    kept.write_text(json.dumps(found))
    return found


def interval(values: Sequence[float]) -> dict[str, float | int | None]:
    """Return mean and 95 % interval of values that are normally distributed; no interval of a single one.

    Example:
        >>> {name: value and round(value, 3) for name, value in interval([1.0, 2.0, 3.0]).items()}
        {'mean': 2.0, 'low': -0.484, 'high': 4.484, 'count': 3}
    """
    middle = statistics.fmean(values)
    if len(values) < 2:
        return {"mean": middle, "low": None, "high": None, "count": len(values)}
    half = float(student.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
    return {"mean": middle, "low": middle - half, "high": middle + half, "count": len(values)}


def summary(found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return means with intervals by viewpoint, metric and network, and of the difference to the first network.

    Args:
        found: by network and by seed as text, what `seen` returns.
    """
    told: dict[str, Any] = {}
    first, *others = found
    for view in VIEWS:
        told[view] = {}
        for metric in next(iter(found[first].values()))[view]:
            values = {name: {seed: run[view][metric] for seed, run in runs.items()} for name, runs in found.items()}
            means: dict[str, Any] = {name: interval([*each.values()]) for name, each in values.items()}
            for other in others:
                gaps = [values[first][seed] - values[other][seed] for seed in values[first] if seed in values[other]]
                if gaps:
                    means[f"{first} - {other}"] = interval(gaps)
            told[view][metric] = means
    return told


def in_words(mean: Mapping[str, Any], times: float = 1.0) -> str:
    """Return a mean and its interval."""
    if mean["low"] is None:
        return f"{times * mean['mean']:.2f}"
    return f"{times * mean['mean']:.2f} ({times * mean['low']:.2f} to {times * mean['high']:.2f})"


def options() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parsed = parser("viewpoints", __doc__)
    parsed.add_argument("--networks", nargs="+", choices=[*NETWORKS], default=["capsules", "cnn"])
    parsed.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="one run each (default: 0 1 2)")
    parsed.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs (default: runs)")
    parsed.add_argument(
        "--minutes", type=float, default=float("inf"), help="begin no other run after so many (default: no end)"
    )
    parsed.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", help="options of fit, such as trainer.max_epochs=5"
    )
    return parsed


def main() -> None:
    """Train what is not trained, measure, print, and write the JSON after each run."""
    arguments = options().parse_args()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    torch.set_num_threads(arguments.threads)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    words = [word for each in arguments.set for word in (f"--{each.partition('=')[0]}", each.partition("=")[2])]
    resolve(["fit", "--config", "pose.yaml", *words])  # refuses a wrong option before anything is trained
    found: dict[str, dict[str, Any]] = {}
    end = time.monotonic() + 60 * arguments.minutes
    for seed in arguments.seeds:
        for network in arguments.networks:
            if time.monotonic() > end:
                print(f"{network}-{seed} is left: call it again to go on", flush=True)
                return
            folder = train(network, seed, words, arguments.runs)
            found.setdefault(network, {})[str(seed)] = seen(folder)
            print(f"{folder.name}: " + ", ".join(
                f"{view} {100 * metrics['pck20_box']:.1f} %" for view, metrics in found[network][str(seed)].items()
            ), flush=True)  # fmt: skip
            write(arguments, {"runs": found, "summary": summary(found)})
    for view, metrics in summary(found).items():
        for name, mean in metrics["pck20_box"].items():
            print(f"{view:<11} {name:<15} PCK@0.2 of the box {in_words(mean, 100)} %")


if __name__ == "__main__":
    main()
