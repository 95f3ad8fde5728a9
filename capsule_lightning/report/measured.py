"""Measure a network on its test images."""

from __future__ import annotations

from math import sqrt
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import ModuleList

from capsule_lightning.analysis.class_routing import ClassRouting, agreement, coupling_entropy, couplings_by_iteration
from capsule_lightning.analysis.intervals import wilson_interval
from capsule_lightning.capsules import Capsules
from capsule_lightning.figures.lengths import dead_capsules
from capsule_lightning.losses.reconstruction import reconstruction_error
from capsule_lightning.models.base import CapsuleNet
from capsule_lightning.report.trained_network import Normalizer, TrainedNetwork
from capsule_lightning.sharing.network_file import Network

BATCH = 256  # images at a time


class TestOutputs(NamedTuple):
    """Outputs of a network for the test images.

    Attributes:
        poses: ``(N, J, E)``, poses of the class capsules.
        activations: ``(N, J)``, their activations.
        reconstructions: ``(N, C, H, W)`` in [0, 1] from the longest capsule; None without a decoder.
    """

    poses: Tensor
    activations: Tensor
    reconstructions: Tensor | None


@torch.no_grad()
def measure(net: CapsuleNet, normalize: Normalizer, pictures: Tensor) -> TestOutputs:
    """Run a network on all pictures, a batch at a time.

    Args:
        net: the network, in evaluation mode.
        normalize: maps pictures in [0, 1] to what the network expects.
        pictures: ``(N, C, H, W)`` in [0, 1].
    """
    poses, activations, reconstructions = [], [], []
    for start in range(0, len(pictures), BATCH):
        capsules: Capsules = net(normalize(pictures[start : start + BATCH]))
        poses.append(capsules.poses.float())
        activations.append(capsules.activations.float())
        made = net.reconstruct(capsules, capsules.activations.argmax(dim=-1))
        if made is not None:
            reconstructions.append(made.float().clamp(0, 1))
    joined = torch.cat(reconstructions) if reconstructions else None
    return TestOutputs(torch.cat(poses), torch.cat(activations), joined)


def spread_over_classes(labels: Tensor, count: int) -> Tensor:
    """Return the indices of at most ``count`` images: the first of each class, the same number of every class.

    Args:
        labels: ``(N)`` int64.
        count: number of images wanted.

    Returns:
        ``(M)`` int64; at least one image of each class, if ``count`` allows.
    """
    classes = sorted(set(labels.tolist()))
    each = max(count // len(classes), 1)
    chosen = [(labels == j).nonzero()[:each, 0] for j in classes]
    return torch.cat(chosen)[: max(count, 1)]


def numbers(
    trained: TrainedNetwork, outputs: TestOutputs, classes: Tensor, seen: ClassRouting | None
) -> dict[str, str]:
    """Return the numbers of the page by name.

    Args:
        trained: the network and its images.
        outputs: of the network, for all images.
        classes: ``(N)`` int64, predicted classes.
        seen: routing of some images; None if the network does not route.
    """
    count, right = len(classes), int((classes == trained.labels).sum())
    low, high = wilson_interval(right, count)
    interval = f"95 % interval {100 * low:.2f} to {100 * high:.2f} %"
    facts = {"test accuracy": f"{100 * right / count:.2f} % ({right:,} of {count:,}), {interval}"}
    if outputs.reconstructions is not None:
        errors = reconstruction_error(outputs.reconstructions, trained.pictures)
        half = 1.959964 * float(errors.std(correction=min(1, count - 1))) / sqrt(count)
        facts["reconstruction error"] = f"{float(errors.mean()):.2f} ± {half:.2f} (squared, summed over pixels)"
    dead = [trained.class_names[j] for j in dead_capsules(outputs.activations).nonzero()[:, 0].tolist()]
    facts["dead capsules"] = ", ".join(dead) if dead else "none"
    if seen is not None:
        couplings = couplings_by_iteration(seen)[-1]
        activations = seen.children.activations.reshape(couplings.shape[:-1])
        facts["coupling entropy"] = (
            f"{float(coupling_entropy(couplings, activations).mean()):.3f} (1: children do not choose)"
        )
        cosine = agreement(seen)
        if cosine is not None:
            facts["agreement of votes"] = f"{float(cosine.mean()):.3f} (mean cosine with the longest class capsule)"
    return facts


def network(net: Network) -> dict[str, str]:
    """Return the parts of a network and its number of parameters, by name."""
    found = {slot: getattr(net, slot, None) for slot in ("encoder", "routing", "decoder")}
    parts = {slot: part for slot, part in found.items() if part is not None and not isinstance(part, ModuleList)}
    slots, made = [type(part).__name__ for part in parts.values()], parts.get("decoder")
    decoder = 0 if made is None else sum(p.numel() for p in made.parameters())
    total = sum(p.numel() for p in net.parameters())
    parameters = f"{total:,}" + (f", {decoder:,} of them the decoder's" if decoder else "")
    return {"network": " / ".join([type(net).__name__, *slots]), "parameters": parameters}
