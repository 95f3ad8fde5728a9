"""The network with one capsule for each joint of a body, from which the place of the joint is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from typing_extensions import override

from capsule_lightning.capsules import Capsules
from capsule_lightning.decoders.depth import DepthDecoder
from capsule_lightning.encoders.base import CapsuleMap, Encoder
from capsule_lightning.encoders.resnet import ResNetEncoder
from capsule_lightning.models.pose import Dims, Places, PoseNet
from capsule_lightning.routing.base import Routing
from capsule_lightning.routing.dynamic import DynamicRouting


class PoseCapsNet(PoseNet):
    """A network that goes from the image to primary capsules and by routing to one capsule for each joint.

    Each joint is read from its own capsule by one linear map that all joints share, so that a capsule has to say where
    its joint is, and nothing else can.

    Args:
        in_shape: ``(C, H, W)`` of one image.
        num_classes: joints, K.
        encoder: called with ``in_shape``.
        routing: called with ``(encoder.num_capsules, encoder.dim, num_classes, dim)``.
        dim: dimensions of a joint capsule, E.
        dims: coordinates of a joint: 2 for pixels, 3 for meters.
        depth_hidden: widths of the dense layers that reconstruct the depth map from all joint capsules; null for no
            reconstruction.

    Example:
        >>> import torch
        >>> net = PoseCapsNet((1, 32, 32), 15)
        >>> net.read(net(torch.rand(2, 1, 32, 32))).joints.shape
        torch.Size([2, 15, 2])
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        num_classes: int,
        *,
        encoder: Callable[[tuple[int, ...]], Encoder] = ResNetEncoder,
        routing: Callable[[int, int, int, int], Routing] = DynamicRouting,
        dim: int = 16,
        dims: Dims = 2,
        depth_hidden: Sequence[int] | None = None,
    ) -> None:
        super().__init__(in_shape, num_classes, dims)
        self.encoder = encoder(self.in_shape)
        self.routing = routing(self.encoder.num_capsules, self.encoder.dim, num_classes, dim)
        self.reading = nn.Linear(dim, dims)
        self.depth: DepthDecoder | None = None
        if depth_hidden is not None:
            self.depth = DepthDecoder(num_classes * dim, self.in_shape, hidden=depth_hidden)
            self.reads_depth = True

    @override
    def class_capsules(self, images: Tensor) -> Capsules:
        capsules: Capsules = self.routing(self.encoder(images))
        return capsules

    @override
    def read(self, capsules: Capsules) -> Places:
        joints = self.in_units(self.reading(capsules.poses))
        return Places(joints, depth=None if self.depth is None else self.depth(capsules.poses))

    @override
    def child_map(self) -> CapsuleMap | None:
        return self.encoder.capsule_map()
