"""Finished runs as they are compared, from their folders or from W&B.

Nothing here imports torch: `compare` answers as fast as the files can be read.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from capsule_lightning.errors import InputError
from capsule_lightning.runs.folders import CONFIG_NAME, flat

METRIC = "test/accuracy"
EVALUATIONS = ("validate", "test", "predict")
"""Job types of W&B runs that trained nothing."""

Curve = dict[int, float]
"""Values of one metric by step, ascending."""


@dataclass(frozen=True)
class Run:
    """A run as it is compared.

    Attributes:
        name: folder, or id in W&B.
        config: flat, with the keys of the command line.
        history: by metric; a step that was repeated after a resume has its last value.
        seconds: from the start of training to the end of the test, pauses between starts left out; None where unknown.
        test_images: None where unknown.
        ended: it was tested.
    """

    name: str
    config: dict[str, Any]
    history: dict[str, Curve]
    seconds: float | None
    test_images: int | None
    ended: bool

    def last(self, metric: str) -> float | None:
        """Its last value."""
        curve = self.history.get(metric)
        return curve[max(curve)] if curve else None

    def best(self, metric: str) -> float | None:
        """Its best value, the lowest of a loss."""
        values = self.history.get(metric, {}).values()
        return (min if falls(metric) else max)(values, default=None)


def falls(metric: str) -> bool:
    """Whether less of a metric is better.

    Example:
        >>> falls("val/class_loss"), falls("test/accuracy")
        (True, False)
    """
    return metric.endswith(("loss", "error"))


def find_runs(folders: Iterable[str | Path]) -> list[Path]:
    """Folders of runs: given themselves, as their experiment or as the folder of all experiments.

    Raises:
        InputError: a folder that is not there or holds no run.
    """
    found: dict[Path, None] = {}
    for name in folders:
        folder = Path(name).expanduser()
        if not folder.is_dir():
            raise InputError(f"no folder {name}; expected that of a run, of an experiment or of all runs")
        configs = [config for depth in ("", "*/", "*/*/") for config in sorted(folder.glob(depth + CONFIG_NAME))]
        if not configs:
            raise InputError(f"{name}: no run in it; expected {CONFIG_NAME} in it or at most two folders below")
        found.update(dict.fromkeys(config.parent for config in configs))
    return list(found)


def read_run(folder: Path) -> Run:
    """A run from its folder.

    Raises:
        InputError: a configuration that is no YAML mapping.
    """
    path = folder / CONFIG_NAME
    try:
        config = yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: cannot be read ({reason}); mend it, or move the run away") from error
    if not isinstance(config, dict):
        raise InputError(f"{path}: is no configuration of a run; mend it, or move the run away")
    history, seconds = read_metrics(folder / "metrics.csv")
    ended = any(metric.startswith("test/") for metric in history)
    return Run(str(folder), dict(flat(config)), history, seconds, count_tested(folder / "confusion.csv"), ended)


def read_metrics(path: Path) -> tuple[dict[str, Curve], float | None]:
    """Every metric of a run by step, and the seconds that it took.

    Each start of training begins with a row of ``parameters``; the time between two starts is not counted, and neither
    is a row that a kill has cut short.
    """
    history: dict[str, Curve] = {}
    seconds, begun, before = 0.0, None, None
    for line in path.read_text(errors="replace").splitlines(keepends=True) if path.is_file() else ():
        row = line.rstrip("\r\n").split(",")
        try:
            time, step, metric, value = float(row[0]), int(row[1]), row[2], float(row[3])
        except (ValueError, IndexError):
            continue
        if len(row) != 4 or not line.endswith("\n"):
            continue
        if begun is None or (metric == "parameters" and before is not None):
            seconds += 0.0 if begun is None or before is None else before - begun
            begun = time
        before = time
        history.setdefault(metric, {})[step] = value
    ascending = {metric: dict(sorted(curve.items())) for metric, curve in history.items()}
    return ascending, None if begun is None or before is None else seconds + before - begun


def count_tested(path: Path) -> int | None:
    """Images that a confusion matrix counts; None where there is no such file."""
    if not path.is_file():
        return None
    with path.open(newline="") as file:
        return sum(int(count) for row in list(csv.reader(file))[1:] for count in row[1:])


def read_wandb(project: str) -> list[Run]:
    """The training runs of a project in W&B, ``entity/project``; a test of a network by itself is none.

    Raises:
        InputError: no key, no network, no such project.
    """
    import wandb
    from wandb.sdk.lib.service.service_connection import WandbApiFailedError

    try:
        return [wandb_run(run) for run in wandb.Api().runs(project) if run.job_type not in EVALUATIONS]
    except (wandb.Error, WandbApiFailedError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"--wandb {project}: {reason}; expected ENTITY/PROJECT, after `wandb login`") from error


def wandb_run(run: Any) -> Run:
    """A run as `wandb.Api` gives it; its steps are the trainer's."""
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
