"""What a report finds out about a network for boxes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from capsule_lightning.callbacks.detections import OVERLAP, Seen, image_row, seen
from capsule_lightning.figures.boxes import boxes_figure
from capsule_lightning.figures.grid import grid_figure
from capsule_lightning.figures.lengths import dead_capsules, length_figure
from capsule_lightning.layers.centers import center_targets
from capsule_lightning.models.detector import STRIDE
from capsule_lightning.report.evaluated_network import EvaluatedNetwork, Findings, how_many, told
from capsule_lightning.report.pictures import Picture, png
from capsule_lightning.tasks.detection import DetectionTask

SHOWN = 12  # images with their boxes
MAPS = 4  # images whose heat maps are drawn
COLUMNS = 10  # classes whose heat maps are drawn
THRESHOLD = 0.3
"""Least score of a box that is drawn and counted."""
COLUMNS_OF_TABLE = ("objects", "found", "share found", "wrong boxes", "mean length at centers")


def of_boxes(about: EvaluatedNetwork) -> Findings:
    """Look at a network for boxes; see `Findings`."""
    task, names = about.task, about.names
    assert isinstance(task, DetectionTask)
    metrics, total = task.metrics("test"), 0
    first: list[Seen] = []
    worst: list[Seen] = []
    maps: list[list[Tensor]] = []
    lengths, labels = [], []
    counts = torch.zeros(3, len(names), dtype=torch.int64)  # objects, found, wrong boxes
    for batch, output, prediction in about.seen():
        total += len(batch.indices)
        if about.known:
            for metric in metrics.values():
                metric.update(*task.compared(output, batch))
            size = output.presence.shape[-2], output.presence.shape[-1]
            target = center_targets(batch.boxes, batch.labels, batch.crowd, len(names), size, STRIDE)
            there = target.present & (batch.labels >= 0) & ~batch.crowd
            cells = target.cells[there]
            image = torch.arange(len(there)).unsqueeze(1).expand_as(there)[there]
            lengths.append(output.presence.flatten(2)[image, :, cells].float())
            labels.append(batch.labels[there])
        rows = [seen(prediction, batch, n, THRESHOLD) for n in range(len(batch.indices))]
        for row in rows:
            count_boxes(counts, row)
        first += rows[: max(SHOWN - len(first), 0)]
        worst = sorted([*worst, *(row for row in rows if row.mistakes)], key=lambda row: -row.mistakes)[:SHOWN]
        for n in range(min(len(batch.indices), MAPS - len(maps))):
            maps.append([batch.pictures[n], *output.presence[n, :COLUMNS]])
    facts = how_many(about, total)
    rows_of_table: list[tuple[str, Sequence[float]]] = []
    pictures = [*box_pictures(first, worst, names), *presence_maps(maps, names)]
    every = torch.cat(lengths) if lengths else torch.empty(0, len(names))
    if about.known and len(every):
        truth = torch.cat(labels)
        facts |= told(metrics)
        objects, found, wrong = counts
        facts["at a score of 0.3"] = (
            f"{int(found.sum()):,} of {int(objects.sum()):,} objects found, {int(wrong.sum()):,} boxes wrong (overlap "
            f"{OVERLAP})"
        )
        dead = [name for name, each in zip(names, dead_capsules(every), strict=True) if each]
        facts["dead capsules"] = ", ".join(dead) or "none"
        for n, name in enumerate(names):
            own = every[truth == n, n]
            share = float(found[n]) / float(objects[n]) if objects[n] else torch.nan
            numbers = [float(objects[n]), float(found[n]), share, float(wrong[n]), float(own.mean())]
            rows_of_table.append((name, numbers))
        caption = (
            "At the centers of objects. Left: the mean length of each presence capsule by the class of the object; the "
            "diagonal should be near 1, the rest near 0. Right: the greatest length of each."
        )
        figure = length_figure(every, truth, names, "Lengths of the presence capsules")
        pictures.append(Picture("How long capsules are", caption, [png(figure)]))
    return Findings(facts, pictures, "Scores by class", COLUMNS_OF_TABLE, rows_of_table)


def count_boxes(counts: Tensor, row: Seen) -> None:
    """Add the objects of an image, those that were found, and wrong boxes to ``counts (3, J)``, by class."""
    ones = torch.ones(1, dtype=torch.int64)
    if row.truth is not None:
        _, classes = row.truth
        counts[0].index_add_(0, classes, ones.expand(len(classes)))
        counts[1].index_add_(0, classes, (~row.missed).long())
        counts[2].index_add_(0, row.found[2], row.wrong.long())


def box_pictures(first: Sequence[Seen], worst: Sequence[Seen], names: Sequence[str]) -> Iterator[Picture]:
    """Draw the first images with their boxes, and those with the most mistakes."""
    if first:
        caption = f"Boxes with a score of at least {THRESHOLD}; red: missed, or of no object of this class."
        figure = boxes_figure([image_row(row, names) for row in first], "Objects and what was found")
        yield Picture("What was found", caption, [png(figure)])
    if worst:
        figure = boxes_figure([image_row(row, names) for row in worst], "Most mistakes")
        yield Picture("Most mistakes", "Red: objects that were missed, and boxes that are wrong.", [png(figure)])


def presence_maps(rows: Sequence[Sequence[Tensor]], names: Sequence[str]) -> Iterator[Picture]:
    """Draw how long the presence capsules are over some images."""
    if rows:
        left_out = f" The first {COLUMNS} of {len(names)} classes." if len(names) > COLUMNS else ""
        caption = (
            f"The length of each class's presence capsule in every cell: bright where the center of one is.{left_out}"
        )
        figure = grid_figure(rows, ["image", *names[:COLUMNS]], "Presence over the image")
        yield Picture("Where capsules are long", caption, [png(figure)])
