"""The network of DECA: convolutional capsules, a capsule for each joint, and three heads that see all of them.

Garau, Bisagno, Brodka & Conci, DECA: Deep Viewpoint-Equivariant Human Pose Estimation Using Capsule Autoencoders, ICCV
2021 (arXiv 2108.08557).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from typing_extensions import override

from capsule_lightning.capsules import Capsules
from capsule_lightning.decoders.base import picture
from capsule_lightning.encoders.base import MapEncoder
from capsule_lightning.encoders.deca import DECAEncoder
from capsule_lightning.errors import require
from capsule_lightning.models.conv_capsnet import ConvCapsNet
from capsule_lightning.models.conv_capsules import ConvCapsules
from capsule_lightning.models.pose import Dims, Places, PoseNet, in_pixels
from capsule_lightning.routing.base import Routing
from capsule_lightning.routing.variational_bayes import VariationalBayesRouting

ENLARGED = 4
"""How many times larger the last layer of the depth head makes its map."""


class DECANet(PoseNet):
    """Primary capsules, two layers of convolutional capsules and joint capsules; dense heads read all joints at once.

    The heads are for joints in pixels, joints in meters and the depth map. With 19 joints of color images of 256x256
    pixels the network has 37,364,056 parameters, of which the capsules are 0.3 percent; the loss of the paper learns
    four more, see ``weighting`` of `PoseTask`. Which joint a head reads from which capsule is not fixed here: for that
    see `PoseCapsNet`.

    Two things are not as in the released code: coordinates are added to the votes of the joints as
    `coordinate_offsets` has it, ten times as large; and joints may be negative, which a GELU kept from them.

    Args:
        in_shape: ``(C, H, W)`` of one image; rows and columns are multiples of 4.
        num_classes: joints, K.
        encoder: called with ``in_shape``.
        routing: of every capsule layer, see `ConvCapsNet`.
        types: capsule types of each convolutional layer.
        strides: of each convolutional layer, whose kernels are 3x3.
        dim: dimensions of every pose, a square number with routings of matrix capsules.
        hidden: widths of the two hidden layers of each head.
        dropout: dropout rate before each of them, in [0, 1].
        dims: 2 for the heads of pixels, meters and depth; 3 to do without that of pixels.

    Raises:
        InputError: sizes do not fit.
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        num_classes: int,
        *,
        encoder: Callable[[tuple[int, ...]], MapEncoder] = DECAEncoder,
        routing: Callable[[int, int, int, int], Routing] = VariationalBayesRouting,
        types: Sequence[int] = (16, 16),
        strides: Sequence[int] = (2, 1),
        dim: int = 16,
        hidden: Sequence[int] = (1024, 2048),
        dropout: float = 0.5,
        dims: Dims = 2,
    ) -> None:
        super().__init__(in_shape, num_classes, dims)
        channels, rows, columns = self.in_shape
        require(
            rows % ENLARGED == columns % ENLARGED == 0,
            f"DECANet: images of {rows}x{columns}: expected multiples of {ENLARGED}",
        )
        require(0 <= dropout <= 1, f"DECANet: dropout={dropout}: expected a rate in [0, 1]")
        require(min(hidden, default=1) >= 1, f"DECANet: hidden={list(hidden)}: expected widths of at least 1")
        self.reads_both, self.reads_depth = dims == 2, True
        self.body = ConvCapsNet(
            self.in_shape,
            num_classes,
            encoder=encoder,
            routing=routing,
            types=types,
            kernel_sizes=[3] * len(types),
            strides=strides,
            dim=dim,
        )
        width = num_classes * dim

        def head(out: int) -> nn.Sequential:
            layers: list[nn.Module] = []
            before = width
            for following in hidden:
                layers += [nn.Dropout(dropout), nn.Linear(before, following), nn.GELU()]
                before = following
            return nn.Sequential(*layers, nn.Linear(before, out))

        self.pixels = head(2 * num_classes) if dims == 2 else None
        self.positions = head(3 * num_classes)
        self.small = (channels, rows // ENLARGED, columns // ENLARGED)
        self.depth = head(channels * self.small[1] * self.small[2])
        self.enlarge = nn.ConvTranspose2d(channels, channels, ENLARGED, stride=ENLARGED)

    @override
    def class_capsules(self, images: Tensor) -> Capsules:
        return self.body.class_capsules(images)

    @override
    def read(self, capsules: Capsules) -> Places:
        poses = capsules.poses.flatten(1)
        positions = self.positions(poses).unflatten(1, (self.num_classes, 3))
        maps = nn.functional.gelu(self.depth(poses)).view(-1, *self.small)
        depth = picture(self.enlarge(maps))
        if self.pixels is None:
            return Places(positions, depth=depth)
        pixels = self.pixels(poses).unflatten(1, (self.num_classes, 2))
        return Places(in_pixels(pixels, self.in_shape), positions, depth)

    @override
    def orthogonality(self) -> Tensor:
        """Return ``|W W^T - I|`` of the vote matrices W of the joints, over all of them together."""
        weight = cast(ConvCapsules, self.body.layers[-1]).routing.weight  # (types, K, n, n)
        assert isinstance(weight, Tensor)
        unit = torch.eye(weight.shape[-2], device=weight.device)
        apart: Tensor = torch.linalg.vector_norm(weight @ weight.transpose(-1, -2) - unit)
        return apart
