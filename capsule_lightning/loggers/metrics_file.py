"""The run's own record of its metrics: a CSV file to which rows are only ever added."""

from __future__ import annotations

import csv
import io
import os
import time
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from typing_extensions import override

from capsule_lightning.loggers.base import Placement
from capsule_lightning.runs.files import read_metrics


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
        now, rows = f"{time.time():.3f}", io.StringIO(newline="")
        writer = csv.writer(rows)
        writer.writerows((now, step, name, float(value)) for name, value in metrics.items() if name != "epoch")
        with self.path.open("ab+") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - 1, 0))
            begun = "time,step,metric,value\r\n" if size == 0 else "" if file.read(1) == b"\n" else "\r\n"
            file.write((begun + rows.getvalue()).encode())  # at once; half a row of a killed process has its own line

    @rank_zero_only
    def complete(self, metrics: Mapping[str, float], step: int) -> None:
        """Log what the file lacks of a step.

        Args:
            metrics: values by name.
            step: their step.
        """
        written = read_metrics(self.path).history
        self.log_metrics({name: value for name, value in metrics.items() if step not in written.get(name, {})}, step)

    @override
    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the resolved configuration lies beside the file."""
