"""Networks whose batch normalization has no statistics, which several processes would measure each for itself."""

from torch import Tensor, nn


def without_statistics() -> None:
    """Let batch normalization in this process be a scale and a shift alone."""

    def scaled(self: nn.modules.batchnorm._BatchNorm, maps: Tensor) -> Tensor:
        shape = (1, -1, *(1,) * (maps.ndim - 2))
        return maps if self.weight is None else maps * self.weight.view(shape) + self.bias.view(shape)

    for kind in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
        kind.forward = scaled  # type: ignore[method-assign,assignment]
