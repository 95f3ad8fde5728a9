"""CenterNet on a small residual trunk: the control of the capsule detector, the same head without capsules.

Zhou, Wang & Kraehenbuehl, Objects as Points, 2019 (arXiv 1904.07850).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from typing_extensions import override

from capsule_lightning.errors import require
from capsule_lightning.models.detector import START_LOGIT, CenterMaps, Detector, RegressionHead, trunk_to_cells


class CenterNet(Detector):
    """A residual trunk of stride 4, then for the heat maps and for the regression one convolution and one linear map.

    Its heat maps are a sigmoid that starts at 0.1. The paper's trunks have a larger stride and convolve back up; here
    the trunk stops at the stride of the maps.

    Args:
        in_shape: ``(C, H, W)`` of one image.
        num_classes: classes of objects, J.
        stem, planes, blocks: see `capsule_lightning.encoders.resnet.ResidualTrunk`; the first two stages halve the
            image.
        hidden: filters of the convolution of each head.
        kernel_size: its rows and columns, odd.

    Raises:
        InputError: a size is below 1 or even, or the lists do not fit each other.

    Example:
        >>> net = CenterNet((1, 64, 64), 10)
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
        hidden: int = 64,
        kernel_size: int = 3,
    ) -> None:
        super().__init__(in_shape, num_classes)
        require(hidden >= 1, f"CenterNet: hidden={hidden}: expected at least 1")
        require(
            kernel_size >= 1 and kernel_size % 2 == 1,
            f"CenterNet: kernel_size={kernel_size}: expected an odd number, such as 3",
        )
        self.trunk = trunk_to_cells(self.in_shape[0], stem, planes, blocks)

        def head() -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(self.trunk.channels, hidden, kernel_size, padding="same"), nn.BatchNorm2d(hidden), nn.ReLU()
            )

        self.heat, self.regression = head(), head()
        self.classes = nn.Conv2d(hidden, num_classes, 1)
        nn.init.constant_(self.classes.bias, START_LOGIT)  # type: ignore[arg-type]
        self.read = RegressionHead(hidden)

    @override
    def maps(self, images: Tensor) -> CenterMaps:
        features = self.trunk(images)
        logits = self.classes(self.heat(features))
        sizes, offsets = self.read(self.regression(features))
        return CenterMaps(logits.to(torch.promote_types(logits.dtype, torch.float32)).sigmoid(), sizes, offsets)
