"""The pictures of the page, each with a caption that says how to read it."""

from __future__ import annotations

import base64
from collections.abc import Iterator
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
from capsule_lightning.report.measured import Measured, spread_over_classes
from capsule_lightning.report.subject import Subject

EMBEDDED = 500  # poses in the plane
PER_FIGURE = 10
PERTURBED = 3  # images whose dimensions are moved


class Picture(NamedTuple):
    """An image of the page.

    Attributes:
        heading: above it.
        caption: how to read it.
        sources: data addresses, of one image or several.
    """

    heading: str
    caption: str
    sources: list[str]


def reconstructions(subject: Subject, found: Measured, classes: Tensor) -> Iterator[Picture]:
    """Right, wrong, most certain and least certain images with their reconstructions; none without a decoder."""
    if found.reconstructions is None:
        return
    sure = found.activations.amax(dim=-1)
    right = classes == subject.labels
    ordered = sure.argsort(descending=True)
    for heading, indices, caption in (
        (
            "Right predictions",
            right.nonzero()[:, 0],
            "Below each test image, what the decoder makes of its longest capsule.",
        ),
        (
            "Wrong predictions",
            (~right).nonzero()[:, 0],
            "Images taken for another class; below, what they are taken for.",
        ),
        ("Most certain", ordered, "The images with the longest capsules of all."),
        ("Least certain", ordered.flip(0), "The images whose longest capsule is shortest."),
    ):
        some = indices[:PER_FIGURE]
        if not len(some):
            continue
        figure = reconstruction_figure(
            subject.pictures[some],
            found.reconstructions[some],
            [subject.class_names[n] for n in subject.labels[some].tolist()],
            [subject.class_names[n] for n in classes[some].tolist()],
            sure[some].tolist(),
            heading,
        )
        yield Picture(f"Reconstructions: {heading.lower()}", caption, [png(figure)])


def perturbations(subject: Subject, found: Measured, probe: Probe) -> Iterator[Picture]:
    """Rows in which one dimension of a capsule moves, for some images; none without a decoder."""
    decoder, names = subject.net.decoder, subject.class_names
    if decoder is None:
        return
    right = (found.activations.argmax(dim=-1) == subject.labels).nonzero()[:, 0]
    if not len(right):
        return
    chosen = right[spread_over_classes(subject.labels[right], len(names))]
    chosen = chosen[torch.linspace(0, len(chosen) - 1, min(PERTURBED, len(chosen))).long()]
    sources = []
    for n in chosen.tolist():
        label = int(subject.labels[n])
        moved = perturbed_pictures(decoder, found.poses[n, label], label, len(names))
        title = f"Class {names[label]}, each dimension moved alone"
        notes = dimension_notes(probe, label)
        sources.append(png(perturbation_figure(subject.pictures[n], moved, title, notes=notes)))
    caption = (
        "Each row moves one dimension of the class capsule by -0.25 to 0.25 and leaves the others as they are; the "
        "framed pictures in the middle are those of the untouched capsule. To the right, what the probe below reads "
        "best from that dimension of this class, with its R²."
    )
    yield Picture("What each dimension does", caption, sources)


def dimension_notes(probe: Probe, label: int, least: float = 0.1) -> list[str]:
    """For each dimension of a class's capsule, the parameter that it tells most of with its R2.

    Args:
        probe: of the poses.
        label: the class.
        least: R2 below which nothing is said.

    Returns:
        E words, some of them empty; none at all for a class that was not probed.
    """
    if label not in probe.classes:
        return []
    best = probe.of_class[probe.classes.index(label)].max(dim=1)
    return [
        f"{probe.parameters[parameter]} {value:.2f}" if value >= least else ""
        for value, parameter in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]


def probe_picture(probe: Probe) -> Picture:
    """What a linear probe reads."""
    caption = (
        "Test images were rotated, scaled, sheared, shifted and thickened by known amounts. A number is the share of "
        "the amount's variance that linear regression reads from one dimension (or from all), on images it was not "
        f"fitted to; the mean over the classes. 1 is all of it, 0 or less is nothing. Probed: {probe.what}."
    )
    figure = probe_figure(probe.single, probe.whole, probe.parameters, "What a linear probe reads")
    return Picture("What each dimension encodes", caption, [png(figure)])


def coupling_pictures(subject: Subject) -> Iterator[Picture]:
    """Which place of an image votes for which class; none where children have no place or nothing is routed."""
    places = child_map(subject.net)
    if places is None:
        return
    one_each = spread_over_classes(subject.labels, len(subject.class_names))
    chosen = one_each[torch.linspace(0, len(one_each) - 1, min(2, len(one_each))).long()]
    seen = class_routing(subject.net, subject.normalize(subject.pictures[chosen]))
    if seen is None:
        return
    couplings = couplings_by_iteration(seen)  # (T, B, I, J)
    activations = seen.children.activations.reshape(couplings.shape[1:-1])
    if couplings.shape[-2] != places.types * places.rows * places.columns:
        return
    maps = vote_maps(couplings, activations, places)  # (T, B, J, rows, columns)
    sources = []
    for n, index in enumerate(chosen.tolist()):
        title = f"Votes for each class, image of {subject.class_names[int(subject.labels[index])]}"
        given = (subject.pictures[index], maps[:, n], subject.class_names, title, places.extent)
        sources.append(png(coupling_figure(*given)))
        if n == 0 and len(maps) > 1:
            sources.append(address("gif", coupling_animation(*given)))
    caption = (
        "Red where the capsules at a place give more of themselves to the class named above than to the average class, "
        "blue where they give less: coupling times activation, summed over the types at the place. Where routing "
        "begins with even couplings, the first row is blank."
    )
    yield Picture("Who votes for what", caption, sources)


def training_pictures(subject: Subject) -> Iterator[Picture]:
    """What `RoutingMonitor` saw, where it was used."""
    if subject.curves:
        caption = (
            "Coupling entropy falls from 1 as children choose their parents; agreement is the mean cosine of their "
            "votes with the longest class capsule; a dead capsule is long for no image."
        )
        yield Picture("Routing over training", caption, [png(routing_curves(subject.curves, "Routing over training"))])


def lengths(subject: Subject, found: Measured) -> Picture:
    """Lengths of the capsules by class, and the greatest of each."""
    caption = (
        "Left, how long each class capsule is on average for images of each class: the diagonal should be near 1, the "
        "rest near 0. Right, the greatest length that each capsule reaches for any image; one below the dotted line is "
        "dead, it never speaks."
    )
    figure = length_figure(found.activations, subject.labels, subject.class_names, "Lengths of the class capsules")
    return Picture("How long capsules are", caption, [png(figure)])


def pose_pictures(subject: Subject, found: Measured) -> Iterator[Picture]:
    """Poses of the true classes in the plane; none of capsules of one number."""
    chosen = spread_over_classes(subject.labels, EMBEDDED)
    labels = subject.labels[chosen]
    poses = found.poses[chosen, labels]
    if poses.shape[-1] < 2 or len(poses) < 4:
        return
    perplexity = max(len(poses) / len(set(labels.tolist())) / 3, 3)
    planes = [("principal components", principal_components(poses)), ("t-SNE", tsne(poses, perplexity))]
    caption = (
        f"Poses of the true class's capsule for {len(chosen)} test images, flattened to the plane. In t-SNE neighbors "
        "are neighbors, and distances between groups mean nothing."
    )
    figure = pose_figure(planes, labels, subject.class_names, "Poses of the class capsules")
    yield Picture("Poses in the plane", caption, [png(figure)])


def confusion(subject: Subject, classes: Tensor) -> Picture:
    """True against predicted classes."""
    count = len(subject.class_names)
    matrix = torch.bincount(subject.labels * count + classes, minlength=count * count).view(count, count)
    figure = confusion_figure(matrix, subject.class_names, "Confusion")
    return Picture("What is taken for what", "Rows are the true classes, columns the predicted ones.", [png(figure)])


def png(figure: Figure) -> str:
    """A figure as a data address."""
    file = BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return address("png", file.getvalue())


def address(kind: str, content: bytes) -> str:
    """A file of an image as a data address."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
