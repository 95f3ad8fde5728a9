"""Augmentation of whole batches on the device, random for each image.

An augmentation is a plain function of images and of ``num_draws`` uniform random numbers for each image, which the
loader draws. It is therefore the same on every device and for every number of processes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor


class Augmentation(ABC):
    """A random change of training images, and what brings evaluation images to the same shape.

    Attributes:
        num_draws: uniform random numbers that it needs for each image, K.
        mixes: whether a training image is mixed with another one, see `mix`.
    """

    num_draws: int = 0
    mixes: bool = False

    def out_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return the shape that images of ``shape`` (C, H, W) have afterwards; refuse those that do not fit."""
        return shape

    @property
    def moves_masks(self) -> bool:
        """Whether masks can be changed like the images that they belong to, see `train_masks`."""
        return type(self).move is not Augmentation.move

    @abstractmethod
    def train(self, images: Tensor, draws: Tensor) -> Tensor:
        """Change images ``(B, C, H, W)``, float in [0, 1], as draws ``(B, K)`` in [0, 1) decide."""

    def move(self, images: Tensor, draws: Tensor, nearest: bool = False) -> Tensor:
        """Move pixels as `train` does, and change no values; an augmentation that masks can follow implements it.

        Args:
            images: ``(B, C, H, W)``, any real values.
            draws: ``(B, K)`` in [0, 1), those that `train` gets.
            nearest: take the value of the nearest pixel instead of one between pixels.

        Returns:
            The same shape, 0 in what moves in.
        """
        raise NotImplementedError(f"{type(self).__name__} moves pixels: implement `move`, which masks can follow")

    @property
    def moves_points(self) -> bool:
        """Whether boxes and joints can be moved like the images that they belong to, see `move_points`."""
        return type(self).move_points is not Augmentation.move_points

    def move_points(self, points: Tensor, draws: Tensor, size: tuple[int, int]) -> Tensor:
        """Move places as `train` moves the pixels there; what boxes and joints can follow implements it.

        Args:
            points: ``(B, N, 2)``, pixels to the right and down from the upper left corner of an image, so that the
                center of the first pixel is at (0.5, 0.5).
            draws: ``(B, K)`` in [0, 1), those that `train` gets.
            size: rows and columns of the images.

        Returns:
            The same shape; what is moved out of an image lies outside.
        """
        raise NotImplementedError(f"{type(self).__name__} moves pixels: implement `move_points`, too")

    def train_masks(self, masks: Tensor, draws: Tensor) -> Tensor:
        """Move masks ``(B, H, W)`` int64, at least -1, by the draws with which `train` changes their images.

        Returns:
            The same shape; -1, which is ignored, in what moves in.
        """
        moved = self.move((masks + 1).unsqueeze(1).float(), draws, nearest=True)
        return moved.squeeze(1).round().long() - 1

    def mix(self, first: Tensor, second: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Mix pairs of images that `train` has changed; only asked for if it ``mixes``.

        Args:
            first: ``(B, C, H, W)``, float in [0, 1].
            second: ``(B, C, H, W)``, their partners.
            draws: ``(B, K)`` in [0, 1), those of the first.

        Returns:
            The mixed images ``(B, C, H, W)``, and the shares ``(B)`` in [0, 1] that the first have in them.
        """
        raise NotImplementedError(f"{type(self).__name__} mixes images: implement `mix`")

    def evaluate(self, images: Tensor) -> Tensor:
        """Return images ``(B, C, H, W)`` for evaluation, without randomness."""
        return images


def standardize(images: Tensor) -> Tensor:
    """Give each image ``(B, C, H, W)`` in [0, 1] mean 0 and standard deviation 1, over all its values.

    The deviation counts as at least that of rounding noise on a scale of 0 to 255, ``1 / sqrt(C H W)``, which is the
    rule of TensorFlow's ``per_image_standardization``, which the paper's code calls.
    """
    floor = 1 / (255 * images[0].numel() ** 0.5)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    deviation = images.std(dim=(1, 2, 3), keepdim=True, correction=0)
    return (images - mean) / deviation.clamp_min(floor)
