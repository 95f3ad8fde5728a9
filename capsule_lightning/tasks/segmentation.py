"""Say of each pixel what it shows, by the longest of the class capsules that lie on it.

LaLonde & Bagci, Capsules for Object Segmentation, 2018 (arXiv 1804.04241), section 2.2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, get_args

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torchmetrics import Metric
from typing_extensions import override

from capsule_lightning.capsules import Capsules
from capsule_lightning.data.module import DataModule
from capsule_lightning.data.paired_masks import PairedMasksDataModule
from capsule_lightning.data.targets import HasMasks, MaskBatch
from capsule_lightning.errors import InputError, require, require_one_of
from capsule_lightning.layers.mask_regions import Step, processed
from capsule_lightning.losses.pixels import PixelLoss, PixelMarginLoss
from capsule_lightning.losses.segmentation import masked_reconstruction_error
from capsule_lightning.metrics.masks import Dice, IoU, MaskScores
from capsule_lightning.models.segcaps import SegCaps
from capsule_lightning.models.segmentation import SegmentationNet
from capsule_lightning.schedules import ExponentialDecay
from capsule_lightning.tasks.annotated import AnnotatedTask
from capsule_lightning.tasks.balanced import BalancesClasses
from capsule_lightning.tasks.base import ScheduleCallable, Stage


class MaskOutput(NamedTuple):
    """What a network says about a batch of images.

    Attributes:
        capsules: the class capsules, ``poses (B, H, W, J, E), activations (B, H, W, J)``.
        masks: ``(B, H, W)`` int64, the class of the longest capsule; 0 is the background.
        reconstructions: ``(B, C, H, W)`` in [0, 1] of what is not background: in training mode from the capsules of the
            labels, otherwise from those of ``masks``; None without a decoder.
    """

    capsules: Capsules
    masks: Tensor
    reconstructions: Tensor | None


class MaskPrediction(NamedTuple):
    """What evaluation and prediction report about a batch.

    Attributes:
        masks: ``(B, H, W)`` int64, the class of the longest capsule; 0 is the background.
        processed: the same after the task's post-processing; the same tensor without any.
        confidence: ``(B, H, W)`` in [0, 1], the length of the longest capsule.
        reconstructions: ``(B, C, H, W)`` in [0, 1], from the capsules of ``masks``; None without a decoder.
    """

    masks: Tensor
    processed: Tensor
    confidence: Tensor
    reconstructions: Tensor | None


class SegmentationTask(BalancesClasses, AnnotatedTask):
    """Segment images; a batch is anything that has masks, see `HasMasks`.

    Metrics are ``dice``, by whose validation value the best state is selected, and ``iou``: of all pixels of all
    images, the mean over classes without the background. A test tells them by class, too, and the mean Dice of single
    images and the Hausdorff distance, see `MaskScores`; with ``postprocessing`` all of them again for the masks after
    it, as ``test/dice_<names of the steps>``.

    Args:
        in_shape: ``(C, H, W)`` of one image; stated by the data.
        num_classes: number of classes without the background; stated by the data.
        net: called with ``(in_shape, num_classes + 1)``, the classes with the background.
        loss: of the class capsules at all pixels.
        reconstruction_weight: weight of the squared error of the image without its background, the mean over pixels;
            0.1 in the paper.
        postprocessing: what is done to the masks of a test or a prediction, in this order: ``largest_component`` keeps
            of each class the connected region with the most pixels, ``fill_holes`` adds what it encloses. It has no
            influence on the selection of the best state.
        optimizer, lr_scheduler, skip_not_finite: see `Task`.

    Raises:
        InputError: a negative ``reconstruction_weight`` or ``skip_not_finite``, an unknown step, or weights of other
            classes than these.
    """

    results: ClassVar[Mapping[str, Sequence[str]]] = {"output": (".csv",)}
    selected_by = ("dice", "max")

    def __init__(
        self,
        in_shape: tuple[int, ...],
        num_classes: int,
        net: Callable[[tuple[int, ...], int], SegmentationNet] = SegCaps,
        loss: Callable[[], PixelLoss] = PixelMarginLoss,
        reconstruction_weight: float = 0.1,
        postprocessing: Sequence[Step] = (),
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_scheduler: ScheduleCallable | None = ExponentialDecay,
        skip_not_finite: int = 0,
    ) -> None:
        super().__init__(optimizer, lr_scheduler, skip_not_finite)
        self.save_hyperparameters(logger=False)
        require(reconstruction_weight >= 0, f"reconstruction_weight={reconstruction_weight}: expected 0 or more")
        for step in postprocessing:
            require_one_of("postprocessing", step, get_args(Step))
        self.in_shape, self.num_classes = tuple(in_shape), num_classes
        self.net = net(self.in_shape, num_classes + 1)
        self.loss = loss()
        self.loss.require_classes(num_classes + 1)
        self.reconstruction_weight, self.postprocessing = reconstruction_weight, tuple(postprocessing)
        if self.net.decoder is not None:
            self.loss_names = ("loss", "pixel_loss", "reconstruction_loss")
        endings = ["", f"_{'_'.join(self.postprocessing)}"] if self.postprocessing else [""]
        self._endings, self._scores = endings, nn.ModuleList(MaskScores(num_classes + 1) for _ in endings)

    @property
    @override
    def num_weights(self) -> int:
        return self.num_classes + 1

    @override
    def counts_to_balance(self, data: DataModule | None) -> Tensor:
        if not isinstance(data, PairedMasksDataModule):
            raise InputError(
                f"{self.loss.weights_argument}=balanced: these data do not say how many pixels a class has; give a "
                "weight for the background and for each class, or masks of your own"
            )
        return data.pixel_counts()

    @override
    def names_of_network(self, data: DataModule) -> list[str]:
        return ["background", *super().names_of_network(data)]

    @override
    def forward(self, images: Tensor) -> Capsules:
        """Return the class capsules of all pixels of images ``(B, C, H, W)``."""
        capsules: Capsules = self.net(images)
        return capsules

    @override
    def output(self, batch: HasMasks) -> MaskOutput:
        require(
            hasattr(batch, "masks"),
            "SegmentationTask: these data have no masks; choose --data ImageMaskDataModule or ScenesDataModule",
        )
        capsules = self(batch.images)
        masks = capsules.activations.argmax(dim=-1)
        reconstructions = self.net.reconstruct(capsules, batch.masks if self.training else masks)
        return MaskOutput(capsules, masks, reconstructions)

    @override
    def losses(self, output: MaskOutput, batch: HasMasks) -> dict[str, Tensor]:
        loss = self.loss(output.capsules.activations, batch.masks)
        if output.reconstructions is None:
            return {"loss": loss}
        error = masked_reconstruction_error(output.reconstructions, batch.pictures, batch.masks)
        return {
            "loss": loss + self.reconstruction_weight * error,
            "pixel_loss": loss,
            "reconstruction_loss": error,
        }

    @override
    def prediction(self, output: MaskOutput, batch: Any) -> MaskPrediction:
        # a validation has no use for what is done to the masks, and it takes time
        masks = output.masks if self.training or self._validates else processed(output.masks, self.postprocessing)
        confidence = output.capsules.activations.amax(dim=-1)
        return MaskPrediction(output.masks, masks, confidence, output.reconstructions)

    @property
    def _validates(self) -> bool:
        return self._trainer is not None and not (self.trainer.testing or self.trainer.predicting)

    @override
    def metrics(self, stage: Stage) -> dict[str, Metric]:
        return {"dice": Dice(self.num_classes + 1), "iou": IoU(self.num_classes + 1)}

    @override
    def compared(self, output: MaskOutput, batch: HasMasks) -> tuple[Tensor, Tensor]:
        return output.masks, batch.masks

    @override
    def test_step(self, batch: HasMasks, batch_idx: int) -> MaskPrediction:  # type: ignore[override]
        prediction: MaskPrediction = super().test_step(batch, batch_idx)
        for scores, masks in zip(self._scores, (prediction.masks, prediction.processed), strict=False):
            scores.update(masks, batch.masks)  # type: ignore[operator]
        return prediction

    @override
    def on_test_epoch_start(self) -> None:
        for scores in self._scores:
            scores.reset()  # type: ignore[operator]

    @override
    def on_test_epoch_end(self) -> None:
        """Log what a test tells by class and by image, before and after post-processing."""
        data = getattr(self.trainer, "datamodule", None)
        names = getattr(data, "class_names", None) or [str(number + 1) for number in range(self.num_classes)]
        for ending, scores in zip(self._endings, self._scores, strict=True):
            for name, values in scores.compute().items():  # type: ignore[operator]
                measure, _, by_class = name.partition("/")
                if not ending and name in ("dice", "iou"):
                    continue  # logged like those of a validation
                # torchmetrics makes a number of the values of a single class
                for label, value in zip(names, values.reshape(-1), strict=True) if by_class else [("", values)]:
                    if not value.isnan():
                        key = f"test/{measure}{ending}/{label}" if label else f"test/{measure}{ending}"
                        self.log(key, value.float().to(self.device), sync_dist=True)  # equal on all processes

    @override
    def example_batch(self, size: int) -> MaskBatch:
        images = torch.rand(size, *self.in_shape, device=self.device)
        masks = torch.zeros(size, *self.in_shape[1:], dtype=torch.int64, device=self.device)
        masks[:, : masks.shape[1] // 2] = 1
        return MaskBatch(images, images, masks, masks[:, 0, 0])
