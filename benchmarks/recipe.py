"""What ``fit`` builds from a config, without a trainer: the network, its loss and optimizer, and the data."""

from __future__ import annotations

from collections.abc import Sequence

from capsule_lightning.cli.training import CapsuleCLI, import_components, quieten
from capsule_lightning.data.base import ImageDataModule
from capsule_lightning.tasks.base import Task


class Recipe(CapsuleCLI):
    """A resolved config. Of the trainer's part nothing is built: no run folder, no logger, no schedule.

    Args:
        words: options of ``fit``.

    Raises:
        InputError: what ``fit`` would refuse.
    """

    def __init__(self, words: Sequence[str]) -> None:
        quieten()
        import_components()
        without = ("--model.lr_scheduler=null", "--trainer.logger=false", "--trainer.callbacks=null")
        super().__init__(["fit", *words, *without])

    def before_instantiate_classes(self) -> None:
        """No run, no folder."""

    def instantiate_classes(self) -> None:
        """Nothing yet: `build` does it."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Nothing is trained."""

    def build(self) -> tuple[Task, ImageDataModule]:
        """The task and the data module."""
        built = self.parser.instantiate_classes(self.config)["fit"]
        return built["model"], built["data"]
