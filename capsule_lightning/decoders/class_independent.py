"""A decoder that does not know the class: it sees the coordinates of one capsule and not which capsule it is.

Rajasegaran, Jayasundara, Jayasekara, Jayasekara, Seneviratne & Rodrigo, DeepCaps: Going Deeper with Capsule Networks,
CVPR 2019 (arXiv 1904.09546), section 4; the layers are those of its released code.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from capsule_lightning.decoders.base import Decoder
from capsule_lightning.errors import InputError
from capsule_lightning.layers.precision import full_precision

CHANNELS = (16, 64, 32, 16, 8)


class ClassIndependentDecoder(Decoder):
    """The capsule of the label, a dense layer to a small map, and transposed convolutions, of which all but one double.

    All classes go through the same weights, so a coordinate means the same change of the picture for each of them.
    There is nothing between the transposed convolutions, and a ReLU after the last. A pixel may exceed 1 in training,
    where a limit would leave it without gradient, and is cut at 1 in evaluation.

    A picture whose size is no multiple of the enlargement is the center of a larger one.

    Args:
        num_classes: class capsules, J; the weights do not depend on it.
        dim: their dimensions, E.
        out_shape: ``(C, H, W)`` of a picture.
        channels: of the small map, after the transposed convolution that keeps its size, and after each doubling; null
            for the paper's, 16, 64, 32, 16, 8, with as many doublings as lead from at most 8x8 to the picture, 3 at
            most: 8x8 to 64x64, 7x7 to 28x28.

    Raises:
        InputError: fewer than two ``channels``, or one below 1.
    """

    def __init__(
        self, num_classes: int, dim: int, out_shape: tuple[int, ...], *, channels: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        colors, self.rows, self.columns = out_shape
        if channels is None:
            channels = CHANNELS[: 2 + sum(max(self.rows, self.columns) > 8 * 2**n for n in range(3))]
        if len(channels) < 2 or min(channels) < 1:
            raise InputError(
                f"ClassIndependentDecoder: channels={list(channels)}: expected at least two widths, of the small map "
                "and of the first transposed convolution, each at least 1"
            )
        scale = 2 ** (len(channels) - 2)
        small = (channels[0], -(-self.rows // scale), -(-self.columns // scale))
        self.dense = nn.Sequential(
            nn.Linear(dim, small[0] * small[1] * small[2]),
            nn.ReLU(),
            nn.Unflatten(1, small),
            nn.BatchNorm2d(small[0], eps=1e-3, momentum=0.2),
        )
        self.enlarge = nn.Sequential(
            nn.ConvTranspose2d(channels[0], channels[1], 3, padding=1),
            *(
                nn.ConvTranspose2d(width, following, 3, stride=2, padding=1, output_padding=1)
                for width, following in pairwise(channels[1:])
            ),
            nn.ConvTranspose2d(channels[-1], colors, 3, padding=1),
        )
        for layer in self.enlarge:
            assert isinstance(layer, nn.ConvTranspose2d)
            nn.init.xavier_uniform_(layer.weight)  # smaller weights in a row would hardly pass the pose on
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, poses: Tensor, labels: Tensor) -> Tensor:
        """See `Decoder.forward`; in training the pictures have no upper limit."""
        pose = poses.gather(-2, labels[:, None, None].expand(-1, -1, poses.shape[-1])).squeeze(-2)  # (B, E)
        maps = self.enlarge(self.dense(pose))
        top, left = (maps.shape[-2] - self.rows) // 2, (maps.shape[-1] - self.columns) // 2
        return _rectified(maps[..., top : top + self.rows, left : left + self.columns], limited=not self.training)


@full_precision
def _rectified(maps: Tensor, limited: bool) -> Tensor:
    return maps.clamp(0, 1) if limited else F.relu(maps)
