"""The run's own record of its metrics: a CSV file to which rows are only ever added."""

from __future__ import annotations

import csv
import time
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from typing_extensions import override

from capsule_lightning.loggers.base import Placement


class MetricsFile(Logger):
    """Write ``metrics.csv``: one row for each number, ``time,step,metric,value``, with time in seconds since 1970.

    Rows are never rewritten, so that a resumed run continues the file and a killed one has lost nothing. To read it as
    a table with a column for each metric:
    ``pandas.read_csv(path).pivot_table("value", index="step", columns="metric")``.

    Args:
        save_dir: folder of the file; null for the run's folder.
    """

    def __init__(self, save_dir: str | None = None) -> None:
        super().__init__()
        self._folder = None if save_dir is None else Path(save_dir)

    def place(self, placement: Placement) -> None:
        """Write into the run's folder unless another one was given; see `PlacedLogger.place`."""
        self._folder = self._folder or placement.folder

    @property
    def path(self) -> Path:
        """Path of the file."""
        return (self._folder or Path()) / "metrics.csv"

    @property
    @override
    def name(self) -> str:
        return "metrics_file"

    @property
    @override
    def version(self) -> str:
        return ""  # there is one file for each run

    @override
    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", newline="") as file:
            writer = csv.writer(file)
            if file.tell() == 0:
                writer.writerow(("time", "step", "metric", "value"))
            now = f"{time.time():.3f}"
            writer.writerows((now, step, name, float(value)) for name, value in metrics.items() if name != "epoch")

    @override
    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the resolved configuration lies beside the file."""
