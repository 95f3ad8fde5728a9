"""The convolutional network that pose networks of capsules are compared with."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from typing_extensions import override

from capsule_lightning.capsules import Capsules
from capsule_lightning.decoders.depth import DepthDecoder
from capsule_lightning.encoders.resnet import ResidualTrunk
from capsule_lightning.errors import require
from capsule_lightning.models.pose import Dims, Places, PoseNet


class PoseCNN(PoseNet):
    """The trunk of `ResNetEncoder`, dense layers and a linear map to all joints at once.

    It has the interface of the pose networks of capsules: the "pose" of a joint is its coordinates, and its activation
    the sigmoid of a number of its own.

    Args:
        in_shape: ``(C, H, W)`` of one image.
        num_classes: joints, K.
        stem, planes, blocks, strides: see `ResidualTrunk`.
        hidden: widths of the dense layers.
        dims: coordinates of a joint: 2 for pixels, 3 for meters.
        depth_hidden: widths of the dense layers that reconstruct the depth map from the coordinates; null for no
            reconstruction.

    Raises:
        InputError: a size is below 1.
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        num_classes: int,
        *,
        stem: int = 16,
        planes: Sequence[int] = (16, 32, 64),
        blocks: Sequence[int] = (3, 3, 3),
        strides: Sequence[int] = (1, 2, 2),
        hidden: Sequence[int] = (256,),
        dims: Dims = 2,
        depth_hidden: Sequence[int] | None = None,
    ) -> None:
        super().__init__(in_shape, num_classes, dims)
        require(min(hidden, default=1) >= 1, f"PoseCNN: hidden={list(hidden)}: expected widths of at least 1")
        self.trunk = ResidualTrunk(self.in_shape[0], stem, planes, blocks, strides)
        rows, columns = (-(-n // self.trunk.stride) for n in self.in_shape[-2:])
        width = self.trunk.channels * rows * columns
        layers: list[nn.Module] = [nn.Flatten()]
        for following in hidden:
            layers += [nn.Linear(width, following), nn.ReLU()]
            width = following
        self.layers = nn.Sequential(*layers)
        self.reading = nn.Linear(width, num_classes * (dims + 1))
        self.depth: DepthDecoder | None = None
        if depth_hidden is not None:
            self.depth = DepthDecoder(num_classes * dims, self.in_shape, hidden=depth_hidden)
            self.reads_depth = True

    @override
    def class_capsules(self, images: Tensor) -> Capsules:
        """Return "capsules" whose poses ``(B, K, D)`` are coordinates."""
        numbers = self.reading(self.layers(self.trunk(images))).unflatten(1, (self.num_classes, -1))
        return Capsules(numbers[..., :-1], numbers[..., -1].sigmoid())

    @override
    def read(self, capsules: Capsules) -> Places:
        joints = self.in_units(capsules.poses)
        return Places(joints, depth=None if self.depth is None else self.depth(capsules.poses))
