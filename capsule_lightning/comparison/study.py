"""A study: one training run for every choice and every seed."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from capsule_lightning.comparison.groups import FOLD, format_value
from capsule_lightning.errors import InputError, nearest, require
from capsule_lightning.runs.files import read_yaml
from capsule_lightning.runs.folders import require_name
from capsule_lightning.shipped import PROGRAM, find_config

MOST_RUNS = 10_000
"""Most runs of a study: more than a cluster trains in a year are a mistake in the file."""
JOBS_PER_PROCESSOR = 4
FIELDS = ("experiment", "fit", "each", "seeds", "jobs", "devices", "by", "metric", "also")
OWN_OPTIONS = ("--experiment", "--runs", "--run_id", "--resume", "--ckpt_path", "--seed_everything")
"""Options of ``fit`` that the study sets itself."""
CHOOSES_DATA = ("--config", "-c", "--data", "--data.class_path")


class Trial(NamedTuple):
    """One run of a study.

    Attributes:
        run_id: name of the run, made of its choices and its seed.
        words: the command line, without the folder of all runs and ``--resume``.
    """

    run_id: str
    words: list[str]

    @property
    def command(self) -> str:
        """The command line as one would type it."""
        return f"python -m {PROGRAM} {shlex.join(self.words)}"


class Study(NamedTuple):
    """Content of a study's file.

    Attributes:
        path: the file.
        experiment: folder of its runs.
        fit: words of the command line that all runs share.
        each: the values to try for each option; ``config`` stands for overlays.
        seeds: seeds that every choice is trained with.
        jobs: number of runs at the same time.
        devices: values of ``CUDA_VISIBLE_DEVICES``, given to the jobs in turn; empty to leave the variable alone.
        by: keys that tell the groups apart; empty for those of ``each``.
        metric: the metric that is compared; None for the usual one.
        also: metrics that are shown beside it.
        more: words that were added to ``fit`` on the command line.
        again: the command line that goes on with it; empty for that of ``compare``.
    """

    path: str
    experiment: str
    fit: list[str]
    each: dict[str, list[Any]]
    seeds: list[int]
    jobs: int
    devices: list[str]
    by: Sequence[str] = ()
    metric: str | None = None
    also: Sequence[str] = ()
    more: str = ""
    again: str = ""

    @property
    def keys(self) -> list[str]:
        """Keys that tell the groups apart, the fold left out; empty if overlays do, whose keys are not known yet."""
        if self.by:
            return list(self.by)
        if "config" in self.each:
            return []
        return [key.replace(".init_args", "").removesuffix(".class_path") for key in self.each if key != FOLD]

    def trials(self) -> list[Trial]:
        """Return the runs, seed after seed, so that a study that is cut short has every choice."""
        found = []
        for seed, values in itertools.product(self.seeds, itertools.product(*self.each.values())):
            chosen = list(zip(self.each, values, strict=True))
            run_id = require_name("-".join([*(as_name(*choice) for choice in chosen), f"seed{seed}"]), "each")
            words = [*self.fit, *(word for choice in chosen for word in as_words(*choice))]
            if not any(word.split("=")[0] in CHOOSES_DATA for word in words):
                words = ["--config", "digits.yaml", *words]
            own = ("--seed_everything", str(seed), "--experiment", self.experiment, "--run_id", run_id)
            found.append(Trial(run_id, ["fit", *words, *own]))
        return found


def read_study(name: str, more: str = "") -> Study:
    """Read a study.

    Args:
        name: path of its file, or name of a shipped study.
        more: words of the command line that all runs get after those of its field ``fit``.

    Raises:
        InputError: there is no such file, it is not YAML, or a field is unknown, missing or of the wrong type.
    """
    path = find_config(name)
    found = read_yaml(path, f"the fields of a study: {', '.join(FIELDS)}")
    for field in found:
        if field not in FIELDS:
            close = nearest(str(field), FIELDS)
            raise InputError(
                f"{path}: no field {field!r}{close}; expected {', '.join(FIELDS)}; options go into fit: --key VALUE"
            )

    def check(field: str, good: bool, expected: str) -> None:
        require(good, f"{path}: {field}: {found.get(field)!r}: expected {expected}")

    experiment, fit = found.get("experiment", Path(path).stem), found.get("fit", "")
    check("experiment", isinstance(experiment, str), "the name of a folder")
    check("fit", isinstance(fit, str), "words of the command line, such as --config mnist.yaml --trainer.max_epochs 5")
    each, seeds = found.get("each", {}), found.get("seeds", [])
    check(
        "each",
        isinstance(each, dict) and bool(each),
        "options and lists of their values, such as {model.net.routing: [EMRouting]}",
    )
    for key, values in each.items():
        require(isinstance(key, str), f"{path}: each: {key!r}: expected an option, such as model.net.routing")
        if not isinstance(values, list) or not values or any(isinstance(value, dict) for value in values):
            raise InputError(f"{path}: each: {key}: {values!r}: expected a list of values, such as [1, 2]")
    good = isinstance(seeds, list) and bool(seeds) and all(type(seed) is int and 0 <= seed < 2**32 for seed in seeds)
    check("seeds", good, "a list of whole numbers, such as [0, 1, 2]")
    devices = found.get("devices", [])
    check("devices", isinstance(devices, list), "a list of values of CUDA_VISIBLE_DEVICES, such as [0, 1]")
    jobs = found.get("jobs", max(1, len(devices)))
    most = max(len(devices), JOBS_PER_PROCESSOR * (os.cpu_count() or 1))
    check("jobs", type(jobs) is int and 0 < jobs <= most, f"1 to {most} runs at the same time on this machine")
    count = math.prod([len(seeds), *map(len, each.values())])
    require(count <= MOST_RUNS, f"{path}: asks for {count:,} runs, expected at most {MOST_RUNS:,}; split the study")
    by, metric, also = found.get("by", []), found.get("metric"), found.get("also", [])
    for field, words in (("by", by), ("also", also)):
        check(field, isinstance(words, list) and all(isinstance(word, str) for word in words), "a list of names")
    check("metric", metric is None or isinstance(metric, str), "the name of a metric, such as test/accuracy")
    words = []
    for source, text in ((f"{path}: fit", fit), ("--fit", more)):
        try:
            words += shlex.split(text)
        except ValueError as error:
            raise InputError(f"{source}: {text!r}: {error}; close what is quoted") from error
    named, shown = require_name(experiment, "experiment"), list(map(str, devices))
    study = Study(path, named, words, each, seeds, jobs, shown, by, metric, also, more)
    require_runnable(study)
    return study


def require_runnable(study: Study) -> None:
    """Refuse, before the first run, what would make a later one fail.

    Raises:
        InputError: an option that the study sets itself, an overlay that does not exist, two runs of the same name.
    """
    for word in [*study.fit, *(f"--{key}" for key in study.each)]:
        if word.split("=")[0] in OWN_OPTIONS:
            raise InputError(
                f"{study.path}: {word}: the study sets this option itself; use experiment and seeds, and leave it out"
            )
    for value in study.each.get("config", []):
        for overlay in value if isinstance(value, list) else [value]:
            find_config(str(overlay))
    names = [trial.run_id for trial in study.trials()]
    twice = next((name for name in names if names.count(name) > 1), None)
    require(twice is None, f"{study.path}: two runs would be called {twice}; leave one of the values or seeds out")


def as_words(key: str, value: Any) -> list[str]:
    """Return a choice as words of the command line.

    Example:
        >>> as_words("model.net.decoder", None), as_words("config", ["routing/em.yaml", "loss/spread.yaml"])
        (['--model.net.decoder', 'null'], ['--config', 'routing/em.yaml', '--config', 'loss/spread.yaml'])
    """
    if key == "config":
        overlays = value if isinstance(value, list) else [value]
        return [word for overlay in overlays for word in ("--config", str(overlay))]
    return [f"--{key}", value if isinstance(value, str) else json.dumps(value)]


def as_name(key: str, value: Any) -> str:
    """Return a choice as a part of a run's name.

    Example:
        >>> as_name("model.net.routing", "EMRouting"), as_name("config", "routing/em.yaml"), as_name("a.lr", 0.01)
        ('EMRouting', 'em', 'lr0.01')
    """
    if key == "config":
        text = "+".join(Path(str(overlay)).stem for overlay in (value if isinstance(value, list) else [value]))
    elif isinstance(value, str):
        text = value.rsplit(".", 1)[-1] if value.replace(".", "").isidentifier() else value
    else:
        text = key.rsplit(".", 1)[-1] + format_value(value)
    return re.sub(r"[^\w.+]+", "_", text).strip("_.") or "_"
