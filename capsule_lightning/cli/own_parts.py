"""The callbacks and loggers that every run has, and the words that take one away.

``default.yaml`` lists them. They keep a run safe and report on it, so a list of callbacks in a config of one's own is
added to them. Of a class that is one of them, or stands for one, the user's takes its place. What takes one away:

========================================  ==================================================================
``--without CLASS``, ``[CLASS,CLASS]``    any of them
``--trainer.enable_checkpointing false``  `RunCheckpoint`
``--trainer.enable_progress_bar false``   `RunProgress`
``--trainer.enable_model_summary true``   `NetworkSummary`, for Lightning's own summary
``--trainer.logger false``                W&B; ``metrics.csv`` stays
``--trainer.barebones true``              all
========================================  ==================================================================

A list of loggers takes the place of W&B; ``metrics.csv`` stays beside them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from capsule_lightning.cli.faults import causes
from capsule_lightning.components.build import build_part
from capsule_lightning.components.names import short_names
from capsule_lightning.components.slots import arguments
from capsule_lightning.errors import InputError, first_line, nearest, require
from capsule_lightning.runs.files import read_yaml
from capsule_lightning.shipped import CONFIG_DIR

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

RECORD = "MetricsFile"
"""The logger that a list of other loggers does not replace."""
LISTS = ("callbacks", "logger")
"""Options of the trainer that hold such parts."""
STANDS_FOR = {"ProgressBar": "RunProgress", "ModelSummary": "NetworkSummary"}
"""Lightning's classes of which a run has one, and which of ours does the same."""
SWITCHES = {
    ("enable_checkpointing", False): "RunCheckpoint",
    ("enable_progress_bar", False): "RunProgress",
    ("enable_model_summary", True): "NetworkSummary",
}
"""Options of the trainer with the value that takes one of ours away."""

Part = Mapping[str, Any]


def names() -> list[str]:
    """Return the short names of the callbacks and loggers that every run has."""
    return [_short(part) for kind in LISTS for part in own(kind)]


@cache
def own(kind: str) -> tuple[Part, ...]:
    """Return those of ``default.yaml``: its ``callbacks`` or its ``logger``."""
    return tuple(read_yaml(CONFIG_DIR / "default.yaml")["trainer"][kind])


def joined(kind: str, before: Any, new: Sequence[Part], appends: bool) -> list[Part]:
    """Return a list of callbacks or loggers after one has been given over it.

    Args:
        kind: ``callbacks`` or ``logger``.
        before: the list so far.
        new: the list that is given.
        appends: whether it is added to all that is there, rather than to ours alone.
    """
    replaced = {_role(part) for part in new} - {None}
    stays = names() if kind == "callbacks" else [RECORD]
    known = before if isinstance(before, list) else [] if kind == "callbacks" else list(own(kind))
    kept = [part for part in known if (appends and isinstance(before, list)) or _role(part) in stays]
    return [*(part for part in kept if _role(part) not in replaced), *new]


def without(parts: Any, words: Sequence[str]) -> Any:
    """Return a list of callbacks or loggers without some of ours.

    Raises:
        InputError: a word is not the name of one of ours.
    """
    for word in words:
        require(
            word in names(),
            f"without={word}: expected callbacks or loggers that a run has by itself: {', '.join(names())}"
            f"{nearest(word, names())}",
        )
    return [part for part in parts if _role(part) not in words] if isinstance(parts, list) else parts


def switched(options: Mapping[str, Any]) -> list[str]:
    """Return the names of ours that the trainer's own switches take away.

    Args:
        options: of the trainer, by name.
    """
    if options["barebones"]:
        return names()
    return [name for (option, value), name in SWITCHES.items() if options[option] is value]


def loggers(options: Mapping[str, Any], left_out: Sequence[str]) -> list[Part]:
    """Return the loggers of a run: none but its record if ``logger`` is false.

    Args:
        options: of the trainer, by name.
        left_out: see `without`.
    """
    given = options["logger"]
    if given is True:
        given = list(own("logger"))
    listed = list(given) if isinstance(given, list) else joined("logger", None, [], appends=False)
    return list(without(listed, [*left_out, *switched(options)]))


def places(cls: type) -> tuple[str, ...]:
    """Return the arguments of a logger's class that are the run's folder unless they are given."""
    from lightning.pytorch.loggers import Logger

    return ("save_dir", "root_dir") if issubclass(cls, Logger) else ()


def placed(part: Part, folder: str) -> Part:
    """Return a logger whose files lie in the run's folder unless it has a place of its own."""
    cls, given = _class(str(part["class_path"])), part.get("init_args") or {}
    known = arguments(cls)
    place = next((name for name in places(cls) if name in known), None)  # root_dir may be a base's name of save_dir
    if place is None or place in given or not known[place].required:
        return part
    return {**part, "init_args": {**given, place: folder}}


def make_logger(part: Part, folder: str) -> Logger:
    """Return the object of a logger, which writes into the run's folder.

    Raises:
        InputError: a value that it does not take, or a package that it needs and that is not there.
    """
    from lightning.pytorch.loggers import Logger

    try:
        logger: Logger = build_part(placed(part, folder), Logger)
    except (ImportError, InputError) as error:
        lacking = next((cause for cause in causes(error) if isinstance(cause, ImportError)), None)
        if lacking is None:
            raise
        name = _short(part)
        extra = "; pip install 'capsule_lightning[tensorboard]'" if "TensorBoard" in name else ""
        raise InputError(f"trainer.logger={name}: {first_line(lacking)[:200]}{extra}") from error
    return logger


def _role(part: Part) -> str | None:
    """Return the name of that of ours which a part is, derives from or stands for; None if it is another."""
    known = _roles()
    return next((known[cls] for cls in _class(str(part["class_path"])).__mro__ if cls in known), None)


@cache
def _roles() -> dict[type, str]:
    """Map each of our classes, and those of Lightning that stand for one, to the name of ours."""
    return {_class(name): STANDS_FOR.get(name, name) for name in (*names(), *STANDS_FOR)}


def _class(path: str) -> type:
    """Return a class that has been imported, by its dotted path or by the short name of one of ours or Lightning's."""
    module, _, name = path.rpartition(".")
    module = module or short_names().get(name, "lightning.pytorch.callbacks")
    found: type = getattr(import_module(module), name)
    return found


def _short(part: Part) -> str:
    return str(part["class_path"]).rpartition(".")[2]
