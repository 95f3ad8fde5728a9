"""Losses of class capsules at each pixel, as a config names them; their formulas are in `losses.segmentation`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import partial
from math import isfinite
from typing import Literal

from torch import Tensor
from typing_extensions import override

from capsule_lightning.errors import require
from capsule_lightning.losses.class_weights import ClassWeighted, ClassWeights
from capsule_lightning.losses.cross_entropy import activation_cross_entropy
from capsule_lightning.losses.segmentation import (
    mean_of_pixels,
    pixel_cross_entropy,
    pixel_margin_loss,
    positive_weights,
    soft_dice_loss,
    weighted_binary_cross_entropy,
)


class PixelLoss(ClassWeighted, ABC):
    """A loss of the class capsules of each pixel and of masks, which training minimizes.

    Args:
        class_weights: how much a pixel of each class counts, J numbers above 0 of which the background's is the first;
            ``balanced`` for such that each class counts the same over all pixels to train on; None for 1.

    Raises:
        InputError: a weight is not above 0 or not finite.
    """

    noun = "pixel"

    def __init__(self, class_weights: ClassWeights = None) -> None:
        super().__init__()
        self.weigh(class_weights)

    @abstractmethod
    def forward(self, activations: Tensor, masks: Tensor) -> Tensor:
        """Return the loss of a batch.

        Args:
            activations: ``(B, H, W, J)`` in [0, 1], of the class capsules, class 0 being the background.
            masks: ``(B, H, W)``, labels in [0, J), or -1 for pixels that do not count.

        Returns:
            Scalar.
        """


class PixelMarginLoss(PixelLoss):
    """Margin loss of every pixel, see `pixel_margin_loss`.

    Args:
        m_plus: length above which the capsule of a pixel's label costs nothing.
        m_minus: length below which any other capsule costs nothing.
        down_weight: how much the other capsules count.
        class_weights: see `PixelLoss`.

    Raises:
        InputError: margins out of order, a negative ``down_weight``, or what `PixelLoss` refuses.
    """

    def __init__(
        self,
        m_plus: float = 0.9,
        m_minus: float = 0.1,
        down_weight: float = 0.5,
        class_weights: list[float] | Literal["balanced"] | None = None,
    ) -> None:
        super().__init__(class_weights)
        require(
            0 <= m_minus < m_plus <= 1,
            f"PixelMarginLoss: m_minus={m_minus}, m_plus={m_plus}: expected 0 <= m_minus < m_plus <= 1",
        )
        require(down_weight >= 0, f"PixelMarginLoss: down_weight={down_weight}: expected 0 or more")
        self.m_plus, self.m_minus, self.down_weight = m_plus, m_minus, down_weight

    @override
    def forward(self, activations: Tensor, masks: Tensor) -> Tensor:
        return pixel_margin_loss(
            activations, masks, self.m_plus, self.m_minus, self.down_weight, class_weights=self.class_weights
        )


class PixelCrossEntropy(PixelLoss):
    """Cross-entropy of every pixel: of the softmax of scaled lengths, see `pixel_cross_entropy`.

    Args:
        scale: what lengths are multiplied by, above 0; null to take lengths divided by their sum for probabilities, see
            `activation_cross_entropy`, which of a U-Net, whose activations are a softmax, is the usual cross-entropy.
        class_weights: see `PixelLoss`.

    Raises:
        InputError: ``scale`` is not above 0, or what `PixelLoss` refuses.
    """

    def __init__(
        self, scale: float | None = 10.0, class_weights: list[float] | Literal["balanced"] | None = None
    ) -> None:
        super().__init__(class_weights)
        require(
            scale is None or (isfinite(scale) and scale > 0),
            f"PixelCrossEntropy: scale={scale}: expected a number above 0, or null",
        )
        self.scale = scale

    @override
    def forward(self, activations: Tensor, masks: Tensor) -> Tensor:
        if self.scale is not None:
            return pixel_cross_entropy(activations, masks, self.scale, self.class_weights)
        likelihood = partial(activation_cross_entropy, class_weights=self.class_weights)
        return mean_of_pixels(likelihood, activations, masks)


class PixelBinaryCrossEntropy(PixelLoss):
    """Binary cross-entropy of every capsule's length at every pixel, see `weighted_binary_cross_entropy`.

    Args:
        positive_weights: how much a pixel that is of a class counts for the capsule of that class, J numbers above 0 of
            which the background's is the first; ``balanced`` for the paper's, the pixels of all other classes by those
            of the class; null for 1.

    Raises:
        InputError: what `PixelLoss` refuses.
    """

    weights_argument = "positive_weights"

    def __init__(self, positive_weights: list[float] | Literal["balanced"] | None = None) -> None:
        super().__init__(positive_weights)

    @override
    def forward(self, activations: Tensor, masks: Tensor) -> Tensor:
        return weighted_binary_cross_entropy(activations, masks, self.class_weights)

    @override
    def weights_of(self, counts: Tensor) -> Tensor:
        return positive_weights(counts)


class SoftDiceLoss(PixelLoss):
    """One minus the Dice of each class's lengths as probabilities, see `soft_dice_loss`.

    Args:
        background: count the background as a class, too.
        smooth: added to numerator and denominator, above 0.

    Raises:
        InputError: ``smooth`` is not above 0.
    """

    def __init__(self, background: bool = False, smooth: float = 1.0) -> None:
        super().__init__()
        require(isfinite(smooth) and smooth > 0, f"SoftDiceLoss: smooth={smooth}: expected a number above 0")
        self.background, self.smooth = background, smooth

    @override
    def forward(self, activations: Tensor, masks: Tensor) -> Tensor:
        return soft_dice_loss(activations, masks, self.background, self.smooth)
