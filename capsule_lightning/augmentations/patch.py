"""A random patch of each image, with changed brightness and contrast."""

from __future__ import annotations

from torch import Tensor
from typing_extensions import override

from capsule_lightning.augmentations.base import Augmentation
from capsule_lightning.augmentations.geometry import crop, mirror
from capsule_lightning.errors import require


class RandomPatch(Augmentation):
    """A random patch, mirrored half of the time, of random brightness and contrast; the central patch in evaluation.

    This is the CIFAR-10 augmentation of Sabour et al. 2017 (24x24 patches, section 7) with the numbers of their
    released code: brightness is shifted by up to 63 of 255, then contrast is multiplied by 0.2 to 1.8 about each
    channel's mean.

    Args:
        size: rows and columns of the patch.
        flip: mirror left and right, half of the time.
        brightness: largest shift of brightness, in [0, 1].
        contrast: largest relative change of contrast, in [0, 1].
    """

    num_draws = 5

    def __init__(self, size: int = 24, flip: bool = True, brightness: float = 63 / 255, contrast: float = 0.8) -> None:
        require(size >= 1, f"RandomPatch: size={size}: expected at least 1")
        for name, value in (("brightness", brightness), ("contrast", contrast)):
            require(0 <= value <= 1, f"RandomPatch: {name}={value}: expected a number in [0, 1]")
        self.size, self.flip, self.brightness, self.contrast = size, flip, brightness, contrast

    @override
    def out_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        require(
            self.size <= min(shape[1:]),
            f"RandomPatch: size={self.size}: larger than the images of {shape[1]}x{shape[2]}; expected at most "
            f"{min(shape[1:])}",
        )
        return shape[0], self.size, self.size

    @override
    def train(self, images: Tensor, draws: Tensor) -> Tensor:
        """Return patches; changed brightness and contrast may lead out of [0, 1]."""
        images = crop(images, (self.size, self.size), draws[:, 0], draws[:, 1])
        if self.flip:
            images = mirror(images, draws[:, 2])
        change = (2 * draws[:, 3:, None, None] - 1).unsqueeze(2)  # (B, 2, 1, 1, 1) in [-1, 1)
        images = images + self.brightness * change[:, 0]
        mean = images.mean(dim=(-2, -1), keepdim=True)
        return (images - mean) * (1 + self.contrast * change[:, 1]) + mean

    @override
    def evaluate(self, images: Tensor) -> Tensor:
        top, left = ((n - self.size) // 2 for n in images.shape[-2:])
        return images[..., top : top + self.size, left : left + self.size]
