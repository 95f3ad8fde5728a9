"""The id of a run in W&B, and the words of its configuration by which runs are grouped and filtered."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

from capsule_lightning.loggers.base import Placement
from capsule_lightning.runs.folders import LONGEST

LONGEST_ID = 100
"""Most characters of an id: the names of a run's artifacts begin with it, and W&B takes 128 of those."""
RUN_ID_VARIABLE = "WANDB_RUN_ID"
LONGEST_TAG = 64


class Labels(NamedTuple):
    """The labels of a run in W&B.

    Attributes:
        name: display name.
        group: name that runs share if they differ only in their seed.
        tags: data, network and routing.
        job_type: name of the command.
    """

    name: str
    group: str
    tags: list[str]
    job_type: str


def labels(placement: Placement) -> Labels:
    """Return the labels of a run, which tell what it is, not when it was started.

    A run that is named as those of a study are, ``<choice>-seed<k>``, keeps that name and is grouped by its choice. Any
    other is named after its routing, or after its network if it has no routing.

    Example:
        >>> config = {"experiment": "digits", "seed_everything": 1, "data": "DigitsDataModule", "model.net": "CapsNet"}
        >>> config["model.net.routing"] = "EMRouting"
        >>> labels(Placement(Path("runs/digits/x7"), Path("runs/digits/x7"), "fit", config))[:3]
        ('EMRouting-seed1', 'digits-EMRouting', ['Digits', 'CapsNet', 'EMRouting'])
    """
    config, run_id = placement.config, placement.run_folder.name
    classes = [config.get(key) for key in ("model.net", "model.net.routing")]
    network = [name for name in classes if isinstance(name, str)]
    seed = config.get("seed_everything")
    suffix = "" if seed is None or seed is False else f"-seed{seed}"
    choice = run_id.removesuffix(suffix) if suffix and run_id.endswith(suffix) else (network or [run_id])[-1]
    tags = [str(config.get("data", "")).removesuffix("DataModule"), *network]
    return Labels(
        f"{choice}{suffix}"[:LONGEST],
        f"{config['experiment']}-{choice}"[:LONGEST],
        [tag[:LONGEST_TAG] for tag in dict.fromkeys(tags) if tag],
        placement.command,
    )


def wandb_id(experiment: str, run_id: str) -> str:
    """Return the id of a run in W&B, where the runs of all experiments lie in one project.

    W&B does not take all characters: those that it may refuse become ``_``. If there are any, or if the id is
    shortened, a digest keeps ids apart that would be equal.

    Example:
        >>> wandb_id("digits", "one"), wandb_id("digits", "lr: 1")
        ('digits-one', 'digits-lr__1-14ef0c9c')
    """
    text = f"{experiment}-{run_id}"
    allowed = re.sub(r"[^\w.+=-]", "_", text, flags=re.ASCII)
    if allowed == text and len(text) <= LONGEST_ID:
        return text
    digest = blake2b(text.encode(), digest_size=4).hexdigest()
    return f"{allowed[: LONGEST_ID - len(digest) - 1]}-{digest}"


def known_wandb_id(placement: Placement) -> str | None:
    """Return the id that W&B itself has given to the run, as the agent of a sweep does, or None."""
    run_id = placement.run_folder.name
    return run_id if os.environ.get(RUN_ID_VARIABLE) == run_id else None


def begun_as(names: Iterable[str], *folders: Path) -> str | None:
    """Return the first of some ids of which W&B has files in one of some folders, or None."""
    for name in names:
        pattern = f"wandb/*run-????????_??????-{glob.escape(name)}"
        if any(any(folder.glob(pattern)) for folder in folders):
            return name
    return None
