"""The contract of every network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import override

from capsule_lightning.capsules import Capsules
from capsule_lightning.decoders.base import Decoder
from capsule_lightning.encoders.base import CapsuleMap
from capsule_lightning.errors import InputError, require
from capsule_lightning.losses.naming import Naming


class Answers(NamedTuple):
    """What a network says about images.

    Attributes:
        classes: ``(B)`` int64, the class of the longest capsule. If an image may have several classes, ``(B, L)``,
            those that are named, -1 in places without one.
        names: the B names of these classes, or B lists of names.
        lengths: ``(B, J)`` in [0, 1], the lengths of the class capsules; if an image may have any number of classes,
            how sure the network is that each is there, which is compared with its threshold.
        poses: ``(B, J, E)``, their poses.
    """

    classes: Tensor
    names: list[str] | list[list[str]]
    lengths: Tensor
    poses: Tensor


class CapsuleNet(nn.Module, ABC):
    """A network that turns images into class capsules and, if it has a decoder, class capsules back into pictures.

    It is built with ``(in_shape, num_classes)``, both of which the data module states.

    Args:
        in_shape: ``(C, H, W)`` of one image.
        num_classes: class capsules, J.

    Attributes:
        class_names: names of the J classes; their numbers unless the network was loaded from a file that states them.
        reader: turns what `predict` is given into the network's input; None to take it as it is. `load_network` sets
            one that reads image files and prepares them as in training.
        naming: says which classes `predict` names, if an image may have several; None for the longest. `load_network`
            sets the one that the network was trained with.

    Raises:
        InputError: there are fewer than 2 classes, or a size is below 1.
    """

    ordinal: bool = False
    """Whether its classes are grades, in their order."""

    def __init__(self, in_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.require_shape(in_shape)
        require(num_classes >= 2, f"num_classes={num_classes}: expected at least 2 classes to tell apart")
        self.in_shape, self.num_classes = tuple(in_shape), num_classes
        self.decoder: Decoder | None = None
        self.class_names: Sequence[str] = [str(number) for number in range(num_classes)]
        self.reader: Callable[[Any], Tensor] | None = None
        self.naming: Naming | None = None

    @staticmethod
    def require_shape(in_shape: tuple[int, ...]) -> None:
        """Refuse an ``in_shape`` that is none of an image, or of whatever else the network takes.

        Raises:
            InputError: it is not.
        """
        require(
            len(in_shape) == 3 and min(in_shape) >= 1,
            f"in_shape={tuple(in_shape)}: expected (channels, rows, columns), each at least 1",
        )

    def require_inputs(self, images: Tensor) -> None:
        """Refuse a batch that the network was not built for.

        Raises:
            InputError: its shape is another one.
        """
        if images.ndim != 4 or tuple(images.shape[1:]) != self.in_shape:
            raise InputError(
                f"images of shape {tuple(images.shape)}: this network was built for (batch, "
                f"{', '.join(map(str, self.in_shape))}); give it images of that size and number of channels"
            )

    def example_inputs(self, size: int) -> Tensor:
        """Return ``size`` random inputs of the right shape and type on the CPU, to try the network with."""
        return torch.rand(size, *self.in_shape)

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
        self.require_inputs(images)
        return self.class_capsules(images)

    @torch.no_grad()
    def predict(self, images: Any, batch_size: int = 256) -> Answers:
        """Return classes, names, lengths and poses of images, on the CPU.

        Args:
            images: whatever `reader` takes, such as the path of an image file, a list of paths, or pixels; the
                network's input ``(B, C, H, W)`` if there is none.
            batch_size: images at a time.

        Raises:
            InputError: an image cannot be read, or has another shape.

        Example:
            >>> from capsule_lightning import load_network
            >>> load_network("efficient_capsnet_mnist").predict(torch.zeros(1, 28, 28)).lengths.shape
            torch.Size([1, 10])
        """
        found = evaluated(self, images if self.reader is None else self.reader(images), batch_size)
        poses = torch.cat([capsules.poses for capsules in found])
        lengths = torch.cat([capsules.activations for capsules in found])
        if self.naming is None:
            classes = lengths.argmax(dim=-1).cpu()
            return Answers(classes, self.names_of(classes), lengths.cpu(), poses.cpu())
        classes, lengths = self.naming(Capsules(poses, lengths))
        names = [[self.class_names[number] for number in row if number >= 0] for row in classes.tolist()]
        return Answers(classes.cpu(), names, lengths.cpu(), poses.cpu())

    def names_of(self, classes: Tensor) -> list[str]:
        """Return the names of classes ``(B)``, one for each image."""
        return [self.class_names[number] for number in classes.tolist()]

    def reconstruct(self, capsules: Capsules, labels: Tensor) -> Tensor | None:
        """Return pictures ``(B, C, H, W)`` in [0, 1] of the capsules of ``labels (B)``; None if there is no decoder."""
        return None if self.decoder is None else self.decoder(capsules.poses, labels)


@torch.no_grad()
def evaluated(net: nn.Module, inputs: Tensor, batch_size: int) -> list[Any]:
    """Return what a network in evaluation mode says about each part of its inputs ``(B, C, H, W)``."""
    weight, training = next(net.parameters()), net.training
    net.eval()
    try:
        dtype = weight.dtype if inputs.is_floating_point() else inputs.dtype  # words are numbers of a vocabulary
        return [net(part.to(weight.device, dtype)) for part in torch.split(inputs, batch_size)]
    finally:
        net.train(training)
