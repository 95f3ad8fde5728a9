"""The convolutional network that pose networks of capsules are compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from typing_extensions import override

from capsule_lightning.capsules import Capsules
from capsule_lightning.decoders.depth import DepthDecoder
from capsule_lightning.encoders.base import Encoder
from capsule_lightning.encoders.resnet import ResNetEncoder
from capsule_lightning.errors import require
from capsule_lightning.models.pose import Dims, Places, PoseNet


class PoseCNN(PoseNet):
    """The encoder of a capsule network, then dense layers with ReLU in place of the routing.

    It has the interface of the pose networks of capsules: the "pose" of a joint is its coordinates, and its activation
    the sigmoid of a number of its own. Every joint is read from all features.

    Args:
        in_shape: ``(C, H, W)`` of one image.
        num_classes: joints, K.
        encoder: called with ``in_shape``; of its capsules the poses are taken as features, through a ReLU.
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
        encoder: Callable[[tuple[int, ...]], Encoder] = ResNetEncoder,
        hidden: Sequence[int] = (256,),
        dims: Dims = 2,
        depth_hidden: Sequence[int] | None = None,
    ) -> None:
        super().__init__(in_shape, num_classes, dims)
        require(min(hidden, default=1) >= 1, f"PoseCNN: hidden={list(hidden)}: expected widths of at least 1")
        self.encoder = encoder(self.in_shape)
        width = self.encoder.num_capsules * self.encoder.dim
        layers: list[nn.Module] = [nn.Flatten(), nn.ReLU()]
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
        numbers = self.reading(self.layers(self.encoder(images).poses)).unflatten(1, (self.num_classes, -1))
        return Capsules(numbers[..., :-1], numbers[..., -1].sigmoid())

    @override
    def read(self, capsules: Capsules) -> Places:
        joints = self.in_units(capsules.poses)
        return Places(joints, depth=None if self.depth is None else self.depth(capsules.poses))
