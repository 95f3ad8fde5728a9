"""``fit --folds N``: a run for each part of the data, all of them one after the other, or one alone.

They are the runs of a study: each is a run as any other, what is finished is not trained again, and what was
interrupted goes on where it was.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from capsule_lightning.cli.options import OPTIONS
from capsule_lightning.cli.words import Words, read_words
from capsule_lightning.comparison.folds import fold_table, write_folds
from capsule_lightning.comparison.formats import format_metric
from capsule_lightning.comparison.runs import METRIC, read_run
from capsule_lightning.comparison.study import Study
from capsule_lightning.comparison.study_processes import COMMAND, is_finished, require_same_commands, run_study
from capsule_lightning.comparison.tables import new_console
from capsule_lightning.errors import InputError, require
from capsule_lightning.runs.files import read_metrics, read_yaml, write_whole
from capsule_lightning.runs.folders import CONFIG_NAME, NEWEST, expanded
from capsule_lightning.runs.plain_yaml import parse_yaml
from capsule_lightning.runs.results import from_here
from capsule_lightning.runs.signals import is_started_with_others, rank
from capsule_lightning.shipped import CONFIG_DIR, PROGRAM, find_config

OPTION, ONE = "folds", "fold"
KEYS = {OPTION: "data.folds", ONE: "data.fold"}
"""Options of the data that these stand for."""
MOST = 1000


class Plan(NamedTuple):
    """The folds that are asked for.

    Attributes:
        given: the command as it was typed.
        folds: number of parts.
        fold: the one that is to be tested on; None for all of them.
        study: the study of all folds.
        root: folder of all experiments.
    """

    given: Words
    folds: int
    fold: int | None
    study: Study
    root: Path

    @property
    def folder(self) -> Path:
        """Folder of the one run."""
        return self.root / self.study.experiment / self.study.trials()[self.fold or 0].run_id


def read_plan(words: Sequence[str]) -> Plan:
    """Read which folds are to be trained.

    Raises:
        InputError: a number out of range, or an option that names or chooses a single run.
    """
    given = read_words(words)
    texts = {name: given.option(name) for name in (OPTION, ONE)}
    require(texts[OPTION] is not None, f"--{ONE} {texts[ONE]}: one of how many folds? Give --{OPTION} N too")
    folds = _number(OPTION, texts[OPTION] or "", f"a whole number from 2 to {MOST}")
    require(2 <= folds <= MOST, f"{OPTION}={folds}: expected a whole number from 2 to {MOST}")
    fold, text = None, texts[ONE]
    if text is not None:
        fold = _number(ONE, text, f"a whole number from 0 to {folds - 1}")
        require(0 <= fold < folds, f"{ONE}={fold}: expected 0 to {folds - 1}, as {OPTION}={folds}")
    for key in KEYS.values():
        require(given.option(key) is None, f"--{key}: is what --{OPTION} sets; leave one of the two out")
    for key in ("run_id", "ckpt_path"):
        require(
            given.option(key) is None,
            f"--{key} with --{OPTION}: names a single run, and each fold is one of its own; use --experiment NAME",
        )
    resumed = given.option("resume")
    require(
        resumed in (None, NEWEST),
        f"--resume {resumed} with --{OPTION}: each fold goes on by itself where it was; leave --resume out",
    )
    seed = _setting(given, "seed_everything")
    require(
        type(seed) is int and seed >= 0,
        f"seed_everything={seed} with --{OPTION}: expected a whole number, so that the folds can go on",
    )
    left_out = (OPTION, ONE, "resume", "seed_everything", "experiment", "runs")
    options = [(key, text) for key, text in given.options if key not in left_out]
    fit = [f"--config={name}" for name in given.configs] + [f"--import={name}" for name in given.imports]
    fit += [f"--{key}={text}" for key, text in [*options, (KEYS[OPTION], str(folds))]]
    if not given.chooses_data:
        fit = ["--config=digits.yaml", *fit]
    again = [f"--{key}={text}" for key, text in given.options if key != "resume"]
    again += [f"--config={name}" for name in given.configs] + [f"--import={name}" for name in given.imports]
    study = Study(
        f"--{OPTION} {folds}",
        str(_setting(given, "experiment")),
        fit,
        {KEYS[ONE]: [*range(folds)]},
        [seed],
        1,
        [],
        again=f"python -m {PROGRAM} fit {shlex.join(again)}",
    )
    return Plan(given, folds, fold, study, expanded(str(_setting(given, "runs")), "--runs"))


def words_of_one(plan: Plan) -> list[str]:
    """Return the words of an ordinary ``fit``: of the one fold, or of one whose configuration is to be shown."""
    trial = plan.study.trials()[plan.fold or 0]
    flags = [f"--{flag}" for flag in sorted(plan.given.flags)]
    return [*trial.words, "--runs", str(plan.root), *(flags or ["--resume"])]


def train_all(plan: Plan) -> None:
    """Train all folds, one after the other, and print what they have come to.

    Raises:
        InputError: the data cannot be divided so, or runs of these names are of another command.
        SystemExit: with status 1 if a fold failed; with 128 + the signal that ended it.
    """
    from capsule_lightning.cli import main

    require(
        not is_started_with_others(os.environ),
        f"--{OPTION} {plan.folds} in several processes that were started together: train one fold at a time, "
        f"--{ONE} 0 to {plan.folds - 1}",
    )
    console = new_console()
    folders, status = run_study(plan.study, plan.root, console, main, refusal)
    runs = [read_run(folder) for folder in folders]
    console.print(fold_table(runs))
    files = write_folds(runs, folders[0].parent / "comparison")
    written = ", ".join(from_here(path) for path in files)
    console.print(f"wrote {written}", markup=False, highlight=False, soft_wrap=True)
    if status:
        raise SystemExit(status)


def is_done(plan: Plan) -> bool:
    """Return whether the one fold has been trained and tested, and say so."""
    if not is_finished(plan.folder):
        return False
    require_same_commands(plan.study, {plan.folder: plan.study.trials()[plan.fold or 0]})
    scores = read_metrics(plan.folder / "metrics.csv").history.get(METRIC, {})
    said = f": {METRIC} {format_metric(METRIC, scores[max(scores)])}" if scores else ""
    print(f"fold {plan.fold} of {plan.folds} is done, in {from_here(plan.folder)}{said}", flush=True)
    return True


@contextmanager
def recorded(plan: Plan) -> Iterator[None]:
    """Let the folder of the one fold say by which command it is made, unless wrong input keeps it from beginning.

    Raises:
        InputError: the data cannot be divided so, or the folder is of another command.
    """
    trial = plan.study.trials()[plan.fold or 0]
    require_same_commands(plan.study, {plan.folder: trial})
    try:
        require_folds_of_data(trial.words)
    except InputError as error:
        raise InputError(f"{plan.study.path}: {error}") from error
    if rank() != 0 or (plan.folder / COMMAND).is_file():
        yield
        return
    made = [each for each in (plan.folder, *plan.folder.parents) if not each.exists()]
    write_whole(plan.folder / COMMAND, f"{trial.command}\n", make_folder=True, remedy="choose another --runs")
    try:
        yield
    except InputError:
        if not (plan.folder / CONFIG_NAME).is_file():
            (plan.folder / COMMAND).unlink(missing_ok=True)
            for folder in made:
                with suppress(OSError):
                    folder.rmdir()
        raise


def require_folds_of_data(words: Sequence[str]) -> dict[str, Any]:
    """Refuse the words of a fold if its data cannot be divided, and return its configuration.

    Raises:
        InputError: the data set is one that cannot be divided, or anything else is wrong.
    """
    from capsule_lightning.cli.configs import resolve
    from capsule_lightning.components.own import import_modules
    from capsule_lightning.components.slots import Slot, arguments, find_class
    from capsule_lightning.data.module import DataModule

    given = read_words(words)
    import_modules(given.imports)
    undivided = [(key, text) for key, text in given.options if key not in KEYS.values()]
    data = resolve(given._replace(options=undivided))["data"]["class_path"]
    known = arguments(find_class(data, Slot((DataModule,))))
    missing = [key for key in KEYS.values() if key.removeprefix("data.") not in known]
    require(
        not missing,
        f"{data.rpartition('.')[2]} cannot be divided (it takes no {' and no '.join(missing)}); use data of your own, "
        "such as --config image_folder.yaml or --config table.yaml",
    )
    return resolve(given)


def refusal(commands: Sequence[Sequence[str]]) -> str | None:
    """Return why the folds would be refused; None if they would not.

    Args:
        commands: the words of each fold.
    """
    from capsule_lightning.components.build import build_part
    from capsule_lightning.data.module import DataModule

    try:
        build_part(require_folds_of_data(commands[0])["data"], DataModule)
    except InputError as error:
        return str(error)
    return None


def _setting(given: Words, name: str) -> Any:
    """Return what the words, or else the last of their files that does, say of an option of the run."""
    text = given.option(name)
    if text is not None:
        return int(text) if text.isdecimal() and OPTIONS[name].annotation is not str else text
    configs = given.configs if given.chooses_data else ["digits.yaml"]
    layers = [read_yaml(CONFIG_DIR / "default.yaml")]
    for each in configs:
        layers.append(parse_yaml(each, each, "options") if each.startswith("{") else read_yaml(find_config(each)))
    return next((layer[name] for layer in reversed(layers) if name in layer), OPTIONS[name].default)


def _number(name: str, text: str, expected: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise InputError(f"{name}={text!r}: expected {expected}") from error
