"""The panel whose sliders move a pose: what the page needs to compute the decoder by itself."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from capsule_lightning.analysis.probe import Probe
from capsule_lightning.decoders.base import Decoder
from capsule_lightning.decoders.class_independent import ClassIndependentDecoder
from capsule_lightning.decoders.conv import ConvDecoder
from capsule_lightning.decoders.dense import DenseDecoder
from capsule_lightning.report.measured import TestOutputs, spread_over_classes
from capsule_lightning.report.pictures import dimension_notes
from capsule_lightning.report.trained_network import TrainedNetwork

ON_PANEL = 20  # images to choose from


def panel_data(subject: TrainedNetwork, found: TestOutputs, probe: Probe) -> dict[str, Any] | None:
    """What the sliders of the page need: poses of some images, and the decoder; None where it cannot be computed."""
    decoder = subject.net.decoder
    layers = None if decoder is None else decoder_layers(decoder)
    if layers is None:
        return None
    chosen = spread_over_classes(subject.labels, max(ON_PANEL, len(subject.class_names)))[: 5 * ON_PANEL]
    classes = found.activations[chosen].argmax(dim=-1)
    own = found.poses.gather(1, subject.labels[:, None, None].expand(-1, 1, found.poses.shape[-1])).squeeze(1)
    return {
        "classes": list(subject.class_names),
        "shape": list(subject.net.in_shape),
        "dims": found.poses.shape[-1],
        "masked": not isinstance(decoder, ClassIndependentDecoder),
        "labels": subject.labels[chosen].tolist(),
        "predicted": classes.tolist(),
        "lengths": [[round(length, 3) for length in row] for row in found.activations[chosen].tolist()],
        "images": in_base64(subject.pictures[chosen].mul(255).round().to(torch.uint8)),
        "poses": in_base64(found.poses[chosen].float()),
        "low": own.amin(dim=0).tolist(),
        "high": own.amax(dim=0).tolist(),
        "notes": [dimension_notes(probe, j) for j in range(len(subject.class_names))],
        "layers": layers,
    }


def decoder_layers(decoder: Decoder) -> list[dict[str, Any]] | None:
    """A decoder as steps that the page computes, weights in float16; None for one of another kind.

    The page knows dense layers, transposed convolutions, ReLU, sigmoid, a clamp to [0, 1], a scale and shift of each
    channel, and a crop.
    """
    if type(decoder) is DenseDecoder:
        return [*steps(decoder.layers), {"kind": "sigmoid"}]
    if isinstance(decoder, ConvDecoder):
        last = "sigmoid"
    elif isinstance(decoder, ClassIndependentDecoder):
        last = "clamp"
    else:
        return None
    crop = {"kind": "crop", "rows": decoder.rows, "columns": decoder.columns}
    return [*steps(decoder.dense), *steps(decoder.enlarge), crop, {"kind": last}]


def steps(layers: nn.Sequential) -> Iterator[dict[str, Any]]:
    """Layers as steps."""
    for layer in layers:
        if isinstance(layer, nn.Linear):
            yield {"kind": "dense", "weight": in_half(layer.weight), "bias": in_half(layer.bias)}
        elif isinstance(layer, nn.ReLU):
            yield {"kind": "relu"}
        elif isinstance(layer, nn.Unflatten):
            yield {"kind": "map", "shape": list(layer.unflattened_size)}
        elif isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            scale = layer.weight / (layer.running_var + layer.eps).sqrt()
            yield {"kind": "scale", "weight": in_half(scale), "bias": in_half(layer.bias - layer.running_mean * scale)}
        elif isinstance(layer, nn.ConvTranspose2d):
            yield {
                "kind": "enlarge",
                "weight": in_half(layer.weight),
                "bias": in_half(layer.bias),
                "channels": layer.out_channels,
                "kernel": layer.kernel_size[0],
                "stride": layer.stride[0],
                "padding": int(layer.padding[0]),
                "extra": layer.output_padding[0],
            }
        else:
            raise TypeError(f"{type(layer).__name__} is no step that the page computes")


def in_half(tensor: Tensor | None) -> str:
    """A tensor in float16, as base64; what is beyond its range becomes its largest number."""
    assert tensor is not None
    largest = torch.finfo(torch.float16).max
    return in_base64(tensor.detach().float().clamp(-largest, largest).half())


def in_base64(tensor: Tensor) -> str:
    """The bytes of a tensor, as base64."""
    return base64.b64encode(tensor.contiguous().cpu().numpy().tobytes()).decode()
