"""A study: every choice with every seed, each a training run."""

from __future__ import annotations

import itertools
import json
import re
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from capsule_lightning.comparison.groups import in_words
from capsule_lightning.errors import InputError, nearest
from capsule_lightning.runs.folders import require_name
from capsule_lightning.shipped import PROGRAM, find_config

FIELDS = ("experiment", "fit", "each", "seeds", "jobs", "devices")
OWN_OPTIONS = ("--experiment", "--runs", "--run_id", "--resume", "--ckpt_path", "--seed_everything")
"""Of ``fit``, which the study gives itself."""
CHOOSES_DATA = ("--config", "-c", "--data", "--data.class_path")


class Trial(NamedTuple):
    """One run of a study.

    Attributes:
        run_id: its choices and its seed.
        words: of the command line, all but where runs are kept and that it goes on.
    """

    run_id: str
    words: list[str]

    @property
    def command(self) -> str:
        """As one types it."""
        return f"python -m {PROGRAM} {shlex.join(self.words)}"


class Study(NamedTuple):
    """What a study's file says.

    Attributes:
        path: of the file.
        experiment: folder of its runs.
        fit: words of the command line that all runs share.
        each: values of each option that is chosen; ``config`` stands for overlays.
        seeds: of every choice.
        jobs: runs at once.
        devices: values of ``CUDA_VISIBLE_DEVICES``, given to the jobs in turn; empty to leave it alone.
    """

    path: str
    experiment: str
    fit: list[str]
    each: dict[str, list[Any]]
    seeds: list[int]
    jobs: int
    devices: list[str]

    @property
    def keys(self) -> list[str]:
        """What tells its groups apart; empty where overlays do, whose keys are not known before they are read."""
        if "config" in self.each:
            return []
        return [key.replace(".init_args", "").removesuffix(".class_path") for key in self.each]

    def trials(self) -> list[Trial]:
        """Its runs, seed after seed, so that a study that is cut short has all choices."""
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


def read_study(name: str) -> Study:
    """A study from its file, or from a shipped one.

    Raises:
        InputError: no such file, no YAML, a field that is unknown, missing or of another kind.
    """
    path = find_config(name)
    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: is no YAML ({' '.join(str(error).split())}); mend it") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}: is no study; expected {', '.join(FIELDS)}")
    for field in found:
        if field not in FIELDS:
            close = nearest(str(field), FIELDS)
            raise InputError(
                f"{path}: no field {field!r}{close}; expected {', '.join(FIELDS)}; options go into fit: --key VALUE"
            )

    def check(field: str, good: bool, expected: str) -> None:
        if not good:
            raise InputError(f"{path}: {field}: {found.get(field)!r}: expected {expected}")

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
        if not isinstance(values, list) or not values or any(isinstance(value, dict) for value in values):
            raise InputError(f"{path}: each: {key}: {values!r}: expected a list of values, such as [1, 2]")
    good = isinstance(seeds, list) and bool(seeds) and all(type(seed) is int and 0 <= seed < 2**32 for seed in seeds)
    check("seeds", good, "a list of whole numbers, such as [0, 1, 2]")
    devices = found.get("devices", [])
    check("devices", isinstance(devices, list), "a list of values of CUDA_VISIBLE_DEVICES, such as [0, 1]")
    jobs = found.get("jobs", max(1, len(devices)))
    check("jobs", type(jobs) is int and jobs > 0, "a whole number above 0")
    try:
        words = shlex.split(fit)
    except ValueError as error:
        raise InputError(f"{path}: fit: {fit!r}: {error}; close what is quoted") from error
    study = Study(path, require_name(experiment, "experiment"), words, each, seeds, jobs, list(map(str, devices)))
    require_runnable(study)
    return study


def require_runnable(study: Study) -> None:
    """Refuse before the first run what would end a later one.

    Raises:
        InputError: an option of the study's own, an overlay that is not there, two runs of one name.
    """
    for word in [*study.fit, *(f"--{key}" for key in study.each)]:
        if word.split("=")[0] in OWN_OPTIONS:
            raise InputError(
                f"{study.path}: {word}: the study gives this option itself; say experiment and seeds, leave it out"
            )
    for value in study.each.get("config", []):
        for overlay in value if isinstance(value, list) else [value]:
            find_config(str(overlay))
    names = [trial.run_id for trial in study.trials()]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{study.path}: two runs would be called {twice}; leave one of the values or seeds out")


def as_words(key: str, value: Any) -> list[str]:
    """A choice on the command line.

    Example:
        >>> as_words("model.net.decoder", None), as_words("config", ["routing/em.yaml", "loss/spread.yaml"])
        (['--model.net.decoder', 'null'], ['--config', 'routing/em.yaml', '--config', 'loss/spread.yaml'])
    """
    if key == "config":
        overlays = value if isinstance(value, list) else [value]
        return [word for overlay in overlays for word in ("--config", str(overlay))]
    return [f"--{key}", value if isinstance(value, str) else json.dumps(value)]


def as_name(key: str, value: Any) -> str:
    """A choice in the name of a run.

    Example:
        >>> as_name("model.net.routing", "EMRouting"), as_name("config", "routing/em.yaml"), as_name("a.lr", 0.01)
        ('EMRouting', 'em', 'lr0.01')
    """
    if key == "config":
        text = "+".join(Path(str(overlay)).stem for overlay in (value if isinstance(value, list) else [value]))
    elif isinstance(value, str):
        text = value.rsplit(".", 1)[-1] if value.replace(".", "").isidentifier() else value
    else:
        text = key.rsplit(".", 1)[-1] + in_words(value)
    return re.sub(r"[^\w.+]+", "_", text).strip("_.") or "_"
