"""What a network has learnt, as one page: numbers, pictures, and a panel whose sliders move the picture."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from math import ceil, sqrt
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from matplotlib.figure import Figure
from torch import Tensor, nn

from capsule_lightning import __version__
from capsule_lightning.capsules import Capsules
from capsule_lightning.checkpoints import require_checkpoint
from capsule_lightning.class_routing import (
    ClassRouting,
    agreement,
    child_map,
    class_routing,
    coupling_entropy,
    couplings_by_iteration,
    vote_maps,
)
from capsule_lightning.data.augmentation import standardise
from capsule_lightning.data.base import ImageDataModule
from capsule_lightning.data.image_files import class_tree, read_images
from capsule_lightning.decoders.base import Decoder
from capsule_lightning.decoders.class_independent import ClassIndependentDecoder
from capsule_lightning.decoders.conv import ConvDecoder
from capsule_lightning.decoders.dense import DenseDecoder
from capsule_lightning.errors import InputError
from capsule_lightning.export import (
    Metadata,
    build_network,
    data_module,
    filled,
    load_network,
    network_of,
    read_metadata,
    require_place,
    write_whole,
)
from capsule_lightning.figures.confusion import confusion_figure
from capsule_lightning.figures.couplings import coupling_animation, coupling_figure
from capsule_lightning.figures.curves import routing_curves
from capsule_lightning.figures.lengths import dead_capsules, length_figure
from capsule_lightning.figures.perturbations import perturbation_figure, perturbed_pictures
from capsule_lightning.figures.poses import pose_figure, principal_components, tsne
from capsule_lightning.figures.probe import probe_figure
from capsule_lightning.figures.reconstructions import reconstruction_figure
from capsule_lightning.losses.reconstruction import reconstruction_error
from capsule_lightning.models.base import CapsuleNet
from capsule_lightning.probe import Probe, probe_network
from capsule_lightning.runs import CONFIG_NAME, run_of_checkpoint

SUFFIX = ".html"
TESTED = 25_000  # most test images that are looked at, and held in memory
PROBED = 300  # images of all classes together
EMBEDDED = 500  # poses in the plane
ON_PANEL = 20  # images to choose from
PER_FIGURE = 10
PERTURBED = 3  # images whose dimensions are moved
ROUTED = 64  # images whose couplings are averaged
BATCH = 256
MONITORED = ("coupling_entropy", "agreement", "dead_capsules")
"""What `RoutingMonitor` logs, see there."""

Normaliser = Callable[[Tensor], Tensor]
_PAGE = Path(__file__).with_name("report.html")


class Written(NamedTuple):
    """What `report` has written.

    Attributes:
        path: of the page.
        table: of the probe's numbers, a CSV file.
        size: of the page in bytes.
    """

    path: Path
    table: Path
    size: int


@dataclass(frozen=True)
class Subject:
    """What a page is about.

    Attributes:
        net: for evaluation.
        normalise: pictures in [0, 1] to what the network expects.
        pictures: ``(N, C, H, W)`` in [0, 1], the test images.
        labels: ``(N)`` int64.
        class_names: the J names.
        title: of the page.
        facts: lines of its table, name and value.
        config: of the run, YAML; None where it is not known.
        curves: of the routing over training, see `routing_curves`; may be empty.
    """

    net: CapsuleNet
    normalise: Normaliser
    pictures: Tensor
    labels: Tensor
    class_names: Sequence[str]
    title: str
    facts: Mapping[str, str]
    config: str | None
    curves: Mapping[str, Sequence[tuple[int, float]]]


class Measured(NamedTuple):
    """What a network says of the test images.

    Attributes:
        poses: ``(N, J, E)``.
        activations: ``(N, J)``.
        reconstructions: ``(N, C, H, W)`` from the longest capsule; None without a decoder.
    """

    poses: Tensor
    activations: Tensor
    reconstructions: Tensor | None


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


def report(
    checkpoint: str | Path,
    output: str | Path | None = None,
    *,
    root: str | None = None,
    images: str | Path | None = None,
    overwrite: bool = False,
) -> Written:
    """Write a page about a trained network, and beside it the numbers of its probe.

    Args:
        checkpoint: that ``fit`` has written, its run's configuration above it; or a ``.safetensors`` file of `export`.
        output: ends in ``.html``; None for ``report.html`` in the run's folder, or beside a ``.safetensors`` file.
        root: folder of the data, where it is another than in training.
        images: test images ``<images>/<class>/*`` in place of the data set's; a ``.safetensors`` file needs them.
        overwrite: replace a page that is there.

    Raises:
        InputError: a file that holds no network, missing images, images of several labels, an output that cannot or
            must not be written.
    """
    source = Path(checkpoint).expanduser()
    shared = source.suffix == ".safetensors"
    if not shared:
        require_checkpoint(source)
    path = Path(output).expanduser() if output is not None else _usual_place(source, shared)
    if path.suffix != SUFFIX:
        raise InputError(f"{path}: expected a name that ends in {SUFFIX}")
    table = path.with_name(f"{path.stem}_probe.csv")
    for place in (path, table):
        require_place(place, overwrite)
    subject = subject_of_file(source, images) if shared else subject_of_run(source, root, images)
    page, probe = build(subject)
    content = page.encode()
    write_whole(table, probe.csv().encode(), overwrite)
    write_whole(path, content, overwrite)
    return Written(path, table, len(content))


def _usual_place(source: Path, shared: bool) -> Path:
    folder = source.parent if shared else run_of_checkpoint(source) or source.parent
    return folder / f"report{SUFFIX}"


def subject_of_run(checkpoint: Path, root: str | None = None, images: str | Path | None = None) -> Subject:
    """A checkpoint, its run's configuration and its test images; arguments as of `report`.

    Raises:
        InputError: no configuration, images that are missing or have several labels.
    """
    tensors, metadata = network_of(checkpoint)
    net = filled(build_network(metadata, checkpoint), tensors, checkpoint)
    folder = run_of_checkpoint(checkpoint)
    if folder is None:
        raise InputError(
            f"{checkpoint}: no {CONFIG_NAME} of its run in the folders above it, which says what its images are; leave "
            "the checkpoint in its run, or export it and give --images FOLDER"
        )
    config = (folder / CONFIG_NAME).read_text()
    settings = yaml.safe_load(config)
    try:
        slot = settings["data"]
        if root is not None:
            slot.setdefault("init_args", {})["root"] = root
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{folder / CONFIG_NAME}: says nothing of the data; expected one that `fit` has written"
        ) from error
    data = data_module(slot)
    if data.num_labels != 1:
        raise InputError(
            f"{data.name}: its images have {data.num_labels} labels each; a report is about images of one class, such "
            "as mnist"
        )
    stage = "fit" if images is not None and data.normalisation == "channel" else "test"
    if images is None or stage == "fit":
        data.prepare_data()
        data.setup(stage)
    statistics = data.statistics or (None, None)
    normalise = normaliser({"kind": data.normalisation, "mean": statistics[0], "deviation": statistics[1]})
    if images is None:
        pictures, labels, total = evaluation_pictures(data)
        told = f"{len(labels):,} test images" if len(labels) == total else f"{len(labels):,} of {total:,} test images"
        facts = {"data": f"{data.name}, {told}"}
    else:
        pictures, labels = folder_pictures(Path(images).expanduser(), net, data.class_names)
        facts = {"data": str(images)}
    name = f"{settings.get('experiment', folder.parent.name)}, run {folder.name}"
    facts |= {"checkpoint": checkpoint.name, **_training(metadata)}
    curves = monitored(folder / "metrics.csv")
    return Subject(net, normalise, pictures, labels, data.class_names, name, facts, config, curves)


def subject_of_file(path: Path, images: str | Path | None) -> Subject:
    """A ``.safetensors`` file of `export`, and a folder of class folders of test images.

    Raises:
        InputError: no images given, or the file does not say what its images are.
    """
    metadata = read_metadata(path)
    net = load_network(path)
    if images is None:
        raise InputError(f"{path}: a report of a shared network needs test images: --images FOLDER, <FOLDER>/<class>/*")
    missing = [key for key in ("class_names", "normalisation") if key not in metadata]
    if missing:
        raise InputError(f"{path}: does not say its {' and '.join(missing)}; export it again from its run's folder")
    names = json.loads(metadata["class_names"])
    pictures, labels = folder_pictures(Path(images).expanduser(), net, names)
    normalise = normaliser(json.loads(metadata["normalisation"]))
    facts = {"network file": path.name, "data": str(images), **_training(metadata)}
    return Subject(net, normalise, pictures, labels, names, path.stem, facts, None, {})


def _training(metadata: Metadata) -> dict[str, str]:
    return {"training steps": f"{int(metadata['step']):,}"} if "step" in metadata else {}


def normaliser(kind: Mapping[str, Any]) -> Normaliser:
    """What is done to pictures in [0, 1] before the network sees them, from the metadata of `export`.

    Args:
        kind: ``kind``, one of ``none``, ``per_image`` and ``channel``; for the last ``mean`` and ``deviation``.

    Raises:
        InputError: ``channel`` without its numbers.
    """
    if kind["kind"] == "none":
        return lambda pictures: pictures
    if kind["kind"] == "per_image":
        return standardise
    if kind.get("mean") is None or kind.get("deviation") is None:
        raise InputError("the mean and deviation of the training images are not known; export where they can be read")
    mean, deviation = (torch.tensor(kind[name]).view(-1, 1, 1) for name in ("mean", "deviation"))
    return lambda pictures: (pictures - mean) / deviation


def evaluation_pictures(data: ImageDataModule, most: int = TESTED) -> tuple[Tensor, Tensor, int]:
    """Test images as evaluation sees them, not normalised.

    Args:
        data: after ``setup("test")``.
        most: N; of more test images every second, third, ... is taken.

    Returns:
        ``(N, C, H, W)`` in [0, 1], their labels ``(N)``, and how many test images there are.
    """
    loader = data.test_dataloader()
    every = max(ceil(len(loader) * data.batch_size / most), 1)
    pictures, labels, total = [], [], 0
    for stored in loader:
        batch = data.on_after_batch_transfer(stored, 0)
        first = -total % every
        pictures.append(batch.pictures[first::every])
        labels.append(batch.labels[first::every])
        total += len(batch.labels)
    return torch.cat(pictures), torch.cat(labels), total


def folder_pictures(folder: Path, net: CapsuleNet, class_names: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Images ``<folder>/<class>/*`` in [0, 1] scaled to what the network takes, and their labels.

    Raises:
        InputError: no such folder, or other classes.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; --images takes one of test images, {folder}/<class>/<image>")
    channels, rows, columns = net.in_shape
    tree = class_tree(folder, class_names)
    images = read_images(tree.paths, (channels, rows, columns), resize=True)
    return images.float() / 255, torch.tensor(tree.labels)


def monitored(metrics: Path) -> dict[str, list[tuple[int, float]]]:
    """The curves that `RoutingMonitor` has left in a run's ``metrics.csv``, by name; nothing where it was not used."""
    if not metrics.is_file():
        return {}
    curves: dict[str, list[tuple[int, float]]] = {}
    for line in metrics.read_text().splitlines():
        fields = line.split(",")
        if len(fields) == 4 and fields[2].removeprefix("train/") in MONITORED:
            curves.setdefault(fields[2].removeprefix("train/"), []).append((int(fields[1]), float(fields[3])))
    return curves


@torch.no_grad()
def measure(net: CapsuleNet, normalise: Normaliser, pictures: Tensor) -> Measured:
    """Class capsules and reconstructions of all pictures ``(N, C, H, W)``, a batch at a time."""
    poses, activations, reconstructions = [], [], []
    for start in range(0, len(pictures), BATCH):
        capsules: Capsules = net(normalise(pictures[start : start + BATCH]))
        poses.append(capsules.poses.float())
        activations.append(capsules.activations.float())
        made = net.reconstruct(capsules, capsules.activations.argmax(dim=-1))
        if made is not None:
            reconstructions.append(made.float().clamp(0, 1))
    joined = torch.cat(reconstructions) if reconstructions else None
    return Measured(torch.cat(poses), torch.cat(activations), joined)


def wilson_interval(right: int, count: int, z: float = 1.959964) -> tuple[float, float]:
    """An interval for a share of which ``right`` of ``count`` were seen, 95 % unless told otherwise.

    Source: Wilson, Probable Inference, the Law of Succession, and Statistical Inference, 1927.

    Example:
        >>> low, high = wilson_interval(5, 10)
        >>> f"{low:.3f} {high:.3f}"
        '0.237 0.763'
    """
    share, spread = right / count, z * z / count
    centre = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * sqrt(share * (1 - share) / count + spread / (4 * count))
    return centre - half, centre + half


def spread_over_classes(labels: Tensor, count: int) -> Tensor:
    """Indices of at most ``count`` images, the first of each class, as many of one class as of another."""
    classes = sorted(set(labels.tolist()))
    each = max(count // len(classes), 1)
    chosen = [(labels == j).nonzero()[:each, 0] for j in classes]
    return torch.cat(chosen)[: max(count, 1)]


def build(subject: Subject) -> tuple[str, Probe]:
    """The page, and the probe whose numbers it shows."""
    net, labels = subject.net, subject.labels
    found = measure(net, subject.normalise, subject.pictures)
    classes = found.activations.argmax(dim=-1)
    seen = class_routing(net, subject.normalise(subject.pictures[spread_over_classes(labels, ROUTED)]))
    chosen = spread_over_classes(labels, PROBED)
    probe = probe_network(net, subject.normalise, subject.pictures[chosen], labels[chosen])
    pictures = [
        *_reconstructions(subject, found, classes),
        *_perturbations(subject, found, probe),
        _probe_picture(probe),
        *_coupling_pictures(subject),
        *_training_pictures(subject),
        _lengths(subject, found),
        *_pose_pictures(subject, found),
        _confusion(subject, classes),
    ]
    facts = {**_numbers(subject, found, classes, seen), **subject.facts, **_network(net)}
    panel = panel_data(subject, found, probe)
    if net.decoder is None:
        note = "This network has no decoder: it makes no pictures of its capsules, so there are none to move."
    else:
        note = (
            f"Its decoder, {type(net.decoder).__name__}, is none that this page can compute; there is nothing to move."
        )
    fill = {
        "title": html.escape(subject.title),
        "facts": "".join(f"<tr><th>{html.escape(k)}<td>{html.escape(v)}" for k, v in facts.items()),
        "pictures": "\n".join(map(_figure_html, pictures)),
        "table": _table_html(probe),
        "config": _config_html(subject.config),
        "note": "" if panel else f'<p class="note">{html.escape(note)}</p>',
        "hidden": "" if panel else " hidden",
        "panel": json.dumps(panel, separators=(",", ":")).replace("<", "\\u003c"),
        "version": html.escape(__version__),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: fill[match[1]], _PAGE.read_text()), probe


def _numbers(subject: Subject, found: Measured, classes: Tensor, seen: ClassRouting | None) -> dict[str, str]:
    count, right = len(classes), int((classes == subject.labels).sum())
    low, high = wilson_interval(right, count)
    interval = f"95 % interval {100 * low:.2f} to {100 * high:.2f} %"
    facts = {"test accuracy": f"{100 * right / count:.2f} % ({right:,} of {count:,}), {interval}"}
    if found.reconstructions is not None:
        errors = reconstruction_error(found.reconstructions, subject.pictures)
        half = 1.959964 * float(errors.std(correction=min(1, count - 1))) / sqrt(count)
        facts["reconstruction error"] = f"{float(errors.mean()):.2f} ± {half:.2f} (squared, summed over pixels)"
    dead = [subject.class_names[j] for j in dead_capsules(found.activations).nonzero()[:, 0].tolist()]
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


def _network(net: CapsuleNet) -> dict[str, str]:
    slots = [
        type(getattr(net, slot)).__name__ for slot in ("encoder", "routing", "decoder") if getattr(net, slot, None)
    ]
    decoder = 0 if net.decoder is None else sum(p.numel() for p in net.decoder.parameters())
    total = sum(p.numel() for p in net.parameters())
    parameters = f"{total:,}" + (f", {decoder:,} of them the decoder's" if decoder else "")
    return {"network": " / ".join([type(net).__name__, *slots]), "parameters": parameters}


def _reconstructions(subject: Subject, found: Measured, classes: Tensor) -> Iterator[Picture]:
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
        yield Picture(f"Reconstructions: {heading.lower()}", caption, [_png(figure)])


def _perturbations(subject: Subject, found: Measured, probe: Probe) -> Iterator[Picture]:
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
        sources.append(_png(perturbation_figure(subject.pictures[n], moved, title, notes=notes)))
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


def _probe_picture(probe: Probe) -> Picture:
    caption = (
        "Test images were rotated, scaled, sheared, shifted and thickened by known amounts. A number is the share of "
        "the amount's variance that linear regression reads from one dimension (or from all), on images it was not "
        f"fitted to; the mean over the classes. 1 is all of it, 0 or less is nothing. Probed: {probe.what}."
    )
    figure = probe_figure(probe.single, probe.whole, probe.parameters, "What a linear probe reads")
    return Picture("What each dimension encodes", caption, [_png(figure)])


def _coupling_pictures(subject: Subject) -> Iterator[Picture]:
    places = child_map(subject.net)
    if places is None:
        return
    one_each = spread_over_classes(subject.labels, len(subject.class_names))
    chosen = one_each[torch.linspace(0, len(one_each) - 1, min(2, len(one_each))).long()]
    seen = class_routing(subject.net, subject.normalise(subject.pictures[chosen]))
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
        sources.append(_png(coupling_figure(*given)))
        if n == 0 and len(maps) > 1:
            sources.append(_address("gif", coupling_animation(*given)))
    caption = (
        "Red where the capsules at a place give more of themselves to the class named above than to the average class, "
        "blue where they give less: coupling times activation, summed over the types at the place. Where routing "
        "begins with even couplings, the first row is blank."
    )
    yield Picture("Who votes for what", caption, sources)


def _training_pictures(subject: Subject) -> Iterator[Picture]:
    if subject.curves:
        caption = (
            "Coupling entropy falls from 1 as children choose their parents; agreement is the mean cosine of their "
            "votes with the longest class capsule; a dead capsule is long for no image."
        )
        yield Picture("Routing over training", caption, [_png(routing_curves(subject.curves, "Routing over training"))])


def _lengths(subject: Subject, found: Measured) -> Picture:
    caption = (
        "Left, how long each class capsule is on average for images of each class: the diagonal should be near 1, the "
        "rest near 0. Right, the greatest length that each capsule reaches for any image; one below the dotted line is "
        "dead, it never speaks."
    )
    figure = length_figure(found.activations, subject.labels, subject.class_names, "Lengths of the class capsules")
    return Picture("How long capsules are", caption, [_png(figure)])


def _pose_pictures(subject: Subject, found: Measured) -> Iterator[Picture]:
    chosen = spread_over_classes(subject.labels, EMBEDDED)
    labels = subject.labels[chosen]
    poses = found.poses[chosen, labels]
    if poses.shape[-1] < 2 or len(poses) < 4:
        return
    perplexity = max(len(poses) / len(set(labels.tolist())) / 3, 3)
    planes = [("principal components", principal_components(poses)), ("t-SNE", tsne(poses, perplexity))]
    caption = (
        f"Poses of the true class's capsule for {len(chosen)} test images, flattened to the plane. In t-SNE neighbours "
        "are neighbours, and distances between groups mean nothing."
    )
    figure = pose_figure(planes, labels, subject.class_names, "Poses of the class capsules")
    yield Picture("Poses in the plane", caption, [_png(figure)])


def _confusion(subject: Subject, classes: Tensor) -> Picture:
    count = len(subject.class_names)
    matrix = torch.bincount(subject.labels * count + classes, minlength=count * count).view(count, count)
    figure = confusion_figure(matrix, subject.class_names, "Confusion")
    return Picture("What is taken for what", "Rows are the true classes, columns the predicted ones.", [_png(figure)])


def panel_data(subject: Subject, found: Measured, probe: Probe) -> dict[str, Any] | None:
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
        "images": _bytes(subject.pictures[chosen].mul(255).round().to(torch.uint8)),
        "poses": _bytes(found.poses[chosen].float()),
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
        return [*_steps(decoder.layers), {"kind": "sigmoid"}]
    if isinstance(decoder, ConvDecoder):
        last = "sigmoid"
    elif isinstance(decoder, ClassIndependentDecoder):
        last = "clamp"
    else:
        return None
    crop = {"kind": "crop", "rows": decoder.rows, "columns": decoder.columns}
    return [*_steps(decoder.dense), *_steps(decoder.enlarge), crop, {"kind": last}]


def _steps(layers: nn.Sequential) -> Iterator[dict[str, Any]]:
    for layer in layers:
        if isinstance(layer, nn.Linear):
            yield {"kind": "dense", "weight": _half(layer.weight), "bias": _half(layer.bias)}
        elif isinstance(layer, nn.ReLU):
            yield {"kind": "relu"}
        elif isinstance(layer, nn.Unflatten):
            yield {"kind": "map", "shape": list(layer.unflattened_size)}
        elif isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            scale = layer.weight / (layer.running_var + layer.eps).sqrt()
            yield {"kind": "scale", "weight": _half(scale), "bias": _half(layer.bias - layer.running_mean * scale)}
        elif isinstance(layer, nn.ConvTranspose2d):
            yield {
                "kind": "enlarge",
                "weight": _half(layer.weight),
                "bias": _half(layer.bias),
                "channels": layer.out_channels,
                "kernel": layer.kernel_size[0],
                "stride": layer.stride[0],
                "padding": int(layer.padding[0]),
                "extra": layer.output_padding[0],
            }
        else:
            raise TypeError(f"{type(layer).__name__} is no step that the page computes")


def _half(tensor: Tensor | None) -> str:
    assert tensor is not None
    largest = torch.finfo(torch.float16).max
    return _bytes(tensor.detach().float().clamp(-largest, largest).half())


def _bytes(tensor: Tensor) -> str:
    return base64.b64encode(tensor.contiguous().cpu().numpy().tobytes()).decode()


def _png(figure: Figure) -> str:
    file = BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return _address("png", file.getvalue())


def _address(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _figure_html(picture: Picture) -> str:
    heading = html.escape(picture.heading)
    images = "".join(f'<div class="sheet"><img alt="{heading}" src="{source}"></div>' for source in picture.sources)
    return f"<section><h2>{heading}</h2><p>{html.escape(picture.caption)}</p>{images}</section>"


def _table_html(probe: Probe) -> str:
    head = "".join(f"<th>{html.escape(name)}" for name in probe.parameters)
    rows = [(str(n), values) for n, values in enumerate(probe.single.tolist(), start=1)]
    rows.append(("all", probe.whole.tolist()))
    body = "".join(f"<tr><th>{name}" + "".join(f"<td>{value:.3f}" for value in values) for name, values in rows)
    return f"<table><tr><th>dimension{head}{body}</table>"


def _config_html(config: str | None) -> str:
    return (
        "" if config is None else f"<details><summary>Configuration</summary><pre>{html.escape(config)}</pre></details>"
    )
