"""Show a comparison as a table in the terminal, as CSV and as learning curves."""

from __future__ import annotations

import statistics
import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from capsule_lightning.comparison.formats import format_metric
from capsule_lightning.comparison.groups import MISSING, Comparison, Group
from capsule_lightning.comparison.more_tables import more_tables, write_more
from capsule_lightning.comparison.runs import Run
from capsule_lightning.comparison.verdict import verdict
from capsule_lightning.runs.csv_text import csv_text
from capsule_lightning.runs.files import open_whole, write_whole

LONGEST_LABEL = 48  # characters of a group's name in a picture
WIDE = 200  # characters in a line of a table that is written to a file


class Costs(NamedTuple):
    """Best validation and cost of a group's runs; None for what no run recorded.

    Attributes:
        validation: mean over runs of the best value in validation.
        parameters: number of parameters of the first run.
        without_decoder: the same without the decoder.
        images_per_second: mean over runs of the median over epochs; the first epoch warms up.
        memory: peak memory in bytes, the most of any run.
        seconds: mean time.
    """

    validation: float | None
    parameters: float | None
    without_decoder: float | None
    images_per_second: float | None
    memory: float | None
    seconds: float | None


def costs(group: Group, validation: str) -> Costs:
    """Return the best validation and the cost of a group's runs.

    Args:
        group: the runs.
        validation: name of the metric in validation.
    """
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
    """Return the largest value of a metric; None without any."""
    return max(run.history.get(metric, {}).values(), default=None)


def mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of the values that are known; None if none is."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def table(comparison: Comparison) -> Table:
    """Return the comparison as a table for a terminal, the best group first."""
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
            str(len(group.runs)) if group.folds is None else f"{len(group.runs)} ({group.folds} folds)",
            format_metric(comparison.metric, group.mean, group.deviation),
            format_metric(comparison.validation, cost.validation),
            MISSING if cost.parameters is None else f"{cost.parameters:,.0f}",
            MISSING if cost.images_per_second is None else f"{cost.images_per_second:,.0f}",
            MISSING if cost.memory is None else f"{cost.memory / 2**20:,.0f} MiB",
            MISSING if cost.seconds is None else f"{cost.seconds:,.1f} s",
        )
    return made


def write_csv(comparison: Comparison, path: Path) -> None:
    """Write the table as numbers, with the value of every run.

    Raises:
        InputError: the file cannot be written; what was there before is left as it was.
    """
    heads = (*comparison.keys, "runs", comparison.metric, "deviation", f"best {comparison.validation}")
    more = ("parameters", "parameters_without_decoder", "images_per_second", "peak_memory_bytes", "seconds", "values")
    rows: list[Sequence[object]] = [(*heads, *more)]
    for group in comparison.groups:
        numbers = (group.mean, group.deviation, *costs(group, comparison.validation))
        values = " ".join(map(str, group.scores))
        rows.append((*group.values, len(group.runs), *numbers, values))
    write_whole(path, csv_text(rows), make_folder=True, remedy="choose another file")


def show(comparison: Comparison, console: Console, output: Path | None, csv_file: Path | None) -> None:
    """Print the table and the verdict, and write the files.

    Args:
        comparison: groups of runs.
        console: where to print.
        output: folder for ``comparison.csv``, ``scores.png`` and ``learning_curves.png``; None to write none.
        csv_file: another file for the table; None for no other.

    Raises:
        InputError: a file cannot be written.
    """
    made = table(comparison)
    needed = Measurement.get(console, console.options.update(max_width=10_000), made).maximum
    console.width = max(console.width, needed)  # a narrow terminal wraps rows, which is better than cutting numbers
    console.print(made)
    for more in more_tables(comparison):
        console.width = max(
            console.width, Measurement.get(console, console.options.update(max_width=10_000), more).maximum
        )
        console.print("")
        console.print(more)
    text = verdict(comparison)
    if comparison.left_out:
        text += f"\nleft out: {', '.join(comparison.left_out)}"
    console.print(f"\n{text}", markup=False, highlight=False, soft_wrap=True)
    files = [] if output is None else [output / "comparison.csv"]
    files += [] if csv_file is None else [csv_file]
    for path in files:
        write_csv(comparison, path)
    if output is not None:
        files += write_more(comparison, output)
        files.append(draw_scores(comparison, output / "scores.png"))
        if drawn := draw(comparison, output / "learning_curves.png"):
            files.append(drawn)
    if files:
        console.print(f"wrote {', '.join(map(str, files))}", markup=False, highlight=False, soft_wrap=True)


def draw_scores(comparison: Comparison, path: Path) -> Path:
    """Draw the score of every run, with the mean of each group and its interval: what the verdict speaks of.

    Raises:
        InputError: the picture cannot be written.
    """
    from capsule_lightning.figures.scores import scores_figure

    scores = {label: group.scores for label, group in zip(short_labels(comparison), comparison.groups, strict=True)}
    figure = scores_figure(scores, comparison.metric)
    with open_whole(path, remedy="choose another --output") as file:
        figure.savefig(file, format="png", dpi=110)
    return path


def short_labels(comparison: Comparison) -> list[str]:
    """Return a label for each group that leaves room for the picture; equal ones get their place in the table."""
    cut = [textwrap.shorten(comparison.label(group), LONGEST_LABEL, placeholder=" …") for group in comparison.groups]
    return [f"{label} ({n})" if cut.count(label) > 1 else label for n, label in enumerate(cut, 1)]


def draw(comparison: Comparison, path: Path) -> Path | None:
    """Draw the learning curves in validation, or those in training if there was no validation.

    Returns:
        Path of the picture; None if there are no curves at all.

    Raises:
        InputError: the picture cannot be written.
    """
    from capsule_lightning.figures.learning_curves import learning_curves_figure

    name = comparison.metric.split("/", 1)[-1]
    for metric in (f"val/{name}", f"train/{name}"):
        curves = {
            label: [run.history[metric] for run in group.runs if metric in run.history]
            for label, group in zip(short_labels(comparison), comparison.groups, strict=True)
        }
        curves = {label: found for label, found in curves.items() if found}
        if curves:
            figure = learning_curves_figure(curves, metric)
            with open_whole(path, remedy="choose another --output") as file:
                figure.savefig(file, format="png", dpi=110)
            return path
    return None


def new_console() -> Console:
    """Return a console as wide as the terminal; in a file or a pipe, rows are not wrapped."""
    return Console(width=None if sys.stdout.isatty() else WIDE, highlight=False)
