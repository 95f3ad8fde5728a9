"""Write a page about a trained network: numbers, pictures, and a panel whose sliders change the picture."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from capsule_lightning import __version__
from capsule_lightning.analysis.class_routing import class_routing
from capsule_lightning.analysis.probe import Probe, probe_network
from capsule_lightning.errors import require
from capsule_lightning.report.evaluated_network import EvaluatedNetwork, Findings, is_evaluated, load_evaluated
from capsule_lightning.report.measured import measure, network, numbers, spread_over_classes
from capsule_lightning.report.of_boxes import of_boxes
from capsule_lightning.report.of_joints import of_joints
from capsule_lightning.report.of_masks import of_masks
from capsule_lightning.report.of_texts import of_texts
from capsule_lightning.report.of_translations import of_translations
from capsule_lightning.report.panel import panel_data
from capsule_lightning.report.pictures import (
    Picture,
    confusion,
    coupling_pictures,
    lengths,
    perturbations,
    pose_pictures,
    probe_picture,
    reconstructions,
    training_pictures,
)
from capsule_lightning.report.source import read_file, read_run
from capsule_lightning.report.trained_network import TrainedNetwork, with_images
from capsule_lightning.runs.checkpoint_files import require_checkpoint
from capsule_lightning.runs.csv_text import csv_text
from capsule_lightning.runs.files import write_whole
from capsule_lightning.runs.folders import expanded, run_of_checkpoint
from capsule_lightning.runs.results import require_place
from capsule_lightning.sharing.network_file import NETWORKS, is_shared, require_source
from capsule_lightning.tasks.detection import DetectionTask
from capsule_lightning.tasks.image_classification import ImageClassificationTask
from capsule_lightning.tasks.pose import PoseTask
from capsule_lightning.tasks.segmentation import SegmentationTask
from capsule_lightning.tasks.translation import TranslationTask

SUFFIX = ".html"
PROBED = 300  # images of all classes together
ROUTED = 64  # images whose couplings are averaged
_PAGE = Path(__file__).with_name("page.html")


class Written(NamedTuple):
    """Files that `report` has written.

    Attributes:
        path: the page.
        table: the numbers of the probe or, of a network for anything but classes of images, those of its classes,
            joints or lengths; CSV.
        size: size of the page in bytes.
    """

    path: Path
    table: Path
    size: int


def report(
    checkpoint: str | Path,
    output: str | Path | None = None,
    *,
    root: str | None = None,
    images: str | Path | None = None,
    overwrite: bool = False,
    say: Callable[[str], object] = str,
) -> Written:
    """Write a page about a trained network, and beside it the numbers of its probe.

    Args:
        checkpoint: a checkpoint of ``fit``, with the configuration of its run in a folder above; or a ``.safetensors``
            file of `export`, or the name of a network that comes with the package.
        output: file that ends in ``.html``; None for ``report.html`` in the run's folder or, for a shared network,
            ``<name>.html`` in the working folder.
        root: folder of the data, if it has moved since training.
        images: test images ``<images>/<class>/*`` to use in place of the data set's; of a network for masks, boxes or
            joints, pictures of which nothing need be known; none of a network that reads.
        overwrite: replace an existing page.
        say: called with each step before it is done, to be shown to whoever waits; nothing is shown by default.

    Raises:
        InputError: the file holds no network, images are missing or have several labels, or the output cannot or must
            not be written.
    """
    require_source(checkpoint)
    source, shared = expanded(checkpoint, "--ckpt_path"), is_shared(checkpoint)
    if not shared:
        require_checkpoint(source)
    path = expanded(output, "--output") if output is not None else usual_place(source, shared)
    require(path.suffix == SUFFIX, f"{path}: expected a name that ends in {SUFFIX}")
    require_place(path, overwrite)
    say("loading the network and its images")
    loaded = read_file(source) if shared else read_run(source)
    evaluated = is_evaluated(loaded.net)
    table = path.with_name(f"{path.stem}_{'numbers' if evaluated else 'probe'}.csv")
    require_place(table, overwrite)
    if evaluated:
        page, numbers = build_evaluated(load_evaluated(loaded, root, images), say)
    else:
        page, probe = build(with_images(loaded, root, images), say)
        numbers = probe.csv()
    content = page.encode()
    for place, written in ((table, numbers), (path, content)):
        write_whole(place, written, overwrite=overwrite, remedy="choose another --output")
    return Written(path, table, len(content))


def usual_place(source: Path, shared: bool) -> Path:
    """Return the place of a page if none was given."""
    if shared:
        return Path(f"{source.stem}{SUFFIX}")
    return (run_of_checkpoint(source) or source.parent) / f"report{SUFFIX}"


def build(trained: TrainedNetwork, say: Callable[[str], object] = str) -> tuple[str, Probe]:
    """Build the page.

    Args:
        trained: the network and its images.
        say: called with each step before it is done.

    Returns:
        The page as HTML, and the probe whose numbers it shows.
    """
    net, labels = trained.net, trained.labels
    say(f"measuring {len(labels):,} images")
    outputs = measure(net, trained.normalize, trained.pictures)
    classes = outputs.activations.argmax(dim=-1)
    seen = class_routing(net, trained.normalize(trained.pictures[spread_over_classes(labels, ROUTED)]))
    chosen = spread_over_classes(labels, PROBED)
    say(f"probing what the capsules of {len(chosen):,} images tell")
    probe = probe_network(net, trained.normalize, trained.pictures[chosen], labels[chosen])
    say("drawing")
    pictures = [
        *reconstructions(trained, outputs, classes),
        *perturbations(trained, outputs, probe),
        probe_picture(probe),
        *coupling_pictures(trained),
        *training_pictures(trained),
        lengths(trained, outputs),
        *pose_pictures(trained, outputs),
        confusion(trained, classes),
    ]
    facts = {**numbers(trained, outputs, classes, seen), **trained.facts, **network(net)}
    panel = panel_data(trained, outputs, probe)
    if net.decoder is None:
        note = "This network has no decoder, so it cannot draw its capsules, and there are no sliders."
    else:
        note = f"The decoder of this network, {type(net.decoder).__name__}, is not supported by the sliders."
    return filled(
        trained.title, facts, pictures, "Numbers of the probe (R²)", table_html(probe), trained.config, note, panel
    ), probe


def build_evaluated(about: EvaluatedNetwork, say: Callable[[str], object] = str) -> tuple[str, str]:
    """Build the page about a network for masks, boxes, joints, texts or translations.

    Args:
        about: the network and its test data.
        say: called with each step before it is done.

    Returns:
        The page as HTML, and its table of numbers as CSV.
    """
    say(f"looking at the test {about.what}" if about.known else "looking at the pictures")
    kinds: dict[type, Callable[[EvaluatedNetwork], Findings]] = {
        SegmentationTask: of_masks,
        DetectionTask: of_boxes,
        PoseTask: of_joints,
        ImageClassificationTask: of_texts,
        TranslationTask: of_translations,
    }
    found = next(look for kind, look in kinds.items() if isinstance(about.task, kind))(about)
    net = about.task.net
    assert isinstance(net, NETWORKS)
    facts = {**found.facts, **about.facts, **network(net)}
    body = "".join(
        f"<tr><th>{html.escape(name)}" + "".join(f"<td>{cell(value)}" for value in values)
        for name, values in found.rows
    )
    head = "".join(f"<th>{html.escape(name)}" for name in found.columns)
    table = f"<table><tr><th>{head}{body}</table>" if found.rows else ""
    lines: list[Sequence[object]] = [["name", *found.columns]]
    lines += [[name, *("" if value != value else value for value in values)] for name, values in found.rows]
    return filled(about.title, facts, found.pictures, found.heading, table, about.config), csv_text(lines)


def filled(
    title: str,
    facts: Mapping[str, str],
    pictures: Sequence[Picture],
    heading: str,
    table: str,
    config: str | None,
    note: str = "",
    panel: Mapping[str, Any] | None = None,
) -> str:
    """Return the page as HTML.

    Args:
        title: of the page.
        facts: names and values of the table at the top.
        pictures: in their order.
        heading: of the table of numbers.
        table: of numbers, as HTML; empty for none.
        config: configuration of the run as YAML; None if it is not known.
        note: why there is no panel; empty to say nothing.
        panel: see `panel_data`; None for none.
    """
    numbers = f'<details><summary>{html.escape(heading)}</summary><div class="wide">{table}</div></details>'
    fill = {
        "title": html.escape(title),
        "facts": "".join(f"<tr><th>{html.escape(k)}<td>{html.escape(v)}" for k, v in facts.items()),
        "pictures": "\n".join(map(figure_html, pictures)),
        "table": numbers if table else "",
        "config": config_html(config),
        "note": f'<p class="note">{html.escape(note)}</p>' if note and not panel else "",
        "hidden": "" if panel else " hidden",
        "panel": json.dumps(panel, separators=(",", ":")).replace("<", "\\u003c"),
        "version": html.escape(__version__),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: fill[match[1]], _PAGE.read_text())


def cell(value: float) -> str:
    """Return a number of a table in few characters; NaN is left blank."""
    return "" if value != value else f"{value:,.0f}" if value == round(value) and abs(value) >= 2 else f"{value:.3f}"


def figure_html(picture: Picture) -> str:
    """Return a picture as a section of the page."""
    heading = html.escape(picture.heading)
    images = "".join(f'<div class="sheet"><img alt="{heading}" src="{source}"></div>' for source in picture.sources)
    return f"<section><h2>{heading}</h2><p>{html.escape(picture.caption)}</p>{images}{picture.markup}</section>"


def table_html(probe: Probe) -> str:
    """Return the probe's numbers as a table."""
    head = "".join(f"<th>{html.escape(name)}" for name in probe.parameters)
    rows = [(str(n), values) for n, values in enumerate(probe.single.tolist(), start=1)]
    rows.append(("all", probe.whole.tolist()))
    body = "".join(f"<tr><th>{name}" + "".join(f"<td>{value:.3f}" for value in values) for name, values in rows)
    return f"<table><tr><th>dimension{head}{body}</table>"


def config_html(config: str | None) -> str:
    """Return the run's configuration as a folded section; empty if it is not known."""
    if config is None:
        return ""
    return f"<details><summary>Configuration</summary><pre>{html.escape(config)}</pre></details>"
