"""Compare finished runs: which group is better, how certain that is, and studies that make the runs."""

from capsule_lightning.comparison.groups import Comparison, Group, compare
from capsule_lightning.comparison.runs import METRIC, Run, find_runs, read_run, read_wandb
from capsule_lightning.comparison.significance import Difference, difference
from capsule_lightning.comparison.tables import draw, new_console, show, table, write_csv
from capsule_lightning.comparison.verdict import verdict

__all__ = [
    "METRIC",
    "Comparison",
    "Difference",
    "Group",
    "Run",
    "compare",
    "difference",
    "draw",
    "find_runs",
    "new_console",
    "read_run",
    "read_wandb",
    "show",
    "table",
    "verdict",
    "write_csv",
]
