"""Any image network of the `timm` library as an encoder, trained or not, whose last map becomes primary capsules.

Wightman, PyTorch Image Models, 2019 (doi 10.5281/zenodo.4414861), for the networks; Sabour, Frosst & Hinton, Dynamic
Routing Between Capsules, NIPS 2017 (arXiv 1710.09829), section 4, for the capsules.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from hashlib import blake2b
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from capsule_lightning.capsules import Capsules
from capsule_lightning.encoders.base import FeatureEncoder
from capsule_lightning.errors import InputError, first_line, require, some_of
from capsule_lightning.layers.squash import squash

HUB = "hub"
"""The word for the weights that `timm` fetches."""
TRIED = (32, 64, 96, 128, 160, 192, 224, 256)
"""Rows and columns that are tried when images are too small, to say which would do."""


class Kind(NamedTuple):
    """Which network of `timm` is made, and for which images.

    Attributes:
        name: its name there.
        channels: channels of the images.
        size: rows and columns of the images that it is shown.
    """

    name: str
    channels: int
    size: tuple[int, int]


class Outline(NamedTuple):
    """What a backbone makes of images, found without computing anything.

    Attributes:
        channels: channels of its map.
        size: rows and columns of its map.
        stages: its stages, each by the name of its last module.
        unread: the parameters that the map does not depend on.
    """

    channels: int
    size: tuple[int, int]
    stages: list[str]
    unread: list[str]


class BackboneEncoder(FeatureEncoder):
    """A network of `timm` up to its last feature map, a 1x1 convolution, and squash: the lengths are the activations.

    Of transformers whose tokens lie on a grid the map is that of the normalized last tokens, without class and register
    tokens. Those that expect images of one size are made for the size of these, and trained position embeddings are
    interpolated. A network for color images takes any number of channels, its first convolution adapted as `timm` does.

    Pictures in [0, 1] are normalized as the backbone was trained. So the data should not be normalized before:
    ``--data.normalization none``.

    A trained network that is saved holds the backbone's weights: neither the hub nor the file that they came from is
    needed to load it.

    Args:
        in_shape: ``(C, H, W)`` of one image.
        name: what `timm.list_models` calls the network, such as ``resnet18``, with or without a tag of its weights.
        weights: where the backbone's initial weights are from. ``hub``: those that `timm` knows, fetched on first use;
            a ``.safetensors`` file or a ``.pth`` file of tensors alone, which have `timm`'s names; null for random
            ones.
        num_types: capsules at each place of the map, A.
        dim: dimensions of their poses, D.
        frozen: true to leave the whole backbone as it is, also the statistics of its normalization and its dropout,
            which stay as in evaluation; a number for its first stages alone. `timm` counts them: the stem of a ResNet
            is the first, a block of a transformer is one.
        size: rows and columns to which images are scaled on the device, bilinear and antialiased; null to take them as
            they are.
        normalization: normalize each channel by the mean and deviation that the backbone was trained with. If the
            images have not 3 channels, each is normalized by the average of the 3.
        layer_decay: what the learning rate is multiplied by from stage to stage, from the last to the first, in (0, 1]:
            of S stages the last one learns with ``layer_decay`` times the rate of the capsules, the first one with
            ``layer_decay ** S`` times. A stage includes what comes before it, such as the patches of a transformer.

    Attributes:
        is_frozen: whether the whole backbone is left as it is, so that the features of an image are always the same.

    Raises:
        InputError: `timm` is not installed, has no such network, or that network has no map, or none for such small
            images; weights that cannot be read or do not fit; a number out of range.

    Source: the mean and deviation are those of `timm`'s ``pretrained_cfg``; the decay is that of Clark, Luong, Le &
    Manning, ELECTRA, ICLR 2020 (arXiv 2003.10555), and of Bao, Dong, Piao & Wei, BEiT, ICLR 2022 (arXiv 2106.08254).
    """

    starts_from: ClassVar[tuple[str, ...]] = ("weights",)
    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        in_shape: tuple[int, ...],
        *,
        name: str = "resnet18",
        weights: str | None = None,
        num_types: int = 8,
        dim: int = 16,
        frozen: bool | int = False,
        size: tuple[int, int] | None = None,
        normalization: bool = True,
        layer_decay: float = 1.0,
    ) -> None:
        require(
            0 < layer_decay <= 1,
            f"BackboneEncoder: layer_decay={layer_decay}: expected a number in (0, 1], such as 0.75; 1 for none",
        )
        for argument, value in {"num_types": num_types, "dim": dim}.items():
            require(value >= 1, f"BackboneEncoder: {argument}={value}: expected at least 1")
        require(
            size is None or min(size) >= 1,
            f"BackboneEncoder: size={size}: expected rows and columns, each at least 1, or null",
        )
        rows, columns = in_shape[-2:] if size is None else size
        require_known(name)
        kind = Kind(name, in_shape[0], (rows, columns))
        outline = require_map(kind)
        super().__init__(in_shape, outline.size, num_types, dim)
        self.name, self.shown, self.channels, self.is_frozen = name, (rows, columns), outline.channels, frozen is True
        self.backbone = make_backbone(kind, weights)
        for parameter in outline.unread:
            self.backbone.get_parameter(parameter).requires_grad_(False)
        self.primary: nn.Module = nn.Conv2d(outline.channels, num_types * dim, 1)
        mean, deviation = channel_statistics(kind) if normalization else ([0.0], [1.0])
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(deviation).view(-1, 1, 1), persistent=False)
        self._at_rest = self._freeze(frozen, outline.stages)
        self.stages, self.layer_decay = outline.stages, layer_decay
        self._known: tuple[Tensor, Tensor] | None = None
        self.train()

    @override
    def features(self, images: Tensor) -> Tensor:
        """Return the backbone's last map of images: what is known of this very tensor, or else computed."""
        known = self._known
        return known[1] if known is not None and known[0] is images else self.compute_features(images)

    def compute_features(self, images: Tensor) -> Tensor:
        """Return the backbone's last map ``(B, F, rows, columns)`` of images ``(B, C, H, W)``, by running it."""
        if images.shape[-2:] != self.shown:
            images = F.interpolate(images, self.shown, mode="bilinear", antialias=True)
        return feature_map(self.backbone, (images - self.mean) / self.deviation)

    def know(self, images: Tensor, features: Tensor) -> None:
        """Take the features of a batch as given, until `forget`.

        Args:
            images: ``(B, C, H, W)``; another tensor goes through the backbone, whatever its values are.
            features: ``(B, F, rows, columns)``, which `compute_features` has returned for these images.
        """
        self._known = (images, features)

    def forget(self) -> None:
        """Run the backbone on all images again."""
        self._known = None

    def fingerprint(self) -> dict[str, Any]:
        """Return all that the features of an image depend on, as plain values; the weights by a digest."""
        digest = blake2b(digest_size=16)
        for name, tensor in sorted(self.backbone.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return {
            "backbone": self.name,
            "timm": timm_library().__version__,
            "weights": digest.hexdigest(),
            "size": list(self.shown),
            "mean": self.mean.flatten().tolist(),
            "deviation": self.deviation.flatten().tolist(),
        }

    @override
    def capsules_of(self, features: Tensor) -> Capsules:
        poses = self.primary(features).unflatten(1, (self.num_types, self.dim)).permute(0, 3, 4, 1, 2)
        return Capsules.from_vectors(squash(poses))

    @override
    def without_capsules(self) -> None:
        self.primary = nn.Identity()

    @override
    def train(self, mode: bool = True) -> BackboneEncoder:
        """Set training or evaluation; what is frozen stays in evaluation."""
        super().train(mode)
        for module in self._at_rest:
            module.eval()
        return self

    @override
    def rate_factors(self) -> Mapping[nn.Parameter, float]:
        """Return the factor of each parameter of the stages, by `layer_decay`."""
        factors: dict[nn.Parameter, float] = {}
        for number, end in enumerate(self.stages if self.layer_decay < 1 else ()):
            for module in modules_up_to(self.backbone, end):
                for parameter in module.parameters(recurse=False):
                    factors.setdefault(parameter, self.layer_decay ** (len(self.stages) - number))
        return factors

    def _freeze(self, frozen: bool | int, stages: list[str]) -> list[nn.Module]:
        """Let the first stages, or the whole backbone, keep their weights, and return the modules of them."""
        if frozen is True:
            return [self.backbone.requires_grad_(False)]
        require(
            0 <= frozen <= len(stages),
            f"BackboneEncoder: frozen={frozen}: expected true, false or a number of stages from 0 to {len(stages)}, "
            "which is how many this backbone has",
        )
        if not frozen:
            return []
        first = list(modules_up_to(self.backbone, stages[frozen - 1]))
        for module in first:
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)
        return [module for module in first if set(module.modules()) <= set(first)]


def timm_library() -> Any:
    """Return `timm`, which is imported when a backbone is first asked for.

    Raises:
        InputError: it is not installed.
    """
    try:
        return import_module("timm")
    except ImportError as error:
        raise InputError(
            f"BackboneEncoder needs timm, which is not installed ({first_line(error)}): "
            'pip install "capsule_lightning[backbones]"'
        ) from error


def require_known(name: str) -> None:
    """Refuse the name of a backbone that `timm` does not have.

    Raises:
        InputError: it has none of this name, or not with this tag; the nearest are named.
    """
    timm = timm_library()
    try:
        known = timm.is_model(name) and timm.get_pretrained_cfg(name) is not None
    except RuntimeError:  # a tag of other weights
        known = False
    if not known:
        plain, _, tag = name.partition(".")
        tags = timm.list_models(f"{plain}.*", pretrained=True) if tag else []
        near = tags or get_close_matches(plain, timm.list_models(), n=3, cutoff=0.5)
        meant = f"; the nearest are {some_of(near, most=5)}" if near else ""
        raise InputError(f"BackboneEncoder: name={name!r}: expected a network that timm.list_models() lists{meant}")


def require_map(kind: Kind) -> Outline:
    """Return what a backbone makes of images.

    Raises:
        InputError: it makes no map of them; the smallest of some sizes that it can take is named.
    """
    try:
        return outline_of(kind)
    except Exception as error:  # the networks raise anything for images that they cannot take
        fault: Exception = error
    for side in TRIED:
        if side <= max(kind.size):
            continue
        try:
            outline_of(kind._replace(size=(side, side)))
        except Exception:
            continue
        rows, columns = kind.size
        raise InputError(
            f"BackboneEncoder: images of {rows}x{columns} are too small for {kind.name} ({first_line(fault)}); set "
            f"size to at least [{side}, {side}], to which images are scaled"
        ) from fault
    raise InputError(
        f"BackboneEncoder: {kind.name} gives no feature map of images of {kind.size[0]}x{kind.size[1]} "
        f"({first_line(fault)}); choose another name or another size"
    ) from fault


def outline_of(kind: Kind) -> Outline:
    """Return what a backbone makes of images, from shapes alone, without memory or random numbers.

    Raises:
        Exception: whatever the network raises for images that it cannot take.
    """
    with torch.device("meta"), torch.enable_grad():
        backbone = create(kind).eval()
        features = feature_map(backbone, torch.zeros(1, kind.channels, *kind.size))
        _, channels, rows, columns = features.shape
        if not rows * columns:
            raise ValueError(f"a map of {rows}x{columns}")
        parameters = dict(backbone.named_parameters())
        gradients = torch.autograd.grad(features.sum(), list(parameters.values()), allow_unused=True)
    info: Any = backbone.feature_info
    ends = [each["module"] for each in (info if isinstance(info, list) else info.info)]
    named = dict(backbone.named_modules())
    stages = [  # a wrapper may have flattened lists of modules, or hold the network as `model`
        next(name for name in (end, end.replace(".", "_"), f"model.{end}") if name in named) for end in ends
    ]
    unread = [name for name, gradient in zip(parameters, gradients, strict=True) if gradient is None]
    return Outline(channels, (rows, columns), stages, unread)


def make_backbone(kind: Kind, weights: str | None) -> nn.Module:
    """Return a backbone with its initial weights; where no memory is taken, without asking for any.

    Raises:
        InputError: the weights cannot be read, or do not fit.
    """
    if weights is None or torch.get_default_device().type == "meta":
        return create(kind)
    overlay = {} if weights == HUB else {"state_dict": read_weights(weights, kind)}
    try:
        backbone = create(kind, pretrained=True, pretrained_cfg_overlay=overlay)
    except Exception as error:  # of files, of the net and of shapes
        remedy = (
            "give a file that has been fetched before" if weights == HUB else f"expected the weights of {kind.name}"
        )
        raise InputError(
            f"BackboneEncoder: weights={weights!r} of {kind.name} cannot be loaded ({first_line(error)}); {remedy}, or "
            "null for none"
        ) from error
    for module in backbone.modules():
        getattr(module, "pretrained_cfg", {}).pop("state_dict", None)  # which would stay in memory twice
    return backbone


def create(kind: Kind, **options: Any) -> nn.Module:
    """Return a network of `timm` up to its last feature map, see `feature_map`; random weights unless asked otherwise.

    Args:
        kind: which one.
        options: of ``timm.create_model``.
    """
    timm = timm_library()
    if timm.get_pretrained_cfg(kind.name).fixed_input_size:
        options["img_size"] = kind.size
    if has_tokens(kind.name):
        backbone: Any = timm.create_model(kind.name, in_chans=kind.channels, num_classes=0, **options)
        backbone.prune_intermediate_layers(1, prune_norm=False, prune_head=True)
    else:
        options |= {"features_only": True, "out_indices": (-1,)}
        backbone = timm.create_model(kind.name, in_chans=kind.channels, **options)
    found: nn.Module = backbone
    return found


@cache
def has_tokens(name: str) -> bool:
    """Return whether a network of `timm` has tokens, so that its last features go through a final normalization."""
    with torch.device("meta"):
        features = timm_library().create_model(name, features_only=True, out_indices=(-1,))
    return hasattr(getattr(features, "model", None), "num_prefix_tokens")


def feature_map(backbone: nn.Module, images: Tensor) -> Tensor:
    """Return the last feature map of a backbone.

    Args:
        backbone: which `create` has made.
        images: ``(B, C, H, W)``.

    Returns:
        ``(B, channels, rows, columns)``.
    """
    network: Any = backbone
    if hasattr(backbone, "num_prefix_tokens"):
        (maps,) = network.forward_intermediates(
            images, indices=1, norm=True, output_fmt="NCHW", intermediates_only=True
        )
    else:
        (maps,) = network(images)
    channels_last = str(getattr(getattr(backbone, "output_fmt", None), "value", "NCHW")) == "NHWC"
    found: Tensor = maps.movedim(-1, 1) if channels_last else maps
    return found


def read_weights(path: str, kind: Kind) -> dict[str, Tensor]:
    """Return the tensors of a file by name, without running any code of the file.

    Args:
        path: of a ``.safetensors`` file, or of a ``.pth`` or ``.pt`` file that holds tensors alone.
        kind: the backbone whose names they should have.

    Raises:
        InputError: there is no such file, it is of another kind or holds anything else than tensors, or tensors of the
            backbone are missing.
    """
    file = Path(path).expanduser()
    known = (".safetensors", ".pth", ".pt")
    require(
        file.suffix in known and file.is_file(),
        f"BackboneEncoder: weights={path!r}: no such file of {', '.join(known)}; expected one, {HUB!r} for the weights "
        "that timm fetches, or null for none, which does for a network whose own checkpoint is loaded",
    )
    try:
        if file.suffix == ".safetensors":
            tensors = safetensors.torch.load_file(file)
        else:
            tensors = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken file raises anything
        raise InputError(
            f"BackboneEncoder: weights={path!r} cannot be read as tensors alone ({first_line(error)}); expected "
            "a state_dict: save it as .safetensors"
        ) from error
    plain = isinstance(tensors, Mapping) and all(isinstance(value, Tensor) for value in tensors.values())
    require(plain, f"BackboneEncoder: weights={path!r} holds more than tensors by name; expected a state_dict alone")
    with torch.device("meta"):
        whole = timm_library().create_model(kind.name, in_chans=kind.channels, num_classes=0)
    missing = [name for name in whole.state_dict() if name not in tensors and not name.endswith("num_batches_tracked")]
    require(
        not missing,
        f"BackboneEncoder: weights={path!r} lacks {some_of(missing, most=3)}; expected the state_dict of timm's "
        f"{kind.name}, and no other network's",
    )
    return dict(tensors)


def channel_statistics(kind: Kind) -> tuple[list[float], list[float]]:
    """Return mean and deviation of each channel, by which images of a backbone are normalized."""
    trained = timm_library().get_pretrained_cfg(kind.name)
    found = [list(trained.mean), list(trained.std)]
    if kind.channels != len(trained.mean):
        found = [[sum(values) / len(values)] for values in found]
    mean, deviation = found
    return mean, deviation


def modules_up_to(network: nn.Module, last: str) -> Iterator[nn.Module]:
    """Yield the modules of a network in their order until one of them ends, and all that hold one of these."""
    inside = False
    for name, module in network.named_modules():
        here = name == last or name.startswith(f"{last}.")
        if inside and not here:
            return
        inside = here
        yield module
