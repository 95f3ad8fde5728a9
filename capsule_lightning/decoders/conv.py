"""A decoder of transposed convolutions, for pictures in color."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from typing_extensions import override

from capsule_lightning.decoders.base import Crop, Decoder, mask, picture
from capsule_lightning.errors import require


class ConvDecoder(Decoder):
    """Masked class capsules, one dense layer to a small map, then transposed convolutions that double its size.

    It does not follow a single paper: color pictures need far fewer weights this way than with dense layers. A picture
    whose size is not a multiple of the enlargement is the center of a larger one.

    Args:
        num_classes: class capsules, J.
        dim: dimensions of a class capsule, E.
        out_shape: ``(C, H, W)`` of a picture.
        channels: channels of the small map and after each doubling but the last; there are ``len(channels)`` doublings.

    Raises:
        InputError: ``channels`` is empty, or one of them is below 1.
    """

    def __init__(
        self, num_classes: int, dim: int, out_shape: tuple[int, ...], *, channels: Sequence[int] = (128, 64, 32)
    ) -> None:
        super().__init__()
        enough = min(channels, default=0) >= 1
        require(enough, f"ConvDecoder: channels={list(channels)}: expected at least one number, each at least 1")
        colors, rows, columns = out_shape
        scale = 2 ** len(channels)
        small = (channels[0], -(-rows // scale), -(-columns // scale))
        self.dense = nn.Sequential(
            nn.Linear(num_classes * dim, small[0] * small[1] * small[2]), nn.Unflatten(1, small), nn.ReLU()
        )
        layers: list[nn.Module] = []
        for width, following in zip(channels, [*channels[1:], colors], strict=True):
            layers += [nn.ConvTranspose2d(width, following, kernel_size=4, stride=2, padding=1), nn.ReLU()]
        self.enlarge, self.crop = nn.Sequential(*layers[:-1]), Crop(rows, columns)

    @override
    def forward(self, poses: Tensor, labels: Tensor) -> Tensor:
        return picture(self.crop(self.enlarge(self.dense(mask(poses, labels).flatten(1)))))

    @override
    def steps(self) -> list[nn.Module]:
        return [*self.dense, *self.enlarge, self.crop, nn.Sigmoid()]
