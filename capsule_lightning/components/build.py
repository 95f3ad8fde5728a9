"""From a configuration that states everything to objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from capsule_lightning.components.names import import_components, modern_path, modernized
from capsule_lightning.components.slots import Slot, arguments, find_class
from capsule_lightning.errors import InputError

if TYPE_CHECKING:
    from capsule_lightning.data.module import DataModule
    from capsule_lightning.tasks.base import Task

FROM_DATA = ("in_shape", "num_classes")
"""Arguments of a task that its data state."""


class Experiment(NamedTuple):
    """What a config describes, but for the trainer.

    Attributes:
        task: the task, its network not trained yet.
        data: its data, not loaded yet.
    """

    task: Task
    data: DataModule


def build(config: Mapping[str, Any]) -> Experiment:
    """Make the task and the data of a configuration.

    Args:
        config: as `capsule_lightning.cli.configs.resolve` returns it, or a run's ``config.yaml``; of it, ``data`` and
            ``model`` are used.

    Raises:
        InputError: a class or a value that a slot does not take.
    """
    from jsonargparse import ArgumentParser

    from capsule_lightning.data.module import DataModule
    from capsule_lightning.tasks.base import Task

    parser = ArgumentParser(exit_on_error=False)  # Lightning's would take text for the path of a file with a class
    parser.add_subclass_arguments(DataModule, "data")
    parser.add_subclass_arguments(Task, "model")
    for name in FROM_DATA:
        parser.link_arguments(f"data.{name}", f"model.init_args.{name}", apply_on="instantiate")
    made = _instantiated(parser, {"data": config["data"], "model": told_by_data(config["model"])})
    return Experiment(made.model, made.data)


def build_part(slot: Any, base: type) -> Any:
    """Make the object of one slot of a configuration, such as its data module.

    Args:
        slot: ``class_path`` and ``init_args``.
        base: what its class derives from.

    Raises:
        InputError: a class or a value that the slot does not take.
    """
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(base, "part")
    return _instantiated(parser, {"part": slot}).part


def told_by_data(task: Any) -> Any:
    """Return the slot of a task with room for what its data state; anything but a slot is returned as it is.

    A link fills only arguments that are there, and defaults are not laid below a configuration that states everything:
    jsonargparse would parse each class twice as often for every level that it is deep.

    Args:
        task: ``class_path`` and ``init_args``.
    """
    from capsule_lightning.tasks.base import Task

    if not isinstance(task, Mapping) or not isinstance(task.get("class_path"), str):
        return task
    taken = arguments(find_class(modern_path(task["class_path"]), Slot((Task,))))
    room = {name: None for name in FROM_DATA if name in taken}
    return {**task, "init_args": {**room, **(task.get("init_args") or {})}}


def _instantiated(parser: Any, config: Mapping[str, Any]) -> Any:
    from jsonargparse import ArgumentError

    import_components()
    try:
        return parser.instantiate(parser.parse_object(modernized(dict(config)), defaults=False))
    except InputError:
        raise
    except (ArgumentError, TypeError, ValueError) as error:
        reason = str(error.__cause__) if isinstance(error.__cause__, InputError) else ""
        raise InputError(reason or f"the configuration is refused: {' '.join(str(error).split())[:300]}") from error
