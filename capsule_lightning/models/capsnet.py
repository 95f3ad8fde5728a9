"""The capsule network with one routed layer: encoder, routing, decoder.

Sabour, Frosst & Hinton, Dynamic Routing Between Capsules, NIPS 2017 (arXiv 1710.09829), Figures 1 and 2.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from typing_extensions import override

from capsule_lightning.capsules import Capsules
from capsule_lightning.decoders.base import Decoder
from capsule_lightning.decoders.dense import DenseDecoder
from capsule_lightning.encoders.base import CapsuleMap, Encoder
from capsule_lightning.encoders.sabour import SabourEncoder
from capsule_lightning.models.base import CapsuleNet
from capsule_lightning.routing.base import Routing
from capsule_lightning.routing.dynamic import DynamicRouting


class CapsNet(CapsuleNet):
    """A network that goes from the image to primary capsules, by routing to class capsules, and back to a picture.

    The defaults are the paper's MNIST network: 6,804,224 parameters, 8,215,568 with the decoder.

    Args:
        in_shape: ``(C, H, W)`` of one image.
        num_classes: class capsules, J.
        encoder: called with ``in_shape``.
        routing: called with ``(encoder.num_capsules, encoder.dim, num_classes, dim)``.
        decoder: called with ``(num_classes, dim, in_shape)``; null for none.
        dim: dimensions of a class capsule, E.

    Example:
        >>> import torch
        >>> net = CapsNet((1, 28, 28), 10)
        >>> net(torch.rand(2, 1, 28, 28)).activations.shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        num_classes: int,
        *,
        encoder: Callable[[tuple[int, ...]], Encoder] = SabourEncoder,
        routing: Callable[[int, int, int, int], Routing] = DynamicRouting,
        decoder: Callable[[int, int, tuple[int, ...]], Decoder] | None = DenseDecoder,
        dim: int = 16,
    ) -> None:
        super().__init__(in_shape, num_classes)
        self.encoder = encoder(self.in_shape)
        self.routing = routing(self.encoder.num_capsules, self.encoder.dim, num_classes, dim)
        self.decoder = None if decoder is None else decoder(num_classes, dim, self.in_shape)

    @override
    def class_capsules(self, images: Tensor) -> Capsules:
        capsules: Capsules = self.routing(self.encoder(images))
        return capsules

    @override
    def child_map(self) -> CapsuleMap | None:
        return self.encoder.capsule_map()
