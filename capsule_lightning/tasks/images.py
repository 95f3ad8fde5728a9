"""What every task on images does: its network's checkpoint holds what the network was trained on."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from lightning.pytorch.trainer.states import TrainerFn
from typing_extensions import override

from capsule_lightning.data.base import ImageDataModule
from capsule_lightning.data.text import TextDataModule
from capsule_lightning.data.trained_on import TrainedOn, read_trained_on, trained_on
from capsule_lightning.runs.checkpoint_files import TRAINED_ON
from capsule_lightning.tasks.base import Task


class ImageTask(Task):
    """A task whose network can be used where its training images are not.

    Attributes:
        trained_on: what the images or texts and the answers of a trained network are; None before training, and with
            other data than an `ImageDataModule` or a `TextDataModule`.
    """

    trained_on: TrainedOn | None = None

    @override
    def setup(self, stage: str) -> None:
        """Note what the network is trained on; if that is known, normalize other data as the network expects.

        Raises:
            InputError: the data to be measured on have other classes, or images of another shape.
        """
        super().setup(stage)
        data = self._images()
        if data is not None and stage == "fit":
            self.trained_on = trained_on(data)
        elif data is not None and self.trained_on is not None:
            self.trained_on.require_same(data, "the network")
            self.trained_on.normalizes(data)

    def _images(self) -> ImageDataModule | TextDataModule | None:
        """Return the data module of images or texts that the trainer has; None without a trainer, or with others."""
        with suppress(RuntimeError):  # no trainer
            data = getattr(self.trainer, "datamodule", None)
            return data if isinstance(data, ImageDataModule | TextDataModule) else None
        return None

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what the network was trained on to what every task saves."""
        super().on_save_checkpoint(checkpoint)
        if self.trained_on is not None:
            checkpoint[TRAINED_ON] = self.trained_on.plain()

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a network of other images or classes, or other weights, and take over what it was trained on.

        Raises:
            InputError: the data have other classes, or images of another shape; or what `Task.on_load_checkpoint`
                refuses.
        """
        found = read_trained_on(checkpoint.get(TRAINED_ON), "the checkpoint")
        data = self._images()
        if found is None and isinstance(data, ImageDataModule):
            data.keep_classes(None)
        if found is not None and data is not None:
            found.require_same(data, "the checkpoint")
            found.normalizes(data)
        super().on_load_checkpoint(checkpoint)
        if found is not None and data is not None and self.trainer.state.fn == TrainerFn.FITTING:
            self.trained_on = trained_on(data)  # training goes on with what is asked for now
        elif found is not None:
            self.trained_on = found
