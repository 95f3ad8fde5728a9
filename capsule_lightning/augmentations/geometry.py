"""Shifts, affine maps, crops and mirror images, drawn for each image."""

from __future__ import annotations

from math import inf, pi

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from capsule_lightning.augmentations.base import Augmentation
from capsule_lightning.errors import require


class Shift(Augmentation):
    """A shift by a whole number of pixels in each direction; zeros move in.

    Args:
        pixels: largest shift, 2 in the paper.

    Source: Sabour et al. 2017, section 5, for MNIST.
    """

    num_draws = 2

    def __init__(self, pixels: int = 2) -> None:
        require(pixels >= 0, f"Shift: pixels={pixels}: expected 0 or more")
        self.pixels = pixels

    @override
    def out_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        return _require_in_sight(f"Shift: pixels={self.pixels}", self.pixels, shape)

    @override
    def train(self, images: Tensor, draws: Tensor) -> Tensor:
        """Shift images; the draws are the rows and columns of the shift."""
        return self.move(images, draws)

    @override
    def move(self, images: Tensor, draws: Tensor, nearest: bool = False) -> Tensor:
        return shift(images, self.pixels, draws[:, 0], draws[:, 1])

    @override
    def move_points(self, points: Tensor, draws: Tensor, size: tuple[int, int]) -> Tensor:
        return points + shifted_by(self.pixels, draws[:, 0], draws[:, 1]).unsqueeze(1)


class Affine(Augmentation):
    """Rotation, scale, shear and shift of each image about its center, in one bilinear resampling; zeros move in.

    Args:
        degrees: largest rotation in either direction, in degrees.
        scale: largest relative change of size, in [0, 1).
        shear: largest shear in either direction, in degrees below 90.
        pixels: largest shift in each direction; a fraction is allowed.
    """

    num_draws = 5

    def __init__(self, degrees: float = 10.0, scale: float = 0.1, shear: float = 0.0, pixels: float = 2.0) -> None:
        for name, value, end in (
            ("degrees", degrees, 180.0),
            ("scale", scale, 0.999),
            ("shear", shear, 89.0),
            ("pixels", pixels, inf),
        ):
            require(0 <= value <= end, f"Affine: {name}={value}: expected a number from 0 to {end}")
        self.degrees, self.scale, self.shear, self.pixels = degrees, scale, shear, pixels

    @override
    def out_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        return _require_in_sight(f"Affine: pixels={self.pixels}", self.pixels, shape)

    @override
    def train(self, images: Tensor, draws: Tensor) -> Tensor:
        """Map images; the draws are rotation, scale, shear, rows and columns, each from least to largest."""
        return self.move(images, draws)

    @override
    def move(self, images: Tensor, draws: Tensor, nearest: bool = False) -> Tensor:
        angle, scale, shear, offset = self._drawn(draws)
        return affine(images, angle, scale, shear, offset, nearest)

    @override
    def move_points(self, points: Tensor, draws: Tensor, size: tuple[int, int]) -> Tensor:
        angle, scale, shear, offset = self._drawn(draws)
        center = points.new_tensor([size[1] / 2, size[0] / 2])
        forward = torch.linalg.inv(to_source(angle, scale, shear)).to(points)  # of 2x2 matrices
        moved: Tensor = (points - center) @ forward.mT + center + offset.unsqueeze(1)
        return moved

    def _drawn(self, draws: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Rotation and shear in radians, scale, and shift ``(B, 2)`` to the right and down."""
        angle, size, slant, down, right = (2 * draws - 1).unbind(dim=1)
        offset = torch.stack([right, down], dim=1) * self.pixels
        return angle * self.degrees * pi / 180, 1 + size * self.scale, slant * self.shear * pi / 180, offset


class PaddedCrop(Augmentation):
    """A crop of the image's own size at a random place of the zero-padded image, mirrored half of the time.

    This is the usual augmentation of CIFAR-10 since He et al., Deep Residual Learning for Image Recognition, 2016,
    section 4.2.

    Args:
        padding: zeros on each side, in pixels.
        flip: mirror left and right, half of the time.
    """

    num_draws = 3

    def __init__(self, padding: int = 4, flip: bool = True) -> None:
        require(padding >= 0, f"PaddedCrop: padding={padding}: expected 0 or more")
        self.padding, self.flip = padding, flip

    @override
    def out_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        return _require_in_sight(f"PaddedCrop: padding={self.padding}", self.padding, shape)

    @override
    def train(self, images: Tensor, draws: Tensor) -> Tensor:
        """Crop images at the first two draws, row and column; the third decides whether to mirror."""
        return self.move(images, draws)

    @override
    def move(self, images: Tensor, draws: Tensor, nearest: bool = False) -> Tensor:
        images = shift(images, self.padding, draws[:, 0], draws[:, 1])
        return mirror(images, draws[:, 2]) if self.flip else images

    @override
    def move_points(self, points: Tensor, draws: Tensor, size: tuple[int, int]) -> Tensor:
        points = points + shifted_by(self.padding, draws[:, 0], draws[:, 1]).unsqueeze(1)
        return mirror_points(points, draws[:, 2], size[1]) if self.flip else points


def shift(images: Tensor, pixels: int, row: Tensor, column: Tensor) -> Tensor:
    """Move each image ``(B, C, H, W)`` by up to ``pixels``, as draws ``(B)`` in [0, 1) decide; zeros move in."""
    return crop(F.pad(images, (pixels,) * 4), images.shape[-2:], row, column)


def shifted_by(pixels: int, row: Tensor, column: Tensor) -> Tensor:
    """Return how far `shift` moves images for the same draws ``(B)``: ``(B, 2)``, pixels to the right and down."""
    return pixels - torch.stack([(u * (2 * pixels + 1)).floor() for u in (column, row)], dim=-1)


def affine(
    images: Tensor, angle: Tensor, scale: Tensor, shear: Tensor, offset: Tensor, nearest: bool = False
) -> Tensor:
    """Shear, scale and rotate each image about its center, in this order, then move it; zeros move in.

    Args:
        images: ``(B, C, H, W)``.
        angle: ``(B)``, rotation in radians, clockwise as seen.
        scale: ``(B)``, above 0; more than 1 enlarges.
        shear: ``(B)``, radians; if positive, the top moves to the right of the bottom by its tangent.
        offset: ``(B, 2)``, pixels to the right and down.
        nearest: take the nearest pixel, as masks need it, instead of a bilinear mixture of four.

    Returns:
        ``(B, C, H, W)``.
    """
    inverse = to_source(angle, scale, shear)
    half = images.new_tensor([images.shape[-1] / 2, images.shape[-2] / 2])  # pixels of one unit of `affine_grid`
    matrix = inverse * half / half.unsqueeze(-1)
    start = -(inverse @ offset.to(inverse).unsqueeze(-1)) / half.unsqueeze(-1)  # (B, 2, 1)
    grid = F.affine_grid(torch.cat([matrix, start], dim=-1).to(images), list(images.shape), align_corners=False)
    mode = "nearest" if nearest else "bilinear"
    return F.grid_sample(images, grid, mode=mode, padding_mode="zeros", align_corners=False)


def to_source(angle: Tensor, scale: Tensor, shear: Tensor) -> Tensor:
    """Return ``(B, 2, 2)``, which map centered pixels of what `affine` makes to those of its input, without the offset.

    Args:
        angle, scale, shear: see `affine`; this is the inverse of rotation, scale and shear in that order.
    """
    cosine, sine, slant = angle.cos() / scale, angle.sin() / scale, shear.tan()
    return torch.stack([cosine - slant * sine, sine + slant * cosine, -sine, cosine], dim=-1).view(-1, 2, 2)


def crop(images: Tensor, size: tuple[int, int] | torch.Size, row: Tensor, column: Tensor) -> Tensor:
    """Cut a window of ``size`` from each image, at places that the draws choose uniformly from all that fit.

    Args:
        images: ``(B, C, H, W)``.
        size: rows and columns of the window.
        row: ``(B)``, draws in [0, 1).
        column: ``(B)``, draws in [0, 1).

    Returns:
        ``(B, C, *size)``.
    """
    windows = images.unfold(2, size[0], 1).unfold(3, size[1], 1)  # (B, C, rows, columns, *size), a view
    top, left = ((u * n).long() for u, n in zip((row, column), windows.shape[2:4], strict=True))
    return windows[torch.arange(len(images), device=images.device), :, top, left]


def mirror(images: Tensor, draws: Tensor) -> Tensor:
    """Mirror the images whose draws ``(B)`` are below one half, left and right."""
    mirrored = (draws < 0.5).to(images)[:, None, None, None]
    return torch.lerp(images, images.flip(-1), mirrored)  # exact at 0 and 1, and twice as fast as torch.where on a CPU


def mirror_points(points: Tensor, draws: Tensor, columns: int) -> Tensor:
    """Move places ``(B, N, 2)`` as `mirror` moves the pixels of images with so many columns, for draws ``(B)``."""
    mirrored = torch.stack([columns - points[..., 0], points[..., 1]], dim=-1)
    return torch.where((draws < 0.5)[:, None, None], mirrored, points)


def _require_in_sight(option: str, pixels: float, shape: tuple[int, int, int]) -> tuple[int, int, int]:
    require(
        pixels < min(shape[1:]),
        f"{option}: moves images of {shape[1]}x{shape[2]} out of sight: expected less than {min(shape[1:])}",
    )
    return shape
