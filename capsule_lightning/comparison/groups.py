"""Runs that differ in their seed alone, as groups: what tells them apart, and the best first."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from capsule_lightning.comparison.runs import METRIC, Run, falls
from capsule_lightning.errors import InputError, nearest

#: What tells where a run lies and how it was begun, and not what it is.
PLACES = ("experiment", "runs", "run_id", "ckpt_path", "resume", "weights_only", "data.root", "trainer.logger")
MISSING = "-"


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
        pooled: full names of what else differs within a group.
    """

    metric: str
    keys: list[str]
    names: list[str]
    groups: list[Group]
    left_out: list[str]
    pooled: list[str] = field(default_factory=list)

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
    pooled = dict.fromkeys(key for runs in groups.values() for key in differences(runs) if key not in keys)
    return Comparison(metric, keys, [short_key(key, known) for key in keys], found, left_out, list(pooled))


def differences(runs: Sequence[Run]) -> list[str]:
    """Keys in whose values runs differ, seeds, places and backends aside.

    The arguments of a class differ because the class does; they are named only where they differ within one class.
    """
    keys = dict.fromkeys(key for run in runs for key in run.config if not is_aside(key))
    differing = [key for key in keys if len({frozen(run, key) for run in runs}) > 1]
    return [key for key in differing if not follows(key, [k for k in differing if key.startswith(f"{k}.")], runs)]


def is_aside(key: str) -> bool:
    """Whether a key is a seed, a place, or another way to the same numbers.

    Example:
        >>> [is_aside(key) for key in ("data.seed", "trainer.logger", "model.net.routing.backend", "model.net.routing")]
        [True, True, True, False]
    """
    return key.rsplit(".", 1)[-1] in ("seed", "seed_everything", "backend") or any(
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
