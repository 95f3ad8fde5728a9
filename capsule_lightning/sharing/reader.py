"""Prepare images for a trained network as its training images were prepared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from capsule_lightning.augmentations.base import Augmentation
from capsule_lightning.augmentations.identity import NoAugmentation
from capsule_lightning.data.image_files import read_images
from capsule_lightning.data.pictures import Reading
from capsule_lightning.data.trained_on import TrainedOn
from capsule_lightning.errors import InputError, first_line, require
from capsule_lightning.runs.folders import expanded

READ_AS = ("background", "invert", "max_pixels", "fit")
"""Arguments of a data module that say how image files become pictures, see `Reading`."""


class ImageReader:
    """Turns image files or pixels into the input of a network.

    Args:
        images: what the network was trained on.
        augmentation: whose evaluation brings images to the shape of the input; None if they have it.
    """

    def __init__(self, images: TrainedOn, augmentation: Augmentation | None = None) -> None:
        self.images, self.augmentation = images, augmentation or NoAugmentation()
        given = (images.slot or {}).get("init_args", {})
        values = None if images.value_range is None else (images.value_range[0], images.value_range[1])
        self.reading = Reading(**{name: given[name] for name in READ_AS if name in given}, values=values)
        stored = tuple(images.in_shape if images.stored_shape is None else images.stored_shape)
        if tuple(self.augmentation.out_shape((stored[0], stored[1], stored[2]))) != tuple(images.in_shape):
            stored, self.augmentation = tuple(images.in_shape), NoAugmentation()
        self.shape = (stored[0], stored[1], stored[2])
        self.is_for_vectors = self.shape[1:] == (1, 1)

    def __call__(self, images: Any) -> Tensor:
        """Return the network's input ``(B, C, H, W)`` of images, see `pictures`; or of vectors, see `vectors`."""
        return self.images.normalize(self.vectors(images) if self.is_for_vectors else self._prepared(images))

    def pictures(self, images: Any) -> Tensor:
        """Return images as ``(B, C, H, W)`` float32 in [0, 1], of the shape of the network's input.

        Args:
            images: the path of an image file, or several; or pixels ``(H, W)``, ``(C, H, W)``, ``(B, H, W)`` or ``(B,
                C, H, W)`` as a tensor or an array, uint8 from 0 to 255 or floating-point from 0 to 1.

        Raises:
            InputError: a file cannot be read, or pixels have another shape or range.
        """
        return self._prepared(images).clamp(0, 1)

    def _prepared(self, images: Any) -> Tensor:
        """Return images as they are before they are normalized; of more than 8 bits they may be outside of [0, 1]."""
        paths = [images] if isinstance(images, str | Path) else images
        if isinstance(paths, Sequence) and all(isinstance(path, str | Path) for path in paths):
            require(paths, "no images: expected paths of image files, or pixels")
            stored = read_images(
                [expanded(path, "path") for path in paths], self.shape, resize=True, reading=self.reading
            )
        else:
            stored = self._pixels(images)
        pictures = stored.float() / 255 if stored.dtype == torch.uint8 else stored.float()
        return self.augmentation.evaluate(pictures)

    def vectors(self, vectors: Any) -> Tensor:
        """Return vectors of D numbers as ``(B, D, 1, 1)`` float32, the numbers as they are.

        Args:
            vectors: ``(B, D)``, ``(D)`` or ``(B, D, 1, 1)``, a tensor or an array.

        Raises:
            InputError: they are no numbers, or have another shape.
        """
        try:
            found = torch.as_tensor(np.asarray(vectors) if not isinstance(vectors, Tensor) else vectors).float()
        except (TypeError, ValueError) as error:
            raise InputError(
                f"no vectors ({first_line(error)}): this network takes vectors of {self.shape[0]} numbers, as a tensor "
                f"or an array (batch, {self.shape[0]})"
            ) from error
        found = found.unsqueeze(0) if found.ndim == 1 else found
        good = found.ndim >= 2 and found.shape[1] == self.shape[0] and found[0].numel() == self.shape[0]
        require(good, f"vectors of shape {tuple(found.shape)}: expected (batch, {self.shape[0]})")
        return found.reshape(len(found), *self.shape)

    def _pixels(self, images: Any) -> Tensor:
        """Return pixels as ``(B, C, H, W)``."""
        found = torch.as_tensor(np.asarray(images) if not isinstance(images, Tensor) else images)
        wanted = f"expected (batch, {', '.join(map(str, self.shape))}), or paths of image files"
        if found.ndim == 2 or (found.ndim == 3 and self.shape[0] == 1 and found.shape[0] != 1):
            found = found.unsqueeze(-3)
        found = found.unsqueeze(0) if found.ndim == 3 else found
        require(tuple(found.shape[1:]) == self.shape, f"images of shape {tuple(found.shape)}: {wanted}")
        if found.dtype != torch.uint8:
            inside = found.is_floating_point() and bool(((found >= 0) & (found <= 1)).all())
            require(inside, f"images of {found.dtype}: expected uint8 from 0 to 255, or numbers from 0 to 1")
        return found
