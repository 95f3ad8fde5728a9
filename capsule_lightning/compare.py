"""Which group of runs is better, and how sure that is: finished runs, their table and a test between the two best.

Nothing here imports torch: the command answers as fast as the files can be read.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import math
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from capsule_lightning.cli import LIGHT_COMMANDS, PROGRAM, nearest
from capsule_lightning.errors import InputError
from capsule_lightning.runs import CONFIG_NAME, flat

METRIC = "test/accuracy"
#: What tells where a run lies and how it was begun, and not what it is.
PLACES = ("experiment", "runs", "run_id", "ckpt_path", "resume", "weights_only", "data.root", "trainer.logger")
MISSING = "-"
LEVEL = 0.05
PERMUTATIONS = 20_000  # all divisions of two groups are tried up to here: 7 seeds each have 3,432, 8 each 12,870
WIDE = 200  # columns of a table that goes into a file

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


class Group(NamedTuple):
    """Runs that differ in their seed alone.

    Attributes:
        values: of the keys that tell the groups apart, in words.
        runs: at least one.
        scores: of each run, the metric that is compared.
    """

    values: tuple[str, ...]
    runs: list[Run]
    scores: list[float]

    @property
    def mean(self) -> float:
        """Of the scores."""
        return statistics.fmean(self.scores)

    @property
    def deviation(self) -> float | None:
        """Of the scores, that of a sample; None of a single one."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else None


@dataclass(frozen=True)
class Comparison:
    """Groups, the best first.

    Attributes:
        metric: that is compared.
        keys: full names of what tells the groups apart.
        names: the same, as short as is unambiguous.
        groups: at least one.
        left_out: runs without the metric, and why.
    """

    metric: str
    keys: list[str]
    names: list[str]
    groups: list[Group]
    left_out: list[str]

    @property
    def validation(self) -> str:
        """The metric's name in validation."""
        return f"val/{self.metric.split('/', 1)[-1]}"

    def label(self, group: Group) -> str:
        """One name for a group.

        Example:
            >>> Comparison("test/accuracy", ["a.lr", "b"], ["lr", "b"], [], []).label(Group(("0.1", "x"), [], []))
            'lr=0.1, b=x'
        """
        if len(self.keys) < 2:
            return group.values[0] if group.values else "all runs"
        return ", ".join(f"{name}={value}" for name, value in zip(self.names, group.values, strict=True))


def falls(metric: str) -> bool:
    """Whether less of a metric is better.

    Example:
        >>> falls("val/class_loss"), falls("test/accuracy")
        (True, False)
    """
    return metric.endswith(("loss", "error"))


# Reading.


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
    """The runs of a project in W&B, ``entity/project``.

    Raises:
        InputError: no key, no network, no such project.
    """
    import wandb

    try:
        return [wandb_run(run) for run in wandb.Api().runs(project)]
    except (wandb.Error, ValueError, OSError) as error:
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


# Grouping.


def compare(runs: Sequence[Run], metric: str = METRIC, by: Sequence[str] = ()) -> Comparison:
    """Group the finished runs, and sort the groups by the mean of a metric.

    Args:
        runs: finished or not.
        metric: whose last value counts.
        by: keys that tell the groups apart, full or shortened; without any, those whose values differ.

    Raises:
        InputError: no finished run, no such metric or key.
    """
    ended = [run for run in runs if run.ended]
    scores = {run.name: score for run in ended if (score := run.last(metric)) is not None}
    left_out = [f"{run.name} (not tested)" for run in runs if not run.ended]
    left_out += [f"{run.name} (no {metric})" for run in ended if run.name not in scores]
    if not ended:
        raise InputError(
            f"no finished run among {len(runs)}: none has been tested; go on with them by fit --resume RUN"
        )
    if not scores:
        known = sorted({name for run in ended for name in run.history})
        raise InputError(
            f"metric={metric}: no finished run has it{nearest(metric, known)}; they have {', '.join(known)}"
        )
    counted = [run for run in ended if run.name in scores]
    known = list(dict.fromkeys(key for run in counted for key in run.config))
    differing = differences(counted)
    keys = [full_key(key, known, differing) for key in by] or differing
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in counted:
        groups.setdefault(tuple(frozen(run, key) for key in keys), []).append(run)
    found = [
        Group(tuple(in_words(runs[0].config.get(key, MISSING)) for key in keys), runs, [scores[r.name] for r in runs])
        for runs in groups.values()
    ]
    found.sort(key=lambda group: group.mean, reverse=not falls(metric))
    return Comparison(metric, keys, [short_key(key, known) for key in keys], found, left_out)


def differences(runs: Sequence[Run]) -> list[str]:
    """Keys in whose values runs differ, seeds and places aside.

    The arguments of a class differ because the class does; they are named only where they differ within one class.
    """
    keys = dict.fromkeys(key for run in runs for key in run.config if not is_aside(key))
    differing = [key for key in keys if len({frozen(run, key) for run in runs}) > 1]
    return [key for key in differing if not follows(key, [k for k in differing if key.startswith(f"{k}.")], runs)]


def is_aside(key: str) -> bool:
    """Whether a key is a seed or a place.

    Example:
        >>> [is_aside(key) for key in ("seed_everything", "data.seed", "trainer.logger", "model.net.routing")]
        [True, True, True, False]
    """
    return key.rsplit(".", 1)[-1] in ("seed", "seed_everything") or any(
        key == place or key.startswith(f"{place}.") for place in PLACES
    )


def follows(key: str, owners: Sequence[str], runs: Sequence[Run]) -> bool:
    """Whether the value of a key is known where those of its owners are."""
    values = {(*(frozen(run, owner) for owner in owners), frozen(run, key)) for run in runs}
    return bool(owners) and len(values) == len({value[:-1] for value in values})


def frozen(run: Run, key: str) -> str:
    """A value to compare; a key that a run has not is a value of its own."""
    return json.dumps(run.config[key], sort_keys=True, default=str) if key in run.config else MISSING


def full_key(key: str, known: Sequence[str], differing: Sequence[str]) -> str:
    """The key that is meant by its end.

    Raises:
        InputError: none, or several that could be meant.
    """
    if key in known:
        return key
    meant = [name for name in known if name.endswith(f".{key}")]
    meant = [name for name in meant if name in differing] or meant
    if len(meant) == 1:
        return meant[0]
    if meant:
        raise InputError(f"--by {key}: may be {' or '.join(meant)}; say which")
    ends = {name.rsplit(".", 1)[-1] for name in known}
    close = nearest(key, [*known, *sorted(ends)])
    raise InputError(f"--by {key}: no run has that key{close}; expected one of its config, such as model.net.routing")


def short_key(key: str, known: Sequence[str]) -> str:
    """The shortest end of a key that no other has.

    Example:
        >>> short_key("model.net.dim", ["model.net.dim", "model.net.encoder.dim"])
        'net.dim'
    """
    parts = key.split(".")
    ends = (".".join(parts[n:]) for n in range(len(parts) - 1, -1, -1))
    return next(end for end in ends if end == key or sum(f".{k}".endswith(f".{end}") for k in known) == 1)


def in_words(value: object) -> str:
    """A value as it stands in a table.

    Example:
        >>> in_words([{"class_path": "a.Stop"}, 2]), in_words(None), in_words(0.001)
        ('[Stop, 2]', 'null', '0.001')
    """
    if isinstance(value, dict) and "class_path" in value:
        return str(value["class_path"]).rpartition(".")[2]
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(in_words, value))}]"
    return value if isinstance(value, str) else json.dumps(value, default=str)


# Statistics.


class Difference(NamedTuple):
    """What two samples say of the difference of their means.

    Attributes:
        value: mean of the first less that of the second.
        low: of the 95 % confidence interval, Welch's.
        high: of the same.
        welch: two-sided p of Welch's t-test (1947), which does not assume equal variances.
        permutation: two-sided p of the permutation test of the difference of the means, which does not assume normal
            values either.
        exact: every division of the values was tried.
    """

    value: float
    low: float
    high: float
    welch: float
    permutation: float
    exact: bool


def difference(first: Sequence[float], second: Sequence[float]) -> Difference | None:
    """Test whether two independent samples have one mean; None where either is a single value, or none varies.

    Runs of one seed share their split of the data and little else, so they are not taken in pairs: the signs of five
    pairs cannot make p less than 1/16, while five values against five can make 1/126.
    """
    from scipy.special import stdtr, stdtrit

    if min(len(first), len(second)) < 2 or len(set(first)) == len(set(second)) == 1:
        return None
    gap = statistics.fmean(first) - statistics.fmean(second)
    variances = [statistics.variance(sample) / len(sample) for sample in (first, second)]
    error = math.sqrt(sum(variances))
    squares = sum(v**2 / (len(sample) - 1) for v, sample in zip(variances, (first, second), strict=True))
    freedom = sum(variances) ** 2 / squares  # Welch (1947), Satterthwaite (1946)
    reach = float(stdtrit(freedom, 1 - LEVEL / 2)) * error
    permutation, exact = permuted(first, second)
    return Difference(gap, gap - reach, gap + reach, 2 * float(stdtr(freedom, -abs(gap) / error)), permutation, exact)


def permuted(first: Sequence[float], second: Sequence[float]) -> tuple[float, bool]:
    """Two-sided p of the permutation test of two means: the share of divisions at least as far apart as this one.

    Every division of the values is tried, or as many are drawn as may be tried, with this one among them.

    Returns:
        p, and whether every division was tried.
    """
    values, count = np.array([*first, *second]), len(first)
    exact = math.comb(len(values), count) <= PERMUTATIONS
    if exact:
        chosen = np.array(list(itertools.combinations(range(len(values)), count)))
    else:
        drawn = np.random.default_rng(0).permuted(np.tile(np.arange(len(values)), (PERMUTATIONS, 1)), axis=1)
        chosen = np.concatenate([np.arange(count)[None], drawn[:, :count]])
    sums = values[chosen].sum(axis=1)
    gaps = np.abs(sums / count - (values.sum() - sums) / len(second))
    gap = abs(float(np.mean(first)) - float(np.mean(second)))
    rounding = 1e-12 * float(np.abs(values).max())  # equal gaps are equal whatever the order of their sums
    return float(np.mean(gaps >= gap - rounding)), exact


def verdict(comparison: Comparison) -> str:
    """What can be said of the two best groups, and what cannot."""
    if len(comparison.groups) < 2:
        return "One group: there is nothing to compare it with."
    best, second, *others = comparison.groups
    names = f"{comparison.label(best)} and {comparison.label(second)}"
    scores = f"{len(best.scores)} and {len(second.scores)} runs"
    found, gap = difference(best.scores, second.scores), in_points(comparison.metric, best.mean - second.mean)
    if found is None:
        few = min(len(best.scores), len(second.scores)) < 2
        why = "a single run has no spread to compare the difference with" if few else "no run differs from its group's"
        said = f"{names} differ by {gap} in the mean of {scores}, which is no evidence for either: {why}."
    else:
        low, high = (in_points(comparison.metric, value, unit=False) for value in (found.low, found.high))
        sure = {True: "more than seeds explain", False: "no more than seeds explain"}
        decisions = [sure[p < LEVEL] for p in (found.welch, found.permutation)]
        judged = decisions[0] if decisions[0] == decisions[1] else "on the border of what seeds explain"
        kind = "exact permutation" if found.exact else f"permutation, {PERMUTATIONS:,} drawn"
        said = (
            f"{names} differ by {gap} in the mean of {scores}, {judged}: 95 % confidence interval {low} to {high}, "
            f"p = {found.welch:.2g} (Welch's t-test) and {found.permutation:.2g} ({kind} test)."
        )
    limits = ["It says nothing of other data or settings than these"]
    if others:
        limits.append(f"p does not allow for these two being the best of {len(comparison.groups)} groups")
    return f"{said}\n{'; '.join(limits)}.{of_test_images(comparison)}"


def of_test_images(comparison: Comparison) -> str:
    """How far chance in the choice of the test images alone reaches; empty where their number is not known.

    The standard error of a share p of N independent images, sqrt(p (1 - p) / N).
    """
    counts = {run.test_images for group in comparison.groups[:2] for run in group.runs}
    count = counts.pop()
    if counts or not count or not comparison.metric.endswith("accuracy"):
        return ""
    share = comparison.groups[0].mean
    error = math.sqrt(share * (1 - share) / count)
    return (
        f"\nThe {count:,} test images are themselves a sample: one accuracy of {100 * share:.2f} % on them has a "
        f"standard error of {100 * error:.2f} points, and one image is {100 / count:.2g}."
    )


def in_points(metric: str, value: float, unit: bool = True) -> str:
    """A difference in a metric.

    Example:
        >>> in_points("test/accuracy", 0.0123), in_points("test/loss", -0.5)
        ('1.23 points', '-0.5')
    """
    if metric.endswith("accuracy"):
        return f"{100 * value:.2f}{' points' if unit else ''}"
    return f"{value:.3g}"


# Showing.


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


# The command.


def command(words: Sequence[str]) -> None:
    """``compare``: finished runs in folders or in W&B, or those of a study, which it makes first.

    Raises:
        InputError: wrong input.
        SystemExit: with status 1, where a run of a study failed; 128 + the signal that ended it.
    """
    parser = options_parser()
    try:
        options, unknown = parser.parse_known_intermixed_args(words)
    except argparse.ArgumentError as error:
        raise InputError(f"compare: {error}") from error
    if unknown:
        known = [option for action in parser._actions for option in action.option_strings]
        raise InputError(f"compare: no option {unknown[0]!r}{nearest(unknown[0], known)}; `compare --help` lists them")
    if options.wandb is not None and (options.config is not None or options.folders):
        raise InputError("compare: --wandb takes runs from W&B alone; leave out --config and folders")
    if options.config is not None and len(options.folders) > 1:
        raise InputError("compare: --config takes one folder, of all experiments; leave the others out")
    output, csv_file = (None if path is None else Path(path) for path in (options.output, options.csv))
    by, console, status = options.by or [], new_console(), 0
    if options.config is not None:
        from capsule_lightning.study import read_study, run_study

        study = read_study(options.config)
        folders, status = run_study(study, Path((options.folders or ["runs"])[0]).expanduser(), console)
        runs = [read_run(folder) for folder in folders]
        by = by or study.keys
        output = output or folders[0].parent / "comparison"
    elif options.wandb is not None:
        runs = read_wandb(options.wandb)
    else:
        runs = [read_run(folder) for folder in find_runs(options.folders or ["runs"])]
    show(compare(runs, options.metric, by), console, output, csv_file)
    if status:
        raise SystemExit(status)


def options_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = argparse.ArgumentParser(
        prog=f"{PROGRAM} compare",
        description=f"{LIGHT_COMMANDS['compare']}.",
        epilog=f"""examples:
  python -m {PROGRAM} compare runs/digits --by model.net.routing --output comparison
  python -m {PROGRAM} compare --config studies/digits_routings.yaml
  python -m {PROGRAM} compare --wandb me/capsule_lightning --by routing""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        exit_on_error=False,
    )
    parser.add_argument(
        "folders",
        nargs="*",
        metavar="FOLDER",
        help="of runs, of experiments or of all (default: runs); with --config, where the study keeps its runs",
    )
    parser.add_argument(
        "--config", metavar="STUDY", help="a study, run first: what is done is kept, what was cut goes on"
    )
    parser.add_argument("--wandb", metavar="ENTITY/PROJECT", help="finished runs in W&B instead of folders")
    parser.add_argument(
        "--by",
        action="append",
        metavar="KEY",
        help="what tells the groups apart, may be repeated (default: all that differs, seeds aside)",
    )
    parser.add_argument("--metric", default=METRIC, help="last value of each run (default: %(default)s)")
    parser.add_argument("--output", metavar="FOLDER", help="gets comparison.csv and learning_curves.png")
    parser.add_argument("--csv", metavar="FILE", help="gets the table")
    return parser
