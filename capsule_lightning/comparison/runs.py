"""Read finished runs for a comparison, from their folders or from W&B.

Nothing here imports torch: `compare` answers as fast as the files can be read.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from capsule_lightning.errors import InputError, first_line, require
from capsule_lightning.runs.files import Curve, read_metrics, read_yaml
from capsule_lightning.runs.folders import CONFIG_NAME, expanded, flat

METRIC = "test/accuracy"
EVALUATIONS = ("validate", "test", "predict")
"""Job types of W&B runs that did not train."""


@dataclass(frozen=True)
class Run:
    """One run of a comparison.

    Attributes:
        name: folder of the run, or its id in W&B.
        config: values by the dotted keys of the command line.
        history: the curve of each metric; a step that was repeated after a resume has its last value.
        seconds: time from the start of training to the end of the test, without pauses between starts; None if unknown.
        test_images: number of test images; None if unknown.
        ended: whether the run was tested.
    """

    name: str
    config: dict[str, Any]
    history: dict[str, Curve]
    seconds: float | None
    test_images: int | None
    ended: bool

    def last(self, metric: str) -> float | None:
        """Return the last value of a metric; None without any."""
        curve = self.history.get(metric)
        return curve[max(curve)] if curve else None

    def best(self, metric: str) -> float | None:
        """Return the best value of a metric, the lowest if it is a loss; None without any."""
        values = self.history.get(metric, {}).values()
        return (min if lower_is_better(metric) else max)(values, default=None)


def lower_is_better(metric: str) -> bool:
    """Return whether lower values of a metric are better.

    Example:
        >>> lower_is_better("val/class_loss"), lower_is_better("test/brier"), lower_is_better("test/accuracy")
        (True, True, False)
    """
    return metric.endswith(("loss", "error", "brier"))


def find_runs(folders: Iterable[str | Path]) -> list[Path]:
    """Find the folders of runs.

    Args:
        folders: of runs, of experiments or of all experiments.

    Raises:
        InputError: a folder does not exist or holds no run.
    """
    found: dict[Path, None] = {}
    for name in folders:
        folder = expanded(name, "folder")
        require(folder.is_dir(), f"no folder {name}; expected that of a run, of an experiment or of all runs")
        configs = [config for depth in ("", "*/", "*/*/") for config in sorted(folder.glob(depth + CONFIG_NAME))]
        require(configs, f"{name}: no run in it; expected {CONFIG_NAME} in it or at most two folders below")
        found.update(dict.fromkeys(config.parent for config in configs))
    return list(found)


def read_run(folder: Path) -> Run:
    """Read a run from its folder.

    Raises:
        InputError: the configuration, metrics or confusion matrix of the run cannot be read.
    """
    config = read_yaml(folder / CONFIG_NAME, "the configuration of a run; otherwise move the run away")
    history, seconds = read_metrics(folder / "metrics.csv")
    ended = any(metric.startswith("test/") for metric in history)
    return Run(str(folder), dict(flat(config)), history, seconds, count_tested(folder / "confusion.csv"), ended)


def count_tested(path: Path) -> int | None:
    """Return how many images a confusion matrix counts; None if there is no such file.

    Raises:
        InputError: the file is not a confusion matrix.
    """
    if not path.is_file():
        return None
    try:
        with path.open(encoding="utf-8", errors="replace", newline="") as file:
            return sum(int(count) for row in list(csv.reader(file))[1:] for count in row[1:])
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path}: is not a confusion matrix ({first_line(error)}); remove it") from error


def read_wandb(project: str) -> list[Run]:
    """Read the training runs of a W&B project; a run that only tested a network is left out.

    Args:
        project: ``entity/project``.

    Raises:
        InputError: there is no API key, no network or no such project.
    """
    import wandb

    try:
        return [wandb_run(run) for run in wandb.Api().runs(project) if run.job_type not in EVALUATIONS]
    except Exception as error:  # W&B raises errors here that have no public name
        reason = " ".join(str(error).split())
        raise InputError(f"--wandb {project}: {reason}; expected ENTITY/PROJECT, after `wandb login`") from error


def wandb_run(run: Any) -> Run:
    """Convert a run of `wandb.Api`; steps are the trainer's."""
    history: dict[str, Curve] = {}
    for row in run.scan_history():
        step = row.get("trainer/global_step")
        step = row.get("_step") if step is None else step
        for metric, value in row.items():
            own = metric.startswith(("_", "trainer/")) or isinstance(value, bool)
            if isinstance(value, int | float) and not own and step is not None:
                history.setdefault(metric, {})[int(step)] = float(value)
    tested = any(metric.startswith("test/") for metric in history)
    seconds = run.summary.get("_runtime")
    return Run(run.id, dict(run.config), history, seconds, None, tested and run.state == "finished")
