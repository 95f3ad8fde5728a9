"""The contract of the networks whose class capsules lie on the pixels of an image."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor
from typing_extensions import override

from capsule_lightning.capsules import Capsules
from capsule_lightning.models.base import CapsuleNet


class SegmentationNet(CapsuleNet):
    """A network with class capsules at each pixel.

    Where other networks have the batch, B, this one has batch, rows and columns, ``B, H, W``: its capsules are ``poses
    (B, H, W, J, E), activations (B, H, W, J)``, and its labels a mask ``(B, H, W)``. Class 0 is the background. It is
    built with ``(in_shape, num_classes)``, J classes with the background.

    A decoder, if there is one, is built and called like those of other networks, and sees the capsule of the label at
    each pixel; at pixels of the background it sees nothing. See `PixelDecoder`.

    Args:
        in_shape: ``(C, H, W)`` of one image.
        num_classes: classes with the background, J.
    """

    @abstractmethod
    def class_capsules(self, images: Tensor) -> Capsules:
        """Return ``poses (B, H, W, J, E), activations (B, H, W, J)`` of images ``(B, C, H, W)``."""

    @override
    def forward(self, images: Tensor) -> Capsules:
        """Return the class capsules of every pixel.

        Args:
            images: ``(B, C, H, W)``, any real values, usually in [0, 1].

        Returns:
            ``poses (B, H, W, J, E)``, ``activations (B, H, W, J)`` in [0, 1]; the largest activation at a pixel is the
            prediction.

        Raises:
            InputError: the images have another shape than the network was built for.
        """
        return super().forward(images)

    @override
    def reconstruct(self, capsules: Capsules, labels: Tensor) -> Tensor | None:
        """Return pictures ``(B, C, H, W)`` of the capsules of masks ``(B, H, W)``; None if there is no decoder.

        They reconstruct the image where the mask is not background, ``images * (labels > 0)``; pixels that a mask
        ignores, below 0, count as background.
        """
        return super().reconstruct(capsules, labels)

    @override
    def names_of(self, classes: Tensor) -> list[str]:
        """Return, for each mask ``(B, H, W)``, the names of the classes in it, with commas; background is left out."""
        return [
            ", ".join(self.class_names[number] for number in torch.unique(mask).tolist() if number > 0)
            for mask in classes
        ]
