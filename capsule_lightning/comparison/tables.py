"""A comparison as a table in the terminal, as CSV and as learning curves."""

from __future__ import annotations

import csv
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from capsule_lightning.comparison.groups import MISSING, Comparison, Group
from capsule_lightning.comparison.runs import Run
from capsule_lightning.comparison.verdict import verdict
from capsule_lightning.errors import InputError

WIDE = 200  # columns of a table that goes into a file


def shown(metric: str, value: float | None, deviation: float | None = None) -> str:
    """A metric in a table, with its deviation where there is one.

    Example:
        >>> shown("test/accuracy", 0.987, 0.004), shown("test/loss", 0.5)
        ('98.70 ± 0.40 %', '0.5')
    """
    if value is None:
        return MISSING
    scale, form, unit = (100, ".2f", " %") if metric.endswith("accuracy") else (1, ".4g", "")
    spread = "" if deviation is None else f" ± {scale * deviation:{form}}"
    return f"{scale * value:{form}}{spread}{unit}"


class Costs(NamedTuple):
    """What the runs of a group cost; None where no run says.

    Attributes:
        validation: mean of the best validations.
        parameters: of the first run.
        without_decoder: of the first run.
        images_per_second: mean over runs of the median epoch: the first one warms up.
        memory: bytes, the most of any run.
        seconds: mean.
    """

    validation: float | None
    parameters: float | None
    without_decoder: float | None
    images_per_second: float | None
    memory: float | None
    seconds: float | None


def costs(group: Group, validation: str) -> Costs:
    """Best validation and cost of a group."""
    speeds = [list(run.history.get("images_per_second", {}).values()) for run in group.runs]
    return Costs(
        mean(run.best(validation) for run in group.runs),
        group.runs[0].last("parameters"),
        group.runs[0].last("parameters_without_decoder"),
        mean(statistics.median(speed) for speed in speeds if speed),
        max((most for run in group.runs if (most := highest(run, "peak_memory_bytes")) is not None), default=None),
        mean(run.seconds for run in group.runs),
    )


def highest(run: Run, metric: str) -> float | None:
    """The largest value of a metric."""
    return max(run.history.get(metric, {}).values(), default=None)


def mean(values: Iterable[float | None]) -> float | None:
    """Of those that are known."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def table(comparison: Comparison) -> Table:
    """The comparison for a terminal, the best group first."""
    made = Table(box=None, padding=(0, 2, 0, 0))
    for name in comparison.names:
        made.add_column(name, overflow="fold")
    heads = (
        "runs",
        comparison.metric,
        f"best {comparison.validation}",
        "parameters",
        "images/s",
        "peak memory",
        "time",
    )
    for head in heads:
        made.add_column(head, justify="right", no_wrap=True)
    for group in comparison.groups:
        cost = costs(group, comparison.validation)
        made.add_row(
            *group.values,
            str(len(group.runs)),
            shown(comparison.metric, group.mean, group.deviation),
            shown(comparison.validation, cost.validation),
            MISSING if cost.parameters is None else f"{cost.parameters:,.0f}",
            MISSING if cost.images_per_second is None else f"{cost.images_per_second:,.0f}",
            MISSING if cost.memory is None else f"{cost.memory / 2**20:,.0f} MiB",
            MISSING if cost.seconds is None else f"{cost.seconds:,.1f} s",
        )
    return made


def write_csv(comparison: Comparison, path: Path) -> None:
    """The table as numbers, with the value of every run.

    Raises:
        InputError: the file cannot be written.
    """
    heads = (*comparison.keys, "runs", comparison.metric, "deviation", f"best {comparison.validation}")
    more = ("parameters", "parameters_without_decoder", "images_per_second", "peak_memory_bytes", "seconds", "values")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow((*heads, *more))
            for group in comparison.groups:
                numbers = (group.mean, group.deviation, *costs(group, comparison.validation))
                values = " ".join(map(str, group.scores))
                writer.writerow((*group.values, len(group.runs), *numbers, values))
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose another file") from error


def show(comparison: Comparison, console: Console, output: Path | None, csv_file: Path | None) -> None:
    """Print the table and what it says, and write the files.

    Args:
        comparison: of runs.
        console: to print on.
        output: folder of ``comparison.csv`` and ``learning_curves.png``; None to write neither.
        csv_file: where else the table goes; None for nowhere.
    """
    made = table(comparison)
    needed = Measurement.get(console, console.options.update(max_width=10_000), made).maximum
    console.width = max(console.width, needed)  # a narrow terminal breaks rows; shortened numbers would be lost
    console.print(made)
    text = verdict(comparison)
    if comparison.left_out:
        text += f"\nleft out: {', '.join(comparison.left_out)}"
    console.print(f"\n{text}", markup=False, highlight=False, soft_wrap=True)
    files = [] if output is None else [output / "comparison.csv"]
    files += [] if csv_file is None else [csv_file]
    for path in files:
        write_csv(comparison, path)
    if output is not None and (drawn := draw(comparison, output / "learning_curves.png")):
        files.append(drawn)
    if files:
        console.print(f"wrote {', '.join(map(str, files))}", markup=False, highlight=False, soft_wrap=True)


def draw(comparison: Comparison, path: Path) -> Path | None:
    """The learning curves in validation, or in training where there was none; None where there are no curves either."""
    from capsule_lightning.figures.learning_curves import learning_curves_figure

    name = comparison.metric.split("/", 1)[-1]
    for metric in (f"val/{name}", f"train/{name}"):
        curves = {
            comparison.label(group): [run.history[metric] for run in group.runs if metric in run.history]
            for group in comparison.groups
        }
        curves = {label: found for label, found in curves.items() if found}
        if curves:
            learning_curves_figure(curves, metric).savefig(path, dpi=110)
            return path
    return None


def new_console() -> Console:
    """Of the terminal's width; a file or a pipe takes whole rows."""
    return Console(width=None if sys.stdout.isatty() else WIDE, highlight=False)
