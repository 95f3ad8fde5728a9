"""How well masks agree: Dice, intersection over union, and Hausdorff distance, by class and by image.

Pixels that a mask ignores count nowhere. Counts are whole numbers that batches and processes add up, so that what
follows from them is exact, however the images were split; a mean of the means of batches would not be.
"""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric
from torchmetrics.classification import MulticlassConfusionMatrix
from typing_extensions import override


def dice_by_class(confusion: Tensor) -> Tensor:
    """Return ``2 |P and T| / (|P| + |T|)`` of each class: pixels predicted, P, and true, T.

    Args:
        confusion: ``(J, J)``, pixels of each true class (row) that were taken for each class (column).

    Returns:
        ``(J)`` float64 in [0, 1]; NaN for a class that is neither there nor predicted.

    Source: Dice, Measures of the Amount of Ecologic Association Between Species, Ecology 26, 1945.

    Example:
        >>> dice_by_class(torch.tensor([[6, 0], [1, 3]]))
        tensor([0.9231, 0.8571], dtype=torch.float64)
    """
    counts = confusion.double()
    return 2 * counts.diagonal() / (counts.sum(dim=0) + counts.sum(dim=1))


def iou_by_class(confusion: Tensor) -> Tensor:
    """Return ``|P and T| / |P or T|`` of each class, the intersection over union; see `dice_by_class`.

    Source: Jaccard, The Distribution of the Flora in the Alpine Zone, New Phytologist 11, 1912.
    """
    counts = confusion.double()
    shared = counts.diagonal()
    return shared / (counts.sum(dim=0) + counts.sum(dim=1) - shared)


class _Overlap(MulticlassConfusionMatrix):
    """The mean over all classes but the background of a measure of all pixels; classes that are nowhere are left out.

    Updated with masks ``(B, H, W)`` predicted and true, int64, of which the latter are -1 where nothing counts.

    Args:
        num_classes: classes with the background, J.
    """

    higher_is_better = True

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, ignore_index=-1, validate_args=False)

    @abstractmethod
    def by_class(self, confusion: Tensor) -> Tensor:
        """Return the measure ``(J)`` of each class."""

    @override
    def compute(self) -> Tensor:
        found = self.by_class(super().compute().cpu())[1:]
        return found.nanmean().nan_to_num().float().to(self.device)


class Dice(_Overlap):
    """Dice of all pixels of all images: the mean over classes, see `dice_by_class`; 0 if there is no class."""

    @override
    def by_class(self, confusion: Tensor) -> Tensor:
        return dice_by_class(confusion)


class IoU(_Overlap):
    """Intersection over union of all pixels: the mean over classes, see `iou_by_class`; 0 if there is no class."""

    @override
    def by_class(self, confusion: Tensor) -> Tensor:
        return iou_by_class(confusion)


def image_dice(predicted: Tensor, true: Tensor, num_classes: int) -> Tensor:
    """Return the Dice of each class in each image.

    Args:
        predicted: ``(B, H, W)`` int64 in [0, J).
        true: the same, -1 where nothing counts.
        num_classes: classes with the background, J.

    Returns:
        ``(B, J - 1)`` float64, without the background; NaN if a class is neither there nor predicted.
    """
    counted = (true >= 0).unsqueeze(-1)
    found = F.one_hot(predicted, num_classes) * counted
    there = F.one_hot(true.clamp_min(0), num_classes) * counted
    shared, both = (part.flatten(1, 2).sum(dim=1)[:, 1:].double() for part in (found * there, found + there))
    return 2 * shared / both


def hausdorff_distance(predicted: np.ndarray, true: np.ndarray) -> float:
    """Return how far the edge of one mask is at most from that of the other, in pixels, whichever is greater.

    Args:
        predicted: ``(H, W)`` bool.
        true: the same shape.

    Returns:
        At least 0; NaN if one of them is empty.

    Source: torchmetrics' ``hausdorff_distance`` defines it so, for pairs of pixels; distances here are those of
    `scipy.ndimage`, which need no memory for all pairs.
    """
    if not (predicted.any() and true.any()):
        return float("nan")
    edges = [mask & ~ndimage.binary_erosion(mask) for mask in (predicted, true)]
    away = [ndimage.distance_transform_edt(~edge) for edge in edges]
    return float(max(away[1][edges[0]].max(), away[0][edges[1]].max()))


class MaskScores(Metric):
    """All that a test tells about masks; updated like `Dice`.

    Args:
        num_classes: classes with the background, J.
    """

    confusion: Tensor
    dices: Tensor
    images: Tensor
    mean_dice: Tensor
    with_class: Tensor
    distances: Tensor
    pairs: Tensor
    unpaired: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        classes = num_classes - 1
        for name, zeros in {
            "confusion": torch.zeros(num_classes, num_classes, dtype=torch.int64),
            "dices": torch.zeros(classes, dtype=torch.float64),
            "images": torch.zeros(classes, dtype=torch.int64),
            "mean_dice": torch.zeros((), dtype=torch.float64),
            "with_class": torch.zeros((), dtype=torch.int64),
            "distances": torch.zeros(classes, dtype=torch.float64),
            "pairs": torch.zeros(classes, dtype=torch.int64),
            "unpaired": torch.zeros(classes, dtype=torch.int64),
        }.items():
            self.add_state(name, zeros, dist_reduce_fx="sum")

    @override
    def update(self, predicted: Tensor, true: Tensor) -> None:
        predicted, true = predicted.cpu(), true.cpu()  # distances are found there, and other GPUs lack float64
        counted = true >= 0
        pairs = true[counted] * self.num_classes + predicted[counted]
        counts = torch.bincount(pairs, minlength=self.num_classes**2).view(self.num_classes, self.num_classes)
        self._add("confusion", counts)
        dice = image_dice(predicted, true, self.num_classes)
        known = ~dice.isnan()
        some = known.any(dim=1)
        self._add("dices", dice.nan_to_num().sum(dim=0))
        self._add("images", known.sum(dim=0))
        self._add("mean_dice", dice[some].nanmean(dim=1).sum())
        self._add("with_class", some.sum())
        said, truth = (torch.where(counted, mask, 0).numpy() for mask in (predicted, true))
        for image, label in known.nonzero().tolist():
            distance = hausdorff_distance(said[image] == label + 1, truth[image] == label + 1)
            if np.isnan(distance):
                self.unpaired[label] += 1
            else:
                self.distances[label] += distance
                self.pairs[label] += 1

    def _add(self, name: str, values: Tensor) -> None:
        state: Tensor = getattr(self, name)
        setattr(self, name, state + values.to(state.device))

    @override
    def compute(self) -> dict[str, Tensor]:
        """Return measures by name, float64: numbers of all classes, and those ``by_class``, ``(J - 1)``.

        ``dice`` and ``iou`` are of all pixels of all images. ``image_dice`` is the mean over images of the mean Dice of
        the classes in an image; of a class, the mean over the images in which it is. ``hausdorff`` is the mean over
        images of the greatest distance of two edges, and ``hausdorff_missing`` the share of the pairs of image and
        class that have none, because one mask is empty. What cannot be told is NaN.
        """
        counts = self.confusion.cpu()
        dices, images, distances, pairs, unpaired = (
            state.cpu().double() for state in (self.dices, self.images, self.distances, self.pairs, self.unpaired)
        )
        by_class = {
            "dice": dice_by_class(counts)[1:],
            "iou": iou_by_class(counts)[1:],
            "image_dice": dices / images,
            "hausdorff": distances / pairs,
        }
        return {
            "dice": by_class["dice"].nanmean(),
            "iou": by_class["iou"].nanmean(),
            "image_dice": self.mean_dice.cpu() / self.with_class.cpu(),
            "hausdorff": distances.sum() / pairs.sum(),
            "hausdorff_missing": unpaired.sum() / (pairs + unpaired).sum(),
            **{f"{name}/by_class": values for name, values in by_class.items()},
        }
