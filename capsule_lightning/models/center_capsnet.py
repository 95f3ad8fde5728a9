"""A capsule detector: what is there and how it lies are different capsules of the same cell.

LaLonde, Khosravan & Bagci, Deformable Capsules for Object Detection, 2021 (arXiv 2104.05031), with the heads of
CenterNet (Zhou, Wang & Kraehenbuehl 2019, arXiv 1904.07850). Their code is not public; this is our network after the
abstract, not theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor, nn
from typing_extensions import override

from capsule_lightning.capsules import Capsules
from capsule_lightning.errors import require
from capsule_lightning.layers.squash import squash
from capsule_lightning.models.deformable_capsules import DeformableCapsules
from capsule_lightning.models.detector import CenterMaps, Detector, RegressionHead, trunk_to_cells
from capsule_lightning.models.shared_kernel_capsules import SharedKernelCapsules
from capsule_lightning.routing.base import Routing
from capsule_lightning.routing.dynamic import DynamicRouting
from capsule_lightning.routing.uniform import UniformRouting

BiasedRouting = partial(DynamicRouting, bias=True)
"""Dynamic routing with the bias of SegCaps, which keeps capsules from being silent before they have learned."""


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
        deformable: let the convolutional capsules choose the places that they see, see `DeformableCapsules`, as LaLonde
            et al. do; it takes a routing of votes, and about twice the time.
        routing: of the convolutional and the presence capsules, see `SharedKernelCapsules`. Its parents should not be
            silent before training, as the bias of dynamic routing and of SE-routing makes sure. Dynamic routing of one
            iteration is the control with uniform couplings.
        presence_dim: dimensions of a presence capsule.
        instantiation_dim: dimensions of an instantiation capsule.
        recompute: route again in the backward pass instead of keeping the votes: for large images, less memory and more
            time.

    Raises:
        InputError: a size is below 1 or even, or the lists do not fit each other.

    Example:
        >>> import torch
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
        deformable: bool = True,
        routing: Callable[[int, int, int, int], Routing] = BiasedRouting,
        presence_dim: int = 8,
        instantiation_dim: int = 64,
        recompute: bool = False,
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
        layer_of = DeformableCapsules if deformable else SharedKernelCapsules
        self.capsules = layer_of(num_types, dim, num_types, dim, routing=routing, kernel_size=kernel_size)
        self.presence = SharedKernelCapsules(
            num_types, dim, num_classes + 1, presence_dim, routing=routing, kernel_size=1
        )
        for layer in (self.capsules, self.presence):
            layer.blocked &= recompute
        self.instantiation = UniformRouting(num_types, dim, 1, instantiation_dim)
        self.read = RegressionHead(instantiation_dim)

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
