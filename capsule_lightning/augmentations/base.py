"""Augmentation of whole batches on the device, random for each image.

An augmentation is a plain function of images and of ``num_draws`` uniform random numbers an image, which the loader
hands out. So it is the same on every device and for every number of processes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor


class Augmentation(ABC):
    """Changes training images at random, and brings evaluation images to the same shape.

    Attributes:
        num_draws: uniform random numbers it needs for each image, K.
    """

    num_draws: int = 0

    def out_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """The shape that images of ``shape`` (C, H, W) come out with; refuses images it cannot work on."""
        return shape

    @abstractmethod
    def train(self, images: Tensor, draws: Tensor) -> Tensor:
        """Images ``(B, C, H, W)`` float in [0, 1] and draws ``(B, K)`` in [0, 1) to changed images."""

    def evaluate(self, images: Tensor) -> Tensor:
        """Images ``(B, C, H, W)`` without chance."""
        return images


def standardize(images: Tensor) -> Tensor:
    """Mean 0 and standard deviation 1 for each image ``(B, C, H, W)`` in [0, 1], over all its values.

    The deviation is taken to be at least that of rounding noise on a 0 to 255 scale, ``1 / sqrt(C H W)``, which is the
    rule of TensorFlow's ``per_image_standardization`` that the paper's code calls.
    """
    floor = 1 / (255 * images[0].numel() ** 0.5)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    deviation = images.std(dim=(1, 2, 3), keepdim=True, correction=0)
    return (images - mean) / deviation.clamp_min(floor)
