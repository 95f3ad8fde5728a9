"""What the folds of one training have come to, fold by fold and together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from capsule_lightning.comparison.formats import format_metric
from capsule_lightning.comparison.groups import FOLD, compare
from capsule_lightning.comparison.runs import Run
from capsule_lightning.comparison.tables import draw, draw_scores, write_csv


def fold_table(runs: Sequence[Run]) -> Table:
    """Return the metrics of the test of each fold, and their means over folds with the sample standard deviation.

    Metrics of single classes are left out; they are in the folders of the runs.

    Args:
        runs: finished runs that differ in their fold alone.

    Raises:
        InputError: none of them is finished.
    """
    ended = sorted((run for run in runs if run.ended), key=lambda run: int(run.config.get(FOLD, 0)))
    names = dict.fromkeys(name for run in ended for name in run.history if name.startswith("test/"))
    made = Table(box=None, padding=(0, 2, 0, 0))
    made.add_column("")
    for run in ended:
        made.add_column(f"fold {run.config.get(FOLD, 0)}", justify="right", no_wrap=True)
    made.add_column("mean ± deviation", justify="right", no_wrap=True)
    for name in names:
        if name.count("/") == 1:
            group = compare(runs, name, by=[FOLD] if len(ended) < 2 else []).groups[0]
            cells = [format_metric(name, run.last(name)) for run in ended]
            made.add_row(name, *cells, format_metric(name, group.mean, group.deviation))
    return made


def write_folds(runs: Sequence[Run], folder: Path) -> list[Path]:
    """Write ``comparison.csv``, ``scores.png`` and ``learning_curves.png`` of folds, and return what was written.

    Raises:
        InputError: a file cannot be written.
    """
    found = compare(runs)
    write_csv(found, folder / "comparison.csv")
    files = [folder / "comparison.csv", draw_scores(found, folder / "scores.png")]
    curves = draw(found, folder / "learning_curves.png")
    return [*files, curves] if curves else files
