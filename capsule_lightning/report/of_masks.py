"""What a report finds out about a network for masks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from capsule_lightning.capsules import Capsules
from capsule_lightning.figures.confusion import confusion_figure
from capsule_lightning.figures.grid import grid_figure
from capsule_lightning.figures.lengths import dead_capsules, length_figure
from capsule_lightning.figures.masks import MaskRow, masks_figure
from capsule_lightning.losses.segmentation import masked_reconstruction_error
from capsule_lightning.metrics.masks import MaskScores, image_dice
from capsule_lightning.models.segmentation import SegmentationNet
from capsule_lightning.report.evaluated_network import EvaluatedNetwork, Findings, how_many
from capsule_lightning.report.pictures import Picture, png
from capsule_lightning.tasks.segmentation import SegmentationTask

SHOWN = 16  # images with their masks
MAPS = 4  # images whose lengths are drawn
COLUMNS = 11  # classes whose lengths are drawn
PIXELS = 400  # of a batch whose lengths are kept
DIMENSIONS = 16  # of a capsule that are changed
DELTAS = (-0.25, -0.15, -0.05, 0.05, 0.15, 0.25)
BY_CLASS = ("dice", "iou", "image_dice", "hausdorff")


def of_masks(about: EvaluatedNetwork) -> Findings:
    """Look at a network for masks; see `Findings`."""
    task, names = about.task, about.names
    assert isinstance(task, SegmentationTask)
    count, scores = len(names) + 1, MaskScores(len(names) + 1)
    first: list[MaskRow] = []
    worst: list[tuple[float, MaskRow]] = []
    maps: list[list[Tensor]] = []
    drawn: list[list[Tensor]] = []
    lengths, labels, errors, total = [], [], [], 0
    kept: Capsules | None = None
    for batch, output, prediction in about.seen():
        total += len(batch.indices)
        scores.update(prediction.masks, batch.masks)
        dices = image_dice(prediction.processed, batch.masks, count).nanmean(dim=1).tolist()
        for n, dice in enumerate(dices):
            row = mask_row(batch, prediction, n, dice)
            first += [row] if len(first) < SHOWN else []
            worst += [(dice, row)] if dice == dice else []
        worst = sorted(worst, key=lambda each: each[0])[:SHOWN]
        activations = output.capsules.activations
        chosen = (batch.masks >= 0).flatten().nonzero()[:, 0]
        chosen = chosen[:: max(1, len(chosen) // PIXELS)]
        lengths.append(activations.flatten(0, 2)[chosen].float())
        labels.append(batch.masks.flatten()[chosen])
        if prediction.reconstructions is not None and about.known:
            errors.append(masked_reconstruction_error(output.reconstructions, batch.pictures, batch.masks))
        if kept is None:
            kept = Capsules(*(part[:1] for part in output.capsules))
            kept_mask = prediction.masks[:1]
        for n in range(min(len(batch.indices), MAPS - len(maps))):
            maps.append([batch.pictures[n], *activations[n].movedim(-1, 0)])
        if prediction.reconstructions is not None:
            for n in range(min(len(batch.indices), MAPS - len(drawn))):
                there = batch.masks[n] > 0 if about.known else prediction.masks[n] > 0
                drawn.append([batch.pictures[n], batch.pictures[n] * there, prediction.reconstructions[n].clamp(0, 1)])
    every, truth = torch.cat(lengths), torch.cat(labels)
    found = scores.compute()
    facts = how_many(about, total)
    if about.known:
        facts |= {
            f"test {name}": f"{float(found[name]):.4f}"
            for name in ("dice", "iou", "image_dice", "hausdorff", "hausdorff_missing")
            if not found[name].isnan()
        }
        facts["dead capsules"] = (
            ", ".join(name for name, dead in zip(["background", *names], dead_capsules(every), strict=True) if dead)
            or "none"
        )
    if errors:
        facts["reconstruction error"] = f"{float(torch.stack(errors).mean()):.4f} (squared, mean over pixels)"
    pictures = [
        *mask_pictures(first, [row for _, row in worst], names),
        *length_maps(maps, ["background", *names]),
        *reconstructions(drawn),
        *([] if kept is None else dimensions(task.net, kept, kept_mask, names)),
    ]
    if about.known:
        figure = length_figure(every, truth, ["background", *names], "Lengths of the class capsules")
        caption = (
            "Left: the mean length of each capsule at pixels of each class; the diagonal should be near 1, the rest "
            "near 0. Right: the greatest length of each at any of these pixels; one below the dotted line is dead."
        )
        pictures.append(Picture("How long capsules are", caption, [png(figure)]))
        figure = confusion_figure(scores.confusion, ["background", *names], "Confusion of pixels")
        pictures.append(Picture("What is taken for what", "Pixels: rows are true, columns predicted.", [png(figure)]))
    table = torch.stack([found[f"{name}/by_class"] for name in BY_CLASS], dim=1) if about.known else None
    rows = [] if table is None else [(name, values) for name, values in zip(names, table.tolist(), strict=True)]
    return Findings(facts, pictures, "Scores by class", BY_CLASS, rows)


def mask_row(batch: Any, prediction: Any, n: int, dice: float) -> MaskRow:
    """Return what is drawn of image ``n`` of a batch."""
    truth = batch.masks[n]
    caption = "" if dice != dice else f"Dice {dice:.2f}"
    return MaskRow(batch.pictures[n], truth if bool((truth >= 0).any()) else None, prediction.processed[n], caption)


def mask_pictures(first: Sequence[MaskRow], worst: Sequence[MaskRow], names: Sequence[str]) -> Iterator[Picture]:
    """Draw the first images with their masks, and those with the lowest Dice."""
    if first:
        caption = "Image, true mask and the mask that was found; gray pixels do not count."
        figure = masks_figure(first, names, "Images, their masks and what was found")
        yield Picture("What each pixel shows", caption, [png(figure)])
    if worst:
        caption = "The images with the lowest Dice, a mean over the classes in each."
        yield Picture("Worst masks", caption, [png(masks_figure(worst, names, "Lowest Dice"))])


def length_maps(rows: Sequence[Sequence[Tensor]], names: Sequence[str]) -> Iterator[Picture]:
    """Draw how long the capsules of each class are over some images."""
    if not rows:
        return
    shown = names[:COLUMNS]
    left_out = f" The first {COLUMNS} of {len(names)} classes." if len(names) > COLUMNS else ""
    caption = f"The length of each class's capsule at every place, bright for 1.{left_out}"
    figure = grid_figure([row[: len(shown) + 1] for row in rows], ["image", *shown], "Lengths over the image")
    yield Picture("Where capsules are long", caption, [png(figure)])


def reconstructions(rows: Sequence[Sequence[Tensor]]) -> Iterator[Picture]:
    """Draw what the decoder makes of the found capsules; nothing without a decoder."""
    if rows:
        caption = "The decoder sees the capsule of the found class at each pixel, and nothing of the background."
        figure = grid_figure(rows, ["image", "without background", "reconstruction"], "Reconstructions")
        yield Picture("Reconstructions", caption, [png(figure)])


@torch.no_grad()
def dimensions(net: SegmentationNet, capsules: Capsules, mask: Tensor, names: Sequence[str]) -> Iterator[Picture]:
    """Draw what the decoder makes of an image if one dimension of a class's capsules changes; nothing without one.

    Args:
        net: the network.
        capsules: of one image, ``poses (1, H, W, J, E)``.
        mask: ``(1, H, W)``, that was found.
        names: of the classes, without the background.
    """
    there = mask[mask > 0]
    if net.decoder is None or not len(there):
        return
    label = int(there.bincount().argmax())
    mask = (mask > 0) * label
    rows = []
    for dimension in range(min(capsules.poses.shape[-1], DIMENSIONS)):
        row = []
        for delta in DELTAS:
            poses = capsules.poses.clone()
            poses[..., label, dimension] += delta
            made = net.reconstruct(Capsules(poses, capsules.activations), mask)
            assert made is not None
            row.append(made[0].clamp(0, 1))
        rows.append(row)
    caption = (
        f"What the decoder draws where objects were found from the capsules of {names[label - 1]} there. Each row "
        "changes one of their dimensions by as much as stands above, and leaves the others as they are."
    )
    headings = [f"{delta:+.2f}" for delta in DELTAS]
    figure = grid_figure(rows, headings, "One dimension changed", [str(n + 1) for n in range(len(rows))])
    yield Picture("What each dimension does", caption, [png(figure)])
