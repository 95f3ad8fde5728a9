"""A decoder that does not know the class: it sees the coordinates of one capsule, but not which capsule it is.

Rajasegaran, Jayasundara, Jayasekara, Jayasekara, Seneviratne & Rodrigo, DeepCaps: Going Deeper with Capsule Networks,
CVPR 2019 (arXiv 1904.09546), section 4; the layers are those of its released code.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, get_args

from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from capsule_lightning.decoders.base import Crop, Decoder
from capsule_lightning.errors import require, require_one_of
from capsule_lightning.layers.precision import full_precision

CHANNELS = (16, 64, 32, 16, 8)
Cut = Literal["last", "first"]


class Doubling(nn.ConvTranspose2d):
    """A transposed convolution of 3x3 that makes maps exactly twice as large.

    Args:
        num_in: channels of the maps.
        num_out: channels of the larger maps.
        cut: the row and the column that are left out of the 2 n + 1 that the convolution makes of n: ``last``, as
            TensorFlow's padding ``same`` does, or ``first``.

    Attributes:
        surplus: rows and columns to cut off at the end, which torch cannot express by its paddings.
    """

    def __init__(self, num_in: int, num_out: int, cut: Cut) -> None:
        padding = int(cut == "first")
        super().__init__(num_in, num_out, 3, stride=2, padding=padding, output_padding=padding)
        self.surplus = 1 - padding

    @override
    def forward(self, maps: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Return maps ``(B, num_out, 2 H, 2 W)`` of maps ``(B, num_in, H, W)``."""
        rows, columns = (2 * n for n in maps.shape[-2:])
        return super().forward(maps, output_size)[..., :rows, :columns]


class ClassIndependentDecoder(Decoder):
    """The capsule of the label, a dense layer to a small map, and transposed convolutions that double its size.

    All classes go through the same weights, so a coordinate means the same change of the picture for each of them.
    There is no activation between the transposed convolutions, and a ReLU after the last. The first and the last of
    them keep the size. A pixel may exceed 1 in training, where a limit would leave it without a gradient, and is cut at
    1 in evaluation.

    A doubling makes one row and one column too many. The released code cuts off the last ones, as its weights expect;
    networks that were saved before ``cut`` was an argument were trained without the first ones. A picture whose size is
    not a multiple of the enlargement is the center of a larger one.

    Args:
        num_classes: class capsules, J; the weights do not depend on it.
        dim: dimensions of a class capsule, E.
        out_shape: ``(C, H, W)`` of a picture.
        channels: channels of the small map, after the transposed convolution that keeps its size, and after each
            doubling; null for the paper's, 16, 64, 32, 16, 8, with as many doublings as are needed to reach the picture
            from at most 8x8, but no more than 3: 8x8 to 64x64, 7x7 to 28x28.
        cut: the row and the column that a doubling leaves out, ``last`` as in the released code, or ``first``.

    Raises:
        InputError: there are fewer than two ``channels``, one is below 1, or ``cut`` is unknown.
    """

    masked = False

    def __init__(
        self,
        num_classes: int,
        dim: int,
        out_shape: tuple[int, ...],
        *,
        channels: Sequence[int] | None = None,
        cut: Cut = "last",
    ) -> None:
        super().__init__()
        require_one_of("ClassIndependentDecoder: cut", cut, get_args(Cut))
        colors, rows, columns = out_shape
        if channels is None:
            channels = CHANNELS[: 2 + sum(max(rows, columns) > 8 * 2**n for n in range(3))]
        require(
            len(channels) >= 2 and min(channels) >= 1,
            f"ClassIndependentDecoder: channels={list(channels)}: expected at least two numbers, for the small map and "
            "for the first transposed convolution, each at least 1",
        )
        scale = 2 ** (len(channels) - 2)
        small = (channels[0], -(-rows // scale), -(-columns // scale))
        self.dense = nn.Sequential(
            nn.Linear(dim, small[0] * small[1] * small[2]),
            nn.ReLU(),
            nn.Unflatten(1, small),
            nn.BatchNorm2d(small[0], eps=1e-3, momentum=0.2),
        )
        self.enlarge = nn.Sequential(
            nn.ConvTranspose2d(channels[0], channels[1], 3, padding=1),
            *(Doubling(width, following, cut) for width, following in pairwise(channels[1:])),
            nn.ConvTranspose2d(channels[-1], colors, 3, padding=1),
        )
        self.crop = Crop(rows, columns)
        for layer in self.enlarge:
            assert isinstance(layer, nn.ConvTranspose2d)
            nn.init.xavier_uniform_(layer.weight)  # with smaller ones in every layer the pose would hardly get through
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    @override
    def forward(self, poses: Tensor, labels: Tensor) -> Tensor:
        """Return pictures, which have no upper limit in training and are in [0, 1] in evaluation."""
        pose = poses.gather(-2, labels[:, None, None].expand(-1, -1, poses.shape[-1])).squeeze(-2)  # (B, E)
        return _rectify(self.crop(self.enlarge(self.dense(pose))), limited=not self.training)

    @override
    def steps(self) -> list[nn.Module]:
        return [*self.dense, *self.enlarge, self.crop, nn.Hardtanh(0, 1)]


@full_precision
def _rectify(maps: Tensor, limited: bool) -> Tensor:
    return maps.clamp(0, 1) if limited else F.relu(maps)
