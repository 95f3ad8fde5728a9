"""SegCaps, a U-shaped network of convolutional capsules for segmentation.

LaLonde & Bagci, Capsules for Object Segmentation, 2018 (arXiv 1804.04241); LaLonde, Xu, Irmakci, Jain & Bagci, Capsules
for Biomedical Image Segmentation, Medical Image Analysis 68, 2021.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from math import sqrt

from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from capsule_lightning.capsules import Capsules
from capsule_lightning.decoders.base import Decoder
from capsule_lightning.decoders.pixels import PixelDecoder
from capsule_lightning.errors import require
from capsule_lightning.layers.precision import full_precision
from capsule_lightning.layers.squash import squash
from capsule_lightning.models.segmentation import SegmentationNet
from capsule_lightning.models.shared_kernel_capsules import SharedKernelCapsules, Upsampling, skip
from capsule_lightning.models.vote_scale import scale_votes
from capsule_lightning.routing.base import Routing
from capsule_lightning.routing.dynamic import DynamicRouting

BiasedDynamicRouting = partial(DynamicRouting, bias=True)
"""Dynamic routing as the released code has it: parents have a bias, which is initially 0.1."""


class SegCaps(SegmentationNet):
    """A U-shaped network of convolutional capsules, with class capsules at each pixel.

    The defaults are the paper's SegCaps R3. For gray images and one class it has 1,416,112 parameters without
    ``background``, as in the paper, and 9,537 in the decoder; with it 272 more. ``same_size_routing`` with
    ``DynamicRouting``, ``bias: true`` and ``iterations: 1`` is SegCaps R1. The paper does not say how many labels a
    network may have; its released code takes one, and gray images.

    With one class and no background capsule the last layer has a single parent, and its routing is a sum.

    Args:
        in_shape: ``(C, H, W)`` of one image, of any size.
        num_classes: classes with the background, J.
        routing: routing of every capsule layer but the first, called with ``(types, dim, types, dim,
            vote_weights=1)``, see `SharedKernelCapsules`.
        same_size_routing: routing of the layers that keep the size of their maps, if it differs; null for ``routing``.
        decoder: called with ``(num_classes, dim, in_shape)``; null for none.
        types: capsule types of the primary capsules, of the maps of half the size, and of those of 1/4 and 1/8.
        dims: dimensions of the poses on maps of the full size and half of it, of 1/4, and at the bottom, 1/8. The class
            capsules have those of the first.
        kernel_size: rows and columns of the kernels, but for the last layer, 1, and those that enlarge maps.
        upsampling: how maps are enlarged: ``transposed``, by a transposed convolution of 4x4; ``resize``, by repeating
            capsules before a convolution of ``kernel_size``.
        background: give the background a capsule of its own. Otherwise its activation is one minus the largest of the
            others, and its pose is zero.
        stem: channels of convolutions of 3x3, with batch normalization and ReLU, before the one that makes the first
            capsules; each sees twice as far as the one before. 3D-UCaps (Nguyen, Hua & Le 2021) has such ones.
        pose_length: length in (0, 1) that poses have in every layer before training, about: the first are normalized
            over the batch, and matrices of votes multiplied, see `scale_votes`. Null for those of the released code,
            after which little of an image is left in deep layers. It is meant for routings whose activations are
            lengths.
        recompute: route again in the backward pass instead of keeping the votes: for large images, less memory and more
            time.

    Raises:
        InputError: a size is below 1, there are not three ``types`` and ``dims``, or ``pose_length`` is out of range.

    Example:
        >>> net = SegCaps((1, 32, 32), 2, background=False)
        >>> sum(parameter.numel() for name, parameter in net.named_parameters() if not name.startswith("decoder"))
        1416112
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        num_classes: int,
        *,
        routing: Callable[[int, int, int, int], Routing] = BiasedDynamicRouting,
        same_size_routing: Callable[[int, int, int, int], Routing] | None = None,
        decoder: Callable[[int, int, tuple[int, ...]], Decoder] | None = PixelDecoder,
        types: Sequence[int] = (2, 4, 8),
        dims: Sequence[int] = (16, 32, 64),
        kernel_size: int = 5,
        upsampling: Upsampling = "transposed",
        background: bool = True,
        stem: Sequence[int] = (),
        pose_length: float | None = None,
        recompute: bool = True,
    ) -> None:
        super().__init__(in_shape, num_classes)
        for name, sizes in {"types": types, "dims": dims}.items():
            require(
                len(sizes) == 3 and min(sizes) >= 1,
                f"SegCaps: {name}={list(sizes)}: expected three numbers, each at least 1",
            )
        require(min(stem, default=1) >= 1, f"SegCaps: stem={list(stem)}: expected at least 1 channel each")
        require(
            pose_length is None or 0 < pose_length < 1,
            f"SegCaps: pose_length={pose_length}: expected a length between 0 and 1, or null",
        )
        (few, some, many), (wide, half, bottom) = types, dims
        enlarging = 4 if upsampling == "transposed" else kernel_size
        self.background = background
        channels = (self.in_shape[0], *stem)
        self.features = nn.Sequential(*(_features(*pair, 2**number) for number, pair in enumerate(pairwise(channels))))
        self.stem = nn.Conv2d(channels[-1], wide, kernel_size, padding="same", bias=pose_length is None)
        self.norm: nn.Module = nn.Identity()
        if pose_length is not None:
            self.norm = nn.BatchNorm2d(wide)
            nn.init.constant_(self.norm.weight, pose_length * sqrt(2 / wide))  # ReLU leaves half of the square

        def same(num_in: int, dim_in: int, num_out: int, dim_out: int, kernel_size: int = kernel_size) -> nn.Module:
            return SharedKernelCapsules(
                num_in, dim_in, num_out, dim_out, routing=same_size_routing or routing, kernel_size=kernel_size
            )

        def smaller(num_in: int, dim_in: int, num_out: int, dim_out: int) -> nn.Module:
            return SharedKernelCapsules(
                num_in, dim_in, num_out, dim_out, routing=routing, kernel_size=kernel_size, stride=2
            )

        def larger(num_in: int, dim_in: int, num_out: int, dim_out: int) -> nn.Module:
            return SharedKernelCapsules(
                num_in, dim_in, num_out, dim_out,
                routing=routing, kernel_size=enlarging, stride=2, upsampling=upsampling,
            )  # fmt: skip

        primary = SharedKernelCapsules(
            1, wide, few, wide, routing=partial(BiasedDynamicRouting, iterations=1), kernel_size=kernel_size, stride=2
        )
        self.down = nn.ModuleList(
            [
                nn.Sequential(primary, same(few, wide, some, wide)),
                nn.Sequential(smaller(some, wide, some, half), same(some, half, many, half)),
                nn.Sequential(smaller(many, half, many, bottom), same(many, bottom, many, half)),
            ]
        )
        self.up = nn.ModuleList(
            [larger(many, half, many, half), larger(some, half, some, wide), larger(some, wide, few, wide)]
        )
        self.merge = nn.ModuleList([same(2 * many, half, some, half), same(2 * some, wide, some, wide)])
        labels = num_classes if background else num_classes - 1
        self.classes = same(few + 1, wide, labels, wide, kernel_size=1)
        self.decoder = None if decoder is None else decoder(num_classes, wide, self.in_shape)
        layers = [layer for layer in self.modules() if isinstance(layer, SharedKernelCapsules)]
        for layer in layers:
            layer.blocked &= recompute
            if pose_length is not None:
                window = pose_length * sqrt(layer.router.kernel.places)
                scale_votes(layer.routing, pose_length, activation=pose_length, children=window)

    @override
    def class_capsules(self, images: Tensor) -> Capsules:
        capsules = _one_capsule(self.norm(self.stem(self.features(images))))
        earlier = [capsules]
        for layers in self.down:
            capsules = layers(capsules)
            earlier.append(capsules)
        for layer, merge, before in zip(self.up, self.merge, earlier[2:0:-1], strict=False):
            capsules = merge(skip(layer(capsules), before))
        classes: Capsules = self.classes(skip(self.up[-1](capsules), earlier[0]))
        return classes if self.background else with_background(classes)


def _features(num_in: int, num_out: int, dilation: int) -> nn.Sequential:
    """Return a convolution of 3x3 with what follows it, for ``num_out`` channels."""
    convolution = nn.Conv2d(num_in, num_out, 3, padding="same", dilation=dilation, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(num_out), nn.ReLU())


@full_precision
def _one_capsule(maps: Tensor) -> Capsules:
    """Return maps ``(B, D, H, W)`` as a map of one capsule type, ``poses (B, H, W, 1, D)``, not negative.

    Their lengths have no bound; how active they are is said by what a squash would leave of them.
    """
    poses = F.relu(maps).permute(0, 2, 3, 1).unsqueeze(3)
    return Capsules(poses, Capsules.from_vectors(squash(poses)).activations)


def with_background(labels: Capsules) -> Capsules:
    """Return class capsules with one for the background, class 0, of capsules of the labels alone."""
    poses, activations = labels
    rest = 1 - activations.amax(dim=-1, keepdim=True)
    return Capsules(F.pad(poses, (0, 0, 1, 0)), F.pad(activations, (1, 0)) + F.pad(rest, (0, activations.shape[-1])))
