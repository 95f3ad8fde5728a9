"""Group runs that differ only in their seed and fold, find what tells the groups apart, and sort the best first."""

from __future__ import annotations

import fnmatch
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from capsule_lightning.comparison.runs import METRIC, Run, lower_is_better
from capsule_lightning.errors import InputError, nearest, require, some_of
from capsule_lightning.shipped import PROGRAM

PLACES = (
    *("experiment", "runs", "run_id", "ckpt_path", "resume", "weights_only", "verbose", "test_after_fit"),
    *("data.root", "data.download", "data.images", "trainer.default_root_dir", "trainer.logger"),
    *("trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy", "trainer.enable_progress_bar"),
    *("trainer.enable_model_summary", "trainer.log_every_n_steps", "trainer.profiler", "trainer.enable_checkpointing"),
)
"""Keys that say where and on what a run was trained, and what it showed and kept, not what was trained."""
CALLBACKS = "trainer.callbacks"
INFORMING = ("ProgressBar", "Summary", "Monitor", "Timer", "Checkpoint", "Printing")
"""What the names of Lightning's callbacks hold that inform or save, and leave training as it is."""
MISSING = "-"


FOLD, FOLDS = "data.fold", "data.folds"
"""Keys of the part of the data that a run was tested on, and of the number of parts."""


class Group(NamedTuple):
    """Runs that differ only in their seed and fold.

    Attributes:
        values: value of each key that tells the groups apart, as text.
        runs: at least one run.
        scores: the compared metric of each run.
    """

    values: tuple[str, ...]
    runs: list[Run]
    scores: list[float]

    @property
    def mean(self) -> float:
        """Mean score."""
        return statistics.fmean(self.scores)

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation of the scores; None for a single run."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else None

    @property
    def folds(self) -> int | None:
        """Number of folds that all runs are of; None if they are of none, or of different numbers."""
        numbers = {run.config.get(FOLDS) for run in self.runs}
        number = numbers.pop() if len(numbers) == 1 else None
        return number if isinstance(number, int) and number >= 2 else None

    def by_fold(self) -> dict[tuple[str, str], float]:
        """Return the score of each seed and fold."""
        keys = [(comparable_value(run, "seed_everything"), comparable_value(run, FOLD)) for run in self.runs]
        return dict(zip(keys, self.scores, strict=True))


@dataclass(frozen=True)
class Comparison:
    """Groups of runs, the best first.

    Attributes:
        metric: the metric that is compared.
        keys: full names of the keys that tell the groups apart.
        names: the same keys, as short as is unambiguous.
        groups: at least one group.
        left_out: runs that are not counted, and why.
        pooled: full names of the other keys that differ within a group.
        also: the metrics that are shown beside the compared one.
    """

    metric: str
    keys: list[str]
    names: list[str]
    groups: list[Group]
    left_out: list[str]
    pooled: list[str] = field(default_factory=list)
    also: list[str] = field(default_factory=list)

    @property
    def validation(self) -> str:
        """Name of the metric in validation."""
        return f"val/{self.metric.split('/', 1)[-1]}"

    def label(self, group: Group) -> str:
        """Return one name for a group.

        Example:
            >>> Comparison("test/accuracy", ["a.lr", "b"], ["lr", "b"], [], []).label(Group(("0.1", "x"), [], []))
            'lr=0.1, b=x'
        """
        if len(self.keys) < 2:
            return group.values[0] if group.values else "all runs"
        return ", ".join(f"{name}={value}" for name, value in zip(self.names, group.values, strict=True))


def compare(runs: Sequence[Run], metric: str = METRIC, by: Sequence[str] = (), also: Sequence[str] = ()) -> Comparison:
    """Group the finished runs, and sort the groups by the mean of a metric.

    Args:
        runs: finished and unfinished runs.
        metric: the metric whose last value is compared.
        by: keys that tell the groups apart, full or shortened; if empty, the keys whose values differ.
        also: further metrics, or patterns of several, such as ``test/coverage/*``.

    Raises:
        InputError: there is no finished run, no such metric or no such key.
    """
    ended = [run for run in runs if run.ended]
    scores = {run.name: score for run in ended if (score := run.last(metric)) is not None}
    left_out = [f"{run.name} (not tested)" for run in runs if not run.ended]
    left_out += [f"{run.name} (no {metric})" for run in ended if run.name not in scores]
    left_out += [f"{name} ({metric} is {score})" for name, score in scores.items() if not math.isfinite(score)]
    scores = {name: score for name, score in scores.items() if math.isfinite(score)}
    require(ended, f"no finished run among {len(runs)}: none has been tested; resume them with fit --resume RUN")
    if not scores:
        known = sorted({name for run in ended for name in run.history})
        raise InputError(
            f"metric={metric}: no finished run has it{nearest(metric, known)}; they have {', '.join(known)}"
        )
    counted = without_repetitions([run for run in ended if run.name in scores])
    names = {run.name for run in counted}
    left_out += [f"{name} (repeats a run of the same seed and settings)" for name in scores if name not in names]
    known = list(dict.fromkeys(key for run in counted for key in run.config))
    differing = differences(counted)
    keys = [full_key(key, known, differing) for key in by] or differing
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in counted:
        groups.setdefault(tuple(comparable_value(run, key) for key in keys), []).append(run)
    found = []
    for members in groups.values():
        values = tuple(shown_value(members[0], key) for key in keys)
        found.append(Group(values, members, [scores[run.name] for run in members]))
    found.sort(key=lambda group: group.mean, reverse=not lower_is_better(metric))
    pooled = dict.fromkeys(key for runs in groups.values() for key in differences(runs) if key not in keys)
    names_of_keys = [short_key(key, known) for key in keys]
    return Comparison(metric, keys, names_of_keys, found, left_out, list(pooled), matching(also, counted))


def matching(patterns: Sequence[str], runs: Sequence[Run]) -> list[str]:
    """Return the metrics of runs that patterns name, in the order of the patterns.

    Raises:
        InputError: no run has one that a pattern names.
    """
    known = list(dict.fromkeys(name for run in runs for name in run.history))
    found: dict[str, None] = {}
    for pattern in patterns:
        named = [pattern] if pattern in known else fnmatch.filter(known, pattern)
        if not named:
            raise InputError(
                f"--also {pattern}: no finished run has it{nearest(pattern, known)}; they have {some_of(known)}"
            )
        found |= dict.fromkeys(named)
    return list(found)


def without_repetitions(runs: Sequence[Run]) -> list[Run]:
    """Leave one run of those whose seeds and settings are the same: the last.

    A second run of one seed is no second sample, and would make a spread look smaller than it is.
    """
    last = {repeated_value(run): run for run in runs}
    return [run for run in runs if last[repeated_value(run)] is run]


def repeated_value(run: Run) -> str:
    """Return all that decides what a run computes, its seeds included, as text."""
    return json.dumps({key: comparable_value(run, key) for key in run.config if not is_place(key)}, sort_keys=True)


def is_place(key: str) -> bool:
    """Return whether a key says where a run was trained and what it kept, see `PLACES`."""
    return any(key == place or key.startswith(f"{place}.") for place in PLACES)


def differences(runs: Sequence[Run]) -> list[str]:
    """Return the keys whose values differ between runs, except seeds, folds, places and backends.

    When the class of a slot differs, its arguments differ too; they are returned only if they differ within one class.
    """
    keys = dict.fromkeys(key for run in runs for key in run.config if not is_ignored(key))
    differing = [key for key in keys if len({comparable_value(run, key) for run in runs}) > 1]
    return [key for key in differing if not is_determined(key, [k for k in differing if key.startswith(f"{k}.")], runs)]


def is_ignored(key: str) -> bool:
    """Return whether a key is a seed, a fold, a place, or another way to compute the same numbers.

    Example:
        >>> [is_ignored(key) for key in ("data.seed", "trainer.logger", "net.routing.backend", "net.routing")]
        [True, True, True, False]
    """
    return key == FOLD or key.rsplit(".", 1)[-1] in ("seed", "seed_everything", "backend") or is_place(key)


def is_determined(key: str, owners: Sequence[str], runs: Sequence[Run]) -> bool:
    """Return whether the values of a key's owners determine its value."""
    values = {(*(comparable_value(run, owner) for owner in owners), comparable_value(run, key)) for run in runs}
    return bool(owners) and len(values) == len({value[:-1] for value in values})


def comparable_value(run: Run, key: str) -> str:
    """Return a value as text that can be compared; a missing key counts as its own value."""
    if key == CALLBACKS:
        return json.dumps(altering_callbacks(run), sort_keys=True, default=str)
    return json.dumps(run.config[key], sort_keys=True, default=str) if key in run.config else MISSING


def shown_value(run: Run, key: str) -> str:
    """Return a value as text for a table; of the callbacks the names of those that may alter training.

    Example:
        >>> stop = {"class_path": "lightning.pytorch.callbacks.EarlyStopping"}
        >>> bar = {"class_path": "capsule_lightning.callbacks.progress.RunProgress"}
        >>> shown_value(Run("a", {"trainer.callbacks": [bar, stop]}, {}, None, None, True), "trainer.callbacks")
        '+EarlyStopping'
    """
    if key != CALLBACKS:
        return format_value(run.config.get(key, MISSING))
    return "".join(f"+{format_value(each)}" for each in altering_callbacks(run)) or MISSING


def altering_callbacks(run: Run) -> list[Any]:
    """Return the callbacks of a run's configuration but for those that only inform or save."""
    value = run.config.get(CALLBACKS)
    given = [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
    paths = [str(each.get("class_path")) for each in given]
    return [
        each
        for each, path in zip(given, paths, strict=True)
        if not path.startswith(f"{PROGRAM}.") and not any(word in path for word in INFORMING)
    ]


def full_key(key: str, known: Sequence[str], differing: Sequence[str]) -> str:
    """Return the key that ends in a shortened one; of several, the one whose values differ.

    Raises:
        InputError: no key or several keys fit.
    """
    if key in known:
        return key
    meant = [name for name in known if name.endswith(f".{key}")]
    meant = [name for name in meant if name in differing] or meant
    if len(meant) == 1:
        return meant[0]
    if meant:
        raise InputError(f"--by {key}: may be {' or '.join(meant)}; give one of them")
    ends = {name.rsplit(".", 1)[-1] for name in known}
    close = nearest(key, [*known, *sorted(ends)])
    raise InputError(f"--by {key}: no run has that key{close}; expected one of its config, such as model.net.routing")


def short_key(key: str, known: Sequence[str]) -> str:
    """Return the shortest end of a key that no other key has.

    Example:
        >>> short_key("model.net.dim", ["model.net.dim", "model.net.encoder.dim"])
        'net.dim'
    """
    parts = key.split(".")
    ends = (".".join(parts[n:]) for n in range(len(parts) - 1, -1, -1))
    return next(end for end in ends if end == key or sum(f".{k}".endswith(f".{end}") for k in known) == 1)


def format_value(value: object) -> str:
    """Return a value as text for a table.

    Example:
        >>> format_value([{"class_path": "a.Stop"}, 2]), format_value(None), format_value(0.001)
        ('[Stop, 2]', 'null', '0.001')
    """
    if isinstance(value, dict) and "class_path" in value:
        return str(value["class_path"]).rpartition(".")[2]
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(format_value, value))}]"
    return value if isinstance(value, str) else json.dumps(value, default=str)
