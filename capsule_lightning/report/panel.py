"""The panel whose sliders move a pose: what the page needs to compute the decoder by itself."""

from __future__ import annotations

import base64
from typing import Any

import torch
from torch import Tensor, nn

from capsule_lightning.analysis.probe import Probe
from capsule_lightning.decoders.base import Crop, Decoder, mask
from capsule_lightning.decoders.class_independent import Doubling
from capsule_lightning.report.measured import TestOutputs, spread_over_classes
from capsule_lightning.report.pictures import dimension_notes
from capsule_lightning.report.trained_network import TrainedNetwork

ON_PANEL = 20  # images to choose from


def panel_data(subject: TrainedNetwork, found: TestOutputs, probe: Probe) -> dict[str, Any] | None:
    """Return what the sliders of the page need: poses of some images, and the decoder; None if it is not computable."""
    decoder = subject.net.decoder
    layers = None if decoder is None else decoder_layers(decoder)
    if decoder is None or layers is None or not is_chain(decoder, found.poses[:2].float()):
        return None
    chosen = spread_over_classes(subject.labels, max(ON_PANEL, len(subject.class_names)))[: 5 * ON_PANEL]
    classes = found.activations[chosen].argmax(dim=-1)
    own = found.poses.gather(1, subject.labels[:, None, None].expand(-1, 1, found.poses.shape[-1])).squeeze(1)
    return {
        "classes": list(subject.class_names),
        "shape": list(subject.net.in_shape),
        "dims": found.poses.shape[-1],
        "masked": decoder.masked,
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
    """Return a decoder as steps that the page computes, with weights in float16; None if the page cannot.

    The page knows dense layers, transposed convolutions, batch normalization, ReLU, sigmoid, a clamp to [0, 1], a
    change of shape, and a crop.
    """
    layers = decoder.steps()
    found = None if layers is None else [step(layer) for layer in layers]
    return None if found is None or None in found else found  # type: ignore[return-value]


@torch.no_grad()
def is_chain(decoder: Decoder, poses: Tensor) -> bool:
    """Return whether a decoder's steps, one after the other, give the pictures that the decoder gives.

    They do not if a class takes the steps from another one and computes its pictures in its own way.

    Args:
        decoder: in evaluation mode.
        poses: ``(B, J, E)``.
    """
    labels = torch.zeros(len(poses), dtype=torch.int64)
    expected = decoder(poses, labels)
    values = mask(poses, labels).flatten(1) if decoder.masked else poses[:, 0]
    for layer in decoder.steps() or ():
        values = layer(values)
    return values.numel() == expected.numel() and torch.allclose(values.view_as(expected), expected, atol=1e-3)


def step(layer: nn.Module) -> dict[str, Any] | None:
    """Return a layer as a step of the page; None if the page does not know such layers."""
    if isinstance(layer, nn.Linear):
        return {"kind": "dense", "weight": in_half(layer.weight), "bias": in_half(layer.bias)}
    if isinstance(layer, nn.Unflatten):
        return {"kind": "map", "shape": list(layer.unflattened_size)}
    if isinstance(layer, Crop):
        return {"kind": "crop", "rows": layer.rows, "columns": layer.columns}
    if isinstance(layer, nn.Hardtanh) and (layer.min_val, layer.max_val) == (0, 1):
        return {"kind": "clamp"}
    if isinstance(layer, nn.BatchNorm2d):
        assert layer.running_mean is not None
        assert layer.running_var is not None
        scale = layer.weight / (layer.running_var + layer.eps).sqrt()
        return {"kind": "scale", "weight": in_half(scale), "bias": in_half(layer.bias - layer.running_mean * scale)}
    if isinstance(layer, nn.ConvTranspose2d):
        return {
            "kind": "enlarge",
            "weight": in_half(layer.weight),
            "bias": in_half(layer.bias),
            "channels": layer.out_channels,
            "kernel": layer.kernel_size[0],
            "stride": layer.stride[0],
            "padding": int(layer.padding[0]),
            "extra": layer.output_padding[0] - (layer.surplus if isinstance(layer, Doubling) else 0),
        }
    return {nn.ReLU: {"kind": "relu"}, nn.Sigmoid: {"kind": "sigmoid"}}.get(type(layer))


def in_half(tensor: Tensor | None) -> str:
    """Return a tensor in float16, as base64; a number beyond its range becomes its largest one."""
    assert tensor is not None
    largest = torch.finfo(torch.float16).max
    return in_base64(tensor.detach().float().clamp(-largest, largest).half())


def in_base64(tensor: Tensor) -> str:
    """Return the bytes of a tensor, as base64."""
    return base64.b64encode(tensor.contiguous().cpu().numpy().tobytes()).decode()
