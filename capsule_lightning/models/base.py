"""The contract of every network."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn
from typing_extensions import override

from capsule_lightning.capsules import Capsules
from capsule_lightning.decoders.base import Decoder
from capsule_lightning.encoders.base import CapsuleMap
from capsule_lightning.errors import InputError, require


class CapsuleNet(nn.Module, ABC):
    """A network that turns images into class capsules and, if it has a decoder, class capsules back into pictures.

    It is built with ``(in_shape, num_classes)``, both of which the data module states.

    Args:
        in_shape: ``(C, H, W)`` of one image.
        num_classes: class capsules, J.

    Raises:
        InputError: there are fewer than 2 classes, or a size is below 1.
    """

    def __init__(self, in_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        require(
            len(in_shape) == 3 and min(in_shape) >= 1,
            f"in_shape={tuple(in_shape)}: expected (channels, rows, columns), each at least 1",
        )
        require(num_classes >= 2, f"num_classes={num_classes}: expected at least 2 classes to tell apart")
        self.in_shape, self.num_classes = tuple(in_shape), num_classes
        self.decoder: Decoder | None = None

    @abstractmethod
    def class_capsules(self, images: Tensor) -> Capsules:
        """Return ``poses (B, J, E), activations (B, J)`` of images ``(B, C, H, W)``."""

    def child_map(self) -> CapsuleMap | None:
        """Return where the children of the class capsules lie in the image; None if that is not known."""
        return None

    @override
    def forward(self, images: Tensor) -> Capsules:
        """Return the class capsules of images.

        Args:
            images: ``(B, C, H, W)``, any real values, usually in [0, 1].

        Returns:
            ``poses (B, J, E)``, ``activations (B, J)`` in [0, 1]; the largest activation is the prediction.

        Raises:
            InputError: the images have another shape than the network was built for.
        """
        if images.ndim != 4 or tuple(images.shape[1:]) != self.in_shape:
            raise InputError(
                f"images of shape {tuple(images.shape)}: this network was built for (batch, "
                f"{', '.join(map(str, self.in_shape))}); give it images of that size and number of channels"
            )
        return self.class_capsules(images)

    def reconstruct(self, capsules: Capsules, labels: Tensor) -> Tensor | None:
        """Return pictures ``(B, C, H, W)`` in [0, 1] of the capsules of ``labels (B)``; None if there is no decoder."""
        return None if self.decoder is None else self.decoder(capsules.poses, labels)
