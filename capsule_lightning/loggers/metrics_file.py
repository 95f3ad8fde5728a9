"""The run's own record of its metrics: a CSV file that is only ever appended to."""

from __future__ import annotations

import csv
import time
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from capsule_lightning.loggers.base import Placement


class MetricsFile(Logger):
    """Writes ``metrics.csv``: one row a number, ``time,step,metric,value``, time in seconds since 1970.

    Rows are never rewritten, so that a resumed run continues the file and a killed one has lost nothing. As a table
    with a column for each metric: ``pandas.read_csv(path).pivot_table("value", index="step", columns="metric")``.

    Args:
        save_dir: folder of the file; null for the run's folder.
    """

    def __init__(self, save_dir: str | None = None) -> None:
        super().__init__()
        self._folder = None if save_dir is None else Path(save_dir)

    def place(self, placement: Placement) -> None:
        """See `PlacedLogger.place`."""
        self._folder = self._folder or placement.folder

    @property
    def path(self) -> Path:
        """The file."""
        return (self._folder or Path()) / "metrics.csv"

    @property
    def name(self) -> str:
        """Of the kind of logger."""
        return "metrics_file"

    @property
    def version(self) -> str:
        """There is one file a run."""
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append the numbers of one step."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", newline="") as file:
            writer = csv.writer(file)
            if file.tell() == 0:
                writer.writerow(("time", "step", "metric", "value"))
            now = f"{time.time():.3f}"
            writer.writerows((now, step, name, float(value)) for name, value in metrics.items() if name != "epoch")

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: the resolved configuration lies beside the file."""
