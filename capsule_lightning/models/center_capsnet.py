"""A capsule detector: what is there and how it lies are different capsules of the same cell.

LaLonde, Khosravan & Bagci, Deformable Capsules for Object Detection, 2021 (arXiv 2104.05031), with the heads of
CenterNet (Zhou, Wang & Kraehenbuehl 2019, arXiv 1904.07850). Their code is not public; this is our network after the
abstract, not theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from capsule_lightning.capsules import Capsules
from capsule_lightning.errors import require
from capsule_lightning.layers.squash import squash
from capsule_lightning.models.detector import START, CenterMaps, Detector, RegressionHead, trunk_to_cells
from capsule_lightning.routing.base import Routing
from capsule_lightning.routing.dynamic import DynamicRouting
from capsule_lightning.routing.uniform import UniformRouting


class MapCapsules(nn.Module):
    """Capsules of a map that see their neighbors: one convolution for all types, then a routing in each cell.

    The convolution takes the poses of a type to poses of the same type; its kernel is shared by the types, as in
    SegCaps (LaLonde & Bagci, MIDL 2018, arXiv 1804.04241). The routing sees the types of one cell as its children.

    Args:
        num_in, dim_in: types and dimensions of the children, I and D.
        num_out, dim_out: types and dimensions of the parents, J and E.
        routing: called with ``(num_in, dim_in, num_out, dim_out)``.
        kernel_size: rows and columns of the kernel, odd.
    """

    def __init__(
        self,
        num_in: int,
        dim_in: int,
        num_out: int,
        dim_out: int,
        *,
        routing: Callable[[int, int, int, int], Routing],
        kernel_size: int,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim_in, dim_in, kernel_size, padding="same", bias=False)
        nn.init.dirac_(self.conv.weight)
        with torch.no_grad():
            self.conv.weight += torch.randn_like(self.conv.weight) / (kernel_size * sqrt(dim_in))
        self.routing = routing(num_in, dim_in, num_out, dim_out)

    @override
    def forward(self, capsules: Capsules) -> Capsules:
        """Return parents ``poses (B, rows, columns, J, E)`` of children ``poses (B, rows, columns, I, D)``."""
        poses = capsules.poses
        batch, rows, columns, types, dim = poses.shape
        maps = poses.permute(0, 3, 4, 1, 2).reshape(batch * types, dim, rows, columns)
        seen = squash(self.conv(maps), dim=1).reshape(batch, types, dim, rows, columns).permute(0, 3, 4, 1, 2)
        parents: Capsules = self.routing(Capsules.from_vectors(seen.contiguous()))
        return parents


class CenterCapsNet(Detector):
    """A residual trunk of stride 4, primary capsules, convolutional capsules, and SplitCaps: two kinds of capsules.

    In each cell there is a small presence capsule for each class, whose length says whether the center of an object of
    that class is there, and one of the background, whose length says nothing but which takes what no class explains:
    one class alone would have nothing to compete with. And there is a single instantiation capsule for whatever object
    it is, from which size and offset are read by one linear map. It is the only parent of its children, among which
    a routing would have nothing to decide: its pose is the squashed sum of their votes.

    Args:
        in_shape: ``(C, H, W)`` of one image.
        num_classes: classes of objects, J.
        stem, planes, blocks: see `capsule_lightning.encoders.resnet.ResidualTrunk`; the first two stages halve the
            image.
        num_types: types of primary and of convolutional capsules.
        dim: their dimensions.
        kernel_size: rows and columns of the kernel of the convolutional capsules, odd.
        routing: of the convolutional and the presence capsules, called with ``(types, dim, parents, dim of a parent)``
            for each cell.
        presence_dim: dimensions of a presence capsule.
        instantiation_dim: dimensions of an instantiation capsule.

    Raises:
        InputError: a size is below 1 or even, or the lists do not fit each other.

    Example:
        >>> net = CenterCapsNet((1, 64, 64), 10)
        >>> net(torch.rand(2, 1, 64, 64)).presence.shape
        torch.Size([2, 10, 16, 16])
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        num_classes: int,
        *,
        stem: int = 16,
        planes: Sequence[int] = (32, 64),
        blocks: Sequence[int] = (1, 1),
        num_types: int = 8,
        dim: int = 16,
        kernel_size: int = 5,
        routing: Callable[[int, int, int, int], Routing] = DynamicRouting,
        presence_dim: int = 8,
        instantiation_dim: int = 64,
    ) -> None:
        super().__init__(in_shape, num_classes)
        sizes = {
            "num_types": num_types, "dim": dim, "presence_dim": presence_dim, "instantiation_dim": instantiation_dim
        }  # fmt: skip
        for name, size in sizes.items():
            require(size >= 1, f"CenterCapsNet: {name}={size}: expected at least 1")
        require(
            kernel_size >= 1 and kernel_size % 2 == 1,
            f"CenterCapsNet: kernel_size={kernel_size}: expected an odd number, such as 5",
        )
        self.trunk = trunk_to_cells(self.in_shape[0], stem, planes, blocks)
        self.num_types, self.dim = num_types, dim
        self.primary = nn.Conv2d(self.trunk.channels, num_types * dim, 1)
        self.capsules = MapCapsules(num_types, dim, num_types, dim, routing=routing, kernel_size=kernel_size)
        self.presence = routing(num_types, dim, num_classes + 1, presence_dim)
        self.instantiation = UniformRouting(num_types, dim, 1, instantiation_dim)
        self.read = RegressionHead(instantiation_dim)
        for layer, length in ((self.capsules.routing, 0.5), (self.presence, START), (self.instantiation, 0.5)):
            start_at(layer, length)

    @override
    def maps(self, images: Tensor) -> CenterMaps:
        maps = self.primary(self.trunk(images))  # (B, types * dim, rows, columns)
        batch, _, rows, columns = maps.shape
        poses = maps.reshape(batch, self.num_types, self.dim, rows, columns).permute(0, 3, 4, 1, 2)
        capsules = self.capsules(Capsules.from_vectors(squash(poses)))
        presence = self.presence(capsules).activations[..., :-1].movedim(-1, 1)
        instantiation = self.instantiation(capsules)
        sizes, offsets = self.read(instantiation.poses.squeeze(-2).movedim(-1, 1))
        return CenterMaps(presence, sizes, offsets, instantiation)


@torch.no_grad()
def start_at(routing: Routing, length: float) -> None:
    """Scale the vote weights of a routing so that its parents begin with a mean length, if lengths are what it gives.

    Two routed layers of the usual initial weights leave lengths of 1e-7, where a heat map has no gradient.

    Args:
        routing: sees random children of length 0.7.
        length: mean length of its parents, in (0, 1).
    """
    weight = getattr(routing, "weight", None)
    poses = 0.7 * F.normalize(torch.randn(64, routing.num_in, routing.dim_in), dim=-1)
    for _ in range(4):  # iterated routing is not quite linear
        parents = routing(Capsules.from_vectors(poses))
        if not isinstance(weight, Tensor) or not torch.equal(parents.poses.norm(dim=-1), parents.activations):
            return
        found = parents.activations.mean()
        weight *= ((length / (1 - length)) / (found / (1 - found))).sqrt()
