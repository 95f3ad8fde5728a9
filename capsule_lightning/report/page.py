"""What a network has learnt, as one page: numbers, pictures, and a panel whose sliders move the picture."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import NamedTuple

from capsule_lightning import __version__
from capsule_lightning.analysis.class_routing import class_routing
from capsule_lightning.analysis.probe import Probe, probe_network
from capsule_lightning.errors import InputError
from capsule_lightning.report.measured import measure, network, numbers, spread_over_classes
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
from capsule_lightning.report.subject import Subject, subject_of_file, subject_of_run
from capsule_lightning.runs.checkpoint_files import require_checkpoint
from capsule_lightning.runs.folders import run_of_checkpoint
from capsule_lightning.sharing.export import require_place, write_whole
from capsule_lightning.sharing.network_file import is_shared, require_source

SUFFIX = ".html"
PROBED = 300  # images of all classes together
ROUTED = 64  # images whose couplings are averaged
_PAGE = Path(__file__).with_name("page.html")


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
        checkpoint: that ``fit`` has written, its run's configuration above it; or a ``.safetensors`` file of `export`,
            or the name of a network that comes with the package.
        output: ends in ``.html``; None for ``report.html`` in the run's folder, or for a shared network ``<name>.html``
            here.
        root: folder of the data, where it is another than in training.
        images: test images ``<images>/<class>/*`` in place of the data set's.
        overwrite: replace a page that is there.

    Raises:
        InputError: a file that holds no network, missing images, images of several labels, an output that cannot or
            must not be written.
    """
    require_source(checkpoint)
    source, shared = Path(checkpoint).expanduser(), is_shared(checkpoint)
    if not shared:
        require_checkpoint(source)
    path = Path(output).expanduser() if output is not None else usual_place(source, shared)
    if path.suffix != SUFFIX:
        raise InputError(f"{path}: expected a name that ends in {SUFFIX}")
    table = path.with_name(f"{path.stem}_probe.csv")
    for place in (path, table):
        require_place(place, overwrite)
    subject = subject_of_file(source, root, images) if shared else subject_of_run(source, root, images)
    page, probe = build(subject)
    content = page.encode()
    write_whole(table, probe.csv().encode(), overwrite)
    write_whole(path, content, overwrite)
    return Written(path, table, len(content))


def usual_place(source: Path, shared: bool) -> Path:
    """Where a page goes that was not given a place."""
    return (
        Path(f"{source.stem}{SUFFIX}") if shared else (run_of_checkpoint(source) or source.parent) / f"report{SUFFIX}"
    )


def build(subject: Subject) -> tuple[str, Probe]:
    """The page, and the probe whose numbers it shows."""
    net, labels = subject.net, subject.labels
    found = measure(net, subject.normalize, subject.pictures)
    classes = found.activations.argmax(dim=-1)
    seen = class_routing(net, subject.normalize(subject.pictures[spread_over_classes(labels, ROUTED)]))
    chosen = spread_over_classes(labels, PROBED)
    probe = probe_network(net, subject.normalize, subject.pictures[chosen], labels[chosen])
    pictures = [
        *reconstructions(subject, found, classes),
        *perturbations(subject, found, probe),
        probe_picture(probe),
        *coupling_pictures(subject),
        *training_pictures(subject),
        lengths(subject, found),
        *pose_pictures(subject, found),
        confusion(subject, classes),
    ]
    facts = {**numbers(subject, found, classes, seen), **subject.facts, **network(net)}
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
        "pictures": "\n".join(map(figure_html, pictures)),
        "table": table_html(probe),
        "config": config_html(subject.config),
        "note": "" if panel else f'<p class="note">{html.escape(note)}</p>',
        "hidden": "" if panel else " hidden",
        "panel": json.dumps(panel, separators=(",", ":")).replace("<", "\\u003c"),
        "version": html.escape(__version__),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: fill[match[1]], _PAGE.read_text()), probe


def figure_html(picture: Picture) -> str:
    """A picture as a section of the page."""
    heading = html.escape(picture.heading)
    images = "".join(f'<div class="sheet"><img alt="{heading}" src="{source}"></div>' for source in picture.sources)
    return f"<section><h2>{heading}</h2><p>{html.escape(picture.caption)}</p>{images}</section>"


def table_html(probe: Probe) -> str:
    """The probe's numbers as a table."""
    head = "".join(f"<th>{html.escape(name)}" for name in probe.parameters)
    rows = [(str(n), values) for n, values in enumerate(probe.single.tolist(), start=1)]
    rows.append(("all", probe.whole.tolist()))
    body = "".join(f"<tr><th>{name}" + "".join(f"<td>{value:.3f}" for value in values) for name, values in rows)
    return f"<table><tr><th>dimension{head}{body}</table>"


def config_html(config: str | None) -> str:
    """The run's configuration, folded; nothing where it is not known."""
    return (
        "" if config is None else f"<details><summary>Configuration</summary><pre>{html.escape(config)}</pre></details>"
    )
