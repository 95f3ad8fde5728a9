"""The network of convolutional capsule layers, between primary capsules on a map and class capsules.

Hinton, Sabour & Frosst, Matrix Capsules with EM Routing, ICLR 2018, section 4 and Figure 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, cast, get_args

from torch import Tensor, nn
from typing_extensions import override

from capsule_lightning.capsules import Capsules
from capsule_lightning.decoders.base import Decoder
from capsule_lightning.encoders.base import CapsuleMap, MapEncoder
from capsule_lightning.encoders.matrix import MatrixEncoder
from capsule_lightning.errors import require, require_one_of
from capsule_lightning.models.base import CapsuleNet
from capsule_lightning.models.conv_capsules import ConvCapsules
from capsule_lightning.routing.base import CompetitionScope, Routing
from capsule_lightning.routing.em import EMRouting
from capsule_lightning.routing.inverted_dot_product import InvertedDotProductRouting

UpdateOrder = Literal["sequential", "concurrent"]


class ConvCapsNet(CapsuleNet):
    """A network of primary capsules on a map, convolutional capsule layers and class capsules.

    The defaults are the network of matrix capsules: 317,194 parameters on smallNORB's 32x32 stereo crops.

    Args:
        in_shape: ``(C, H, W)`` of one image.
        num_classes: class capsules, J.
        encoder: called with ``in_shape``.
        routing: routing of every capsule layer, called with ``(children of a window, dim, parents, dim)``.
        class_routing: routing of the class capsules, if it differs; null for ``routing``.
        decoder: called with ``(num_classes, dim, in_shape)``; null for none.
        types: capsule types of each convolutional layer; empty for no such layer, in which case the class capsules see
            the primary capsules.
        kernel_sizes: kernel size of each convolutional layer.
        strides: stride of each convolutional layer.
        paddings: zeros around the map of each convolutional layer; null for none.
        hidden: number of capsules of each fully connected layer before the class capsules.
        dim: dimensions of the poses of all capsule layers, E.
        share_class_votes: share the vote matrices of the first fully connected layer over positions.
        coordinates: add the children's coordinates to the votes of the first fully connected layer, if its routing
            supports them.
        competition: see `ConvCapsules`.
        scrambled: see `ConvCapsules`.
        schedule: order of the updates. ``sequential``: each layer finishes routing before the next begins;
            ``concurrent``: one pass with uniform couplings, then ``iterations - 1`` rounds in which all layers update
            at once, from the previous round's capsules of the layer and of the one below it (Tsai et al. 2020,
            Procedure 2; for `InvertedDotProductRouting`).

    Raises:
        InputError: the layers do not fit the map or each other, or the routing does not support the schedule.

    Example:
        >>> import torch
        >>> net = ConvCapsNet((2, 32, 32), 5)
        >>> sum(parameter.numel() for parameter in net.parameters())
        317194
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        num_classes: int,
        *,
        encoder: Callable[[tuple[int, ...]], MapEncoder] = MatrixEncoder,
        routing: Callable[[int, int, int, int], Routing] = EMRouting,
        class_routing: Callable[[int, int, int, int], Routing] | None = None,
        decoder: Callable[[int, int, tuple[int, ...]], Decoder] | None = None,
        types: Sequence[int] = (32, 32),
        kernel_sizes: Sequence[int] = (3, 3),
        strides: Sequence[int] = (2, 1),
        paddings: Sequence[int] | None = None,
        hidden: Sequence[int] = (),
        dim: int = 16,
        share_class_votes: bool = True,
        coordinates: bool = True,
        competition: CompetitionScope = "auto",
        scrambled: bool = False,
        schedule: UpdateOrder = "sequential",
    ) -> None:
        super().__init__(in_shape, num_classes)
        paddings = [0] * len(types) if paddings is None else paddings
        require(
            len(types) == len(kernel_sizes) == len(strides) == len(paddings),
            f"ConvCapsNet: types={list(types)}, kernel_sizes={list(kernel_sizes)}, strides={list(strides)}, "
            f"paddings={list(paddings)}: expected one of each for every convolutional layer",
        )
        require_one_of("ConvCapsNet: schedule", schedule, get_args(UpdateOrder))
        self.encoder = encoder(self.in_shape)
        size, children, dim_in = self.encoder.size, self.encoder.num_types, self.encoder.dim
        layers: list[ConvCapsules] = []
        for parents, kernel, stride, padding in zip(types, kernel_sizes, strides, paddings, strict=True):
            layer = ConvCapsules(
                size, children, dim_in, parents, dim,
                routing=routing, kernel_size=kernel, stride=stride, padding=padding,
                competition=competition, scrambled=scrambled,
            )  # fmt: skip
            layers.append(layer)
            size, children, dim_in = layer.out_size, parents, layer.routing.dim_out
        for number, parents in enumerate((*hidden, num_classes)):
            last, first = number == len(hidden), number == 0
            layer = ConvCapsules(
                size, children, dim_in, parents, dim,
                routing=(class_routing or routing) if last else routing,
                kernel_size=None, share_votes=share_class_votes and first,
                coordinates=None if coordinates and first else False, competition=competition,
            )  # fmt: skip
            layers.append(layer)
            size, children, dim_in = (1, 1), parents, layer.routing.dim_out
        self.layers, self.schedule = nn.ModuleList(layers), schedule
        self.decoder = None if decoder is None else decoder(num_classes, layers[-1].routing.dim_out, self.in_shape)
        for layer in layers if schedule == "concurrent" else ():
            require(
                isinstance(layer.routing, InvertedDotProductRouting),
                f"schedule=concurrent with {type(layer.routing).__name__}: only InvertedDotProductRouting can update "
                "all layers at once; use schedule=sequential",
            )
        counts = {str(getattr(layer.routing, "iterations", None)) for layer in layers}
        require(
            schedule != "concurrent" or len(counts) == 1,
            f"schedule=concurrent with layers of {' and '.join(sorted(counts))} iterations: expected the same number "
            "in all layers; use schedule=sequential",
        )

    @override
    def class_capsules(self, images: Tensor) -> Capsules:
        capsules = self.encoder.maps(images)
        if self.schedule == "concurrent":
            capsules = self._concurrent(capsules)
        else:
            for layer in self.layers:
                capsules = layer(capsules)
        return Capsules(capsules.poses.flatten(1, 3), capsules.activations.flatten(1, 3))

    @override
    def child_map(self) -> CapsuleMap:
        last = cast(ConvCapsules, self.layers[-1])
        rows, columns = last.windows.size
        return CapsuleMap(last.routing.num_in // (rows * columns), rows, columns)

    def _concurrent(self, primary: Capsules) -> Capsules:
        layers = [cast(ConvCapsules, layer) for layer in self.layers]
        routings = [cast(InvertedDotProductRouting, layer.routing) for layer in layers]
        values = [primary]
        for layer, routing in zip(layers, routings, strict=True):
            values.append(routing.update(layer.window_children(values[-1])))
        for _ in range(routings[-1].iterations - 1):
            values[1:] = [
                routing.update(layer.window_children(children), parents)
                for layer, routing, children, parents in zip(layers, routings, values, values[1:], strict=False)
            ]
        return values[-1]
