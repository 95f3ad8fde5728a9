"""What tasks share whose images have more than a class: their checkpoints hold what the network was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from typing_extensions import override

from capsule_lightning.data.base import ImageDataModule
from capsule_lightning.data.module import DataModule
from capsule_lightning.data.trained_on import annotated_on, names_of, read_trained_on
from capsule_lightning.runs.checkpoint_files import TRAINED_ON
from capsule_lightning.tasks.images import ImageTask


class AnnotatedTask(ImageTask):
    """A task on masks, boxes or joints, whose network can be used where its training images are not."""

    @override
    def setup(self, stage: str) -> None:
        """Note what the network is trained on; refuse to measure it on other classes.

        Raises:
            InputError: the data have other classes.
        """
        super().setup(stage)
        data = self._annotated()
        if data is not None and stage == "fit":
            self.trained_on = annotated_on(data, self.names_of_network(data))
        elif data is not None and self.trained_on is not None:
            self.trained_on.require_same_names(self.names_of_network(data), "the network")

    def names_of_network(self, data: DataModule) -> Sequence[str]:
        """Return the names of all that the network tells apart."""
        return names_of(data)

    def _annotated(self) -> DataModule | None:
        with suppress(RuntimeError):  # no trainer
            data = getattr(self.trainer, "datamodule", None)
            return data if isinstance(data, DataModule) and not isinstance(data, ImageDataModule) else None
        return None

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a network of other classes, or other weights, and take over what it was trained on.

        Raises:
            InputError: the data have other classes; or what `Task.on_load_checkpoint` refuses.
        """
        found = read_trained_on(checkpoint.get(TRAINED_ON), "the checkpoint")
        data, here = self._annotated(), self.trained_on
        if found is not None and data is not None:
            found.require_same_names(self.names_of_network(data), "the checkpoint")
        super().on_load_checkpoint(checkpoint)
        if here is not None:
            self.trained_on = here  # training goes on with what is asked for now
