"""Draw the pictures of the page, each with a caption that says how to read it."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor

from capsule_lightning.analysis.class_routing import child_map, class_routing, couplings_by_iteration, vote_maps
from capsule_lightning.analysis.probe import Probe
from capsule_lightning.figures.confusion import confusion_figure
from capsule_lightning.figures.couplings import coupling_animation, coupling_figure
from capsule_lightning.figures.curves import routing_curves
from capsule_lightning.figures.lengths import length_figure
from capsule_lightning.figures.perturbations import perturbation_figure, perturbed_pictures
from capsule_lightning.figures.poses import pose_figure, principal_components, tsne
from capsule_lightning.figures.probe import probe_figure
from capsule_lightning.figures.reconstructions import reconstruction_figure
from capsule_lightning.report.measured import TestOutputs, spread_over_classes
from capsule_lightning.report.trained_network import TrainedNetwork

EMBEDDED = 500  # poses that are drawn in the plane
PER_FIGURE = 10  # images in one figure
PERTURBED = 3  # images whose capsules are perturbed


class Picture(NamedTuple):
    """A picture of the page.

    Attributes:
        heading: heading above the picture.
        caption: how to read the picture.
        sources: data URLs of one or several images.
        markup: HTML below them, in which all that is not the page's own is escaped, see `passages`.
    """

    heading: str
    caption: str
    sources: Sequence[str]
    markup: str = ""


def reconstructions(trained: TrainedNetwork, outputs: TestOutputs, classes: Tensor) -> Iterator[Picture]:
    """Draw right, wrong, most and least certain images with their reconstructions; nothing without a decoder."""
    if outputs.reconstructions is None:
        return
    sure = outputs.activations.amax(dim=-1)
    right = classes == trained.labels
    ordered = sure.argsort(descending=True)
    for heading, indices, caption in (
        (
            "Right predictions",
            right.nonzero()[:, 0],
            "Below each test image: the decoder's picture of its longest capsule.",
        ),
        (
            "Wrong predictions",
            (~right).nonzero()[:, 0],
            "Images taken for another class; below each, the picture of that class's capsule.",
        ),
        ("Most certain", ordered, "The images with the longest capsules."),
        ("Least certain", ordered.flip(0), "The images whose longest capsule is shortest."),
    ):
        some = indices[:PER_FIGURE]
        if not len(some):
            continue
        figure = reconstruction_figure(
            trained.pictures[some],
            outputs.reconstructions[some],
            [trained.class_names[n] for n in trained.labels[some].tolist()],
            [trained.class_names[n] for n in classes[some].tolist()],
            sure[some].tolist(),
            heading,
        )
        yield Picture(f"Reconstructions: {heading.lower()}", caption, [png(figure)])


def perturbations(trained: TrainedNetwork, outputs: TestOutputs, probe: Probe) -> Iterator[Picture]:
    """Draw rows in which one dimension of a capsule changes, for some images; nothing without a decoder."""
    decoder, names = trained.net.decoder, trained.class_names
    if decoder is None:
        return
    right = (outputs.activations.argmax(dim=-1) == trained.labels).nonzero()[:, 0]
    if not len(right):
        return
    chosen = right[spread_over_classes(trained.labels[right], len(names))]
    chosen = chosen[torch.linspace(0, len(chosen) - 1, min(PERTURBED, len(chosen))).long()]
    sources = []
    for n in chosen.tolist():
        label = int(trained.labels[n])
        moved = perturbed_pictures(decoder, outputs.poses[n, label], label, len(names))
        title = f"Class {names[label]}, each dimension changed by itself"
        notes = dimension_notes(probe, label)
        sources.append(png(perturbation_figure(trained.pictures[n], moved, title, notes=notes)))
    caption = (
        "Each row changes one dimension of the class capsule by -0.25 to 0.25 and leaves the others as they are; the "
        "framed pictures in the middle are those of the unchanged capsule. On the right: the parameter that the probe "
        "below predicts best from that dimension of this class, with its R²."
    )
    yield Picture("What each dimension does", caption, sources)


def dimension_notes(probe: Probe, label: int, least: float = 0.1) -> list[str]:
    """Name, for each dimension of a class's capsule, the parameter that is predicted best from it, with its R2.

    Args:
        probe: probe of the poses.
        label: the class.
        least: R2 below which a dimension gets no name.

    Returns:
        E texts, some of them empty; an empty list for a class that was not probed.
    """
    if label not in probe.classes:
        return []
    best = probe.of_class[probe.classes.index(label)].max(dim=1)
    return [
        f"{probe.parameters[parameter]} {value:.2f}" if value >= least else ""
        for value, parameter in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]


def probe_picture(probe: Probe) -> Picture:
    """Draw what a linear probe predicts from the poses."""
    caption = (
        "Test images were rotated, scaled, sheared, shifted and thickened by known amounts. A number is the share of "
        "the amount's variance that linear regression predicts from one dimension (or from all), on images that it was "
        f"not fitted to; the mean over the classes. 1 is all of it, 0 or less is none. Probed: {probe.what}."
    )
    figure = probe_figure(probe.single, probe.whole, probe.parameters, "What a linear probe reads")
    return Picture("What each dimension encodes", caption, [png(figure)])


def coupling_pictures(trained: TrainedNetwork) -> Iterator[Picture]:
    """Draw which place of an image votes for which class; nothing if children have no place or nothing is routed."""
    places = child_map(trained.net)
    if places is None:
        return
    one_each = spread_over_classes(trained.labels, len(trained.class_names))
    chosen = one_each[torch.linspace(0, len(one_each) - 1, min(2, len(one_each))).long()]
    seen = class_routing(trained.net, trained.normalize(trained.pictures[chosen]))
    if seen is None:
        return
    couplings = couplings_by_iteration(seen)  # (T, B, I, J)
    activations = seen.children.activations.reshape(couplings.shape[1:-1])
    if couplings.shape[-2] != places.types * places.rows * places.columns:
        return
    maps = vote_maps(couplings, activations, places)  # (T, B, J, rows, columns)
    sources = []
    for n, index in enumerate(chosen.tolist()):
        title = f"Votes for each class, image of {trained.class_names[int(trained.labels[index])]}"
        given = (trained.pictures[index], maps[:, n], trained.class_names, title, places.extent)
        sources.append(png(coupling_figure(*given)))
        if n == 0 and len(maps) > 1:
            sources.append(address("gif", coupling_animation(*given)))
    caption = (
        "Red: the capsules at a place couple more to the class named above than to the average class; blue: less. "
        "Drawn is coupling times activation, summed over the types at the place. If routing starts with equal "
        "couplings, the first row is blank."
    )
    yield Picture("Who votes for what", caption, sources)


def training_pictures(trained: TrainedNetwork) -> Iterator[Picture]:
    """Draw the curves of `RoutingMonitor`, if it was used."""
    if trained.curves:
        caption = (
            "Coupling entropy falls from 1 as children choose their parents; agreement is the mean cosine of their "
            "votes with the longest class capsule; a dead capsule is not long for any image."
        )
        yield Picture("Routing over training", caption, [png(routing_curves(trained.curves, "Routing over training"))])


def lengths(trained: TrainedNetwork, outputs: TestOutputs) -> Picture:
    """Draw the mean length of each capsule by class, and its greatest length."""
    caption = (
        "Left: the mean length of each class capsule for images of each class; the diagonal should be near 1, the rest "
        "near 0. Right: the greatest length that each capsule reaches for any image; a capsule below the dotted line "
        "is dead: it never becomes active."
    )
    figure = length_figure(outputs.activations, trained.labels, trained.class_names, "Lengths of the class capsules")
    return Picture("How long capsules are", caption, [png(figure)])


def pose_pictures(trained: TrainedNetwork, outputs: TestOutputs) -> Iterator[Picture]:
    """Draw the poses of the true classes in the plane; nothing if a capsule has a single number."""
    chosen = spread_over_classes(trained.labels, EMBEDDED)
    labels = trained.labels[chosen]
    poses = outputs.poses[chosen, labels]
    if poses.shape[-1] < 2 or len(poses) < 4:
        return
    perplexity = max(len(poses) / len(set(labels.tolist())) / 3, 3)
    planes = [("principal components", principal_components(poses)), ("t-SNE", tsne(poses, perplexity))]
    caption = (
        f"Poses of the true class's capsule for {len(chosen)} test images, flattened to the plane. In t-SNE, "
        "neighbors are neighbors, but distances between groups have no meaning."
    )
    figure = pose_figure(planes, labels, trained.class_names, "Poses of the class capsules")
    yield Picture("Poses in the plane", caption, [png(figure)])


def confusion(trained: TrainedNetwork, classes: Tensor) -> Picture:
    """Draw the confusion matrix."""
    count = len(trained.class_names)
    matrix = torch.bincount(trained.labels * count + classes, minlength=count * count).view(count, count)
    figure = confusion_figure(matrix, trained.class_names, "Confusion")
    return Picture("What is taken for what", "Rows are the true classes, columns the predicted ones.", [png(figure)])


def png(figure: Figure) -> str:
    """Return a figure as a data URL."""
    file = BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return address("png", file.getvalue())


def address(kind: str, content: bytes) -> str:
    """Return an image file as a data URL."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
