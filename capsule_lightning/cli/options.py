"""The options of a run itself: neither of its data, nor of its task, nor of its trainer."""

from __future__ import annotations

from typing import Any, NamedTuple

from capsule_lightning.runs.folders import NEWEST


class Option(NamedTuple):
    """An option of a run.

    Attributes:
        annotation: the type of its value.
        default: its value if it is not given.
        help: what it does, for ``--help_all``.
        bare: its value if it is given without one; None if it needs one.
        commands: the commands that take it; empty for all.
    """

    annotation: Any
    default: Any
    help: str
    bare: str | None = None
    commands: tuple[str, ...] = ()


PREDICT = ("predict",)
OLD_OPTIONS = {"poses": "embeddings"}
"""What options were called before, and still may be."""

OPTIONS = {
    "seed_everything": Option(bool | int, 0, "seed of the whole run; true draws one"),
    "experiment": Option(str, "capsules", "name of the runs that belong together"),
    "runs": Option(str, "runs", "folder of all experiments"),
    "run_id": Option(str | None, None, "id of this run; drawn if null"),
    "test_after_fit": Option(bool, True, "end fit with a test of its result"),
    "without": Option(
        str | list[str],
        [],
        "callbacks and loggers to leave out of those that a run has by itself: [Forecast,PredictionSamples]",
    ),
    "ckpt_path": Option(
        str | None,
        None,
        "checkpoint to resume; or the network to measure: a checkpoint, a run's folder or id, best or last of the "
        "newest run, a file of export, or the name of a shipped network",
    ),
    "init_from": Option(
        str | None,
        None,
        "fit: network whose weights training begins from, as far as they fit: a checkpoint, a run, a file of export, "
        "or the name of a shipped network",
    ),
    "output": Option(
        str | None,
        None,
        "the predictions, a .csv or .parquet; of joints a .csv, of boxes a .json; null for one in the run's folder",
        commands=PREDICT,
    ),
    "embeddings": Option(
        str | None, None, "also write names, classes, lengths and poses of the class capsules, a .npz", commands=PREDICT
    ),
    "overwrite": Option(bool, False, "replace files that are there", bare="true", commands=PREDICT),
    "resume": Option(
        str | None,
        None,
        "resume a run, named by its folder or its id, from its newest good checkpoint; without a name: this job's run, "
        "or else the newest. If it has no checkpoint, start from the beginning",
        bare=NEWEST,
        commands=("fit",),
    ),
    "trust_run": Option(
        bool,
        False,
        "resume a run although its configuration could run code or write elsewhere; needed once, see SECURITY.md",
        bare="true",
        commands=("fit",),
    ),
}


def options_of(command: str) -> dict[str, Option]:
    """Return the options that a training command takes, by name."""
    return {name: option for name, option in OPTIONS.items() if not option.commands or command in option.commands}
