"""What tasks share whose loss may weigh classes by how much of each there is to train on."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from torch import Tensor
from typing_extensions import override

from capsule_lightning.data.module import DataModule
from capsule_lightning.losses.class_weights import ClassWeighted
from capsule_lightning.tasks.image_classification import loss_arguments
from capsule_lightning.tasks.images import ImageTask


class BalancesClasses(ImageTask):
    """A task whose ``loss`` is `ClassWeighted`; the weights that a run begins with are kept by it.

    It stands before the other base of a task.
    """

    @property
    @abstractmethod
    def num_weights(self) -> int:
        """Number of classes that are weighed, J."""

    @abstractmethod
    def counts_to_balance(self, data: DataModule | None) -> Tensor:
        """Return how much of each class there is to train on, ``(J)``.

        Args:
            data: of the trainer; None of other data than a `DataModule`.

        Raises:
            InputError: the data do not say.
        """

    @property
    def _weighted(self) -> ClassWeighted:
        loss: ClassWeighted = self.loss  # type: ignore[assignment]
        return loss

    @override
    def setup(self, stage: str) -> None:
        """Weigh classes by what there is to train on, if the loss asks for it.

        Raises:
            InputError: the data do not say, or a class has none; what the setup of the task refuses.
        """
        super().setup(stage)
        if stage == "fit" and self._weighted.balanced:
            data = getattr(self.trainer, "datamodule", None)
            self._weighted.balance(self.counts_to_balance(data if isinstance(data, DataModule) else None))

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """State the weights that balance the classes as numbers, so that whoever loads the network has the same."""
        super().on_save_checkpoint(checkpoint)
        stated, weights = loss_arguments(checkpoint), self._weighted.class_weights
        if self._weighted.balanced and weights is not None:
            stated[self._weighted.weights_argument] = weights.tolist()

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the weights of classes that a run began with, whatever the data now are.

        Raises:
            InputError: they are not weights of these classes, or what the task refuses.
        """
        super().on_load_checkpoint(checkpoint)
        weights = loss_arguments(checkpoint).get(self._weighted.weights_argument)
        if self._weighted.balanced and isinstance(weights, list):
            self._weighted.weigh(weights)
            self._weighted.require_classes(self.num_weights)
            self._weighted.balanced = True
