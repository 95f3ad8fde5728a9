"""What a report finds out about a network for joints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from capsule_lightning.callbacks.joints import row
from capsule_lightning.data.skeletons import bones_of
from capsule_lightning.figures.bars import bar_panels
from capsule_lightning.figures.joints import JointPicture, joint_figure
from capsule_lightning.metrics.joints import distances
from capsule_lightning.report.evaluated_network import EvaluatedNetwork, Findings, how_many, told
from capsule_lightning.report.pictures import Picture, png
from capsule_lightning.tasks.pose import PoseTask

SHOWN = 16  # images with their joints


def of_joints(about: EvaluatedNetwork) -> Findings:
    """Look at a network for joints; see `Findings`."""
    task, names = about.task, about.names
    assert isinstance(task, PoseTask)
    task.joint_names = names
    metrics, total, in_pixels = task.metrics("test"), 0, task.net.dims == 2
    first: list[JointPicture] = []
    worst: list[tuple[float, JointPicture]] = []
    apart, presence, visible = [], [], []
    for batch, output, prediction in about.seen():
        total += len(batch.indices)
        if about.known:
            for metric in metrics.values():
                metric.update(*task.compared(output, batch))
        apart.append(distances(prediction.joints, batch.joints) * (1 if in_pixels else 1000))
        presence.append(prediction.presence.float())
        visible.append(batch.visible)
        for n, distance in enumerate(prediction.distances.tolist()):
            first += [row(prediction, batch, n)] if len(first) < SHOWN else []
            if distance == distance and (len(worst) < SHOWN or distance > worst[-1][0]):
                worst = sorted([*worst, (distance, row(prediction, batch, n))], key=lambda each: -each[0])[:SHOWN]
    unit = "pixels" if in_pixels else "mm"
    far, long, seen = torch.cat(apart), torch.cat(presence), torch.cat(visible)
    columns = {
        f"mean distance, {unit}": far.nanmean(dim=0),
        "length of its capsule": long.mean(dim=0).double(),
        "its length where it is seen": torch.where(seen, long, torch.nan).nanmean(dim=0).double(),
        "its length where it is hidden": torch.where(seen, torch.nan, long).nanmean(dim=0).double(),
    }
    if not about.known:
        columns = {"length of its capsule": columns["length of its capsule"]}
    facts = how_many(about, total) | (told(metrics) if about.known else {})
    pictures = [*joint_pictures(first, [each for _, each in worst], names), bars(columns, names)]
    table = torch.stack([*columns.values()], dim=1).tolist()
    return Findings(facts, pictures, "Numbers by joint", [*columns], [*zip(names, table, strict=True)])


def joint_pictures(
    first: Sequence[JointPicture], worst: Sequence[JointPicture], names: Sequence[str]
) -> Iterator[Picture]:
    """Draw the first images with their joints, and those whose joints are farthest from the truth."""
    bones = bones_of(names)
    if first:
        depth = "; below, the depth map that the capsules reconstruct" if first[0].depth is not None else ""
        caption = f"The true joints and those that the capsules say, with the mean distance{depth}."
        yield Picture("Where the joints are", caption, [png(joint_figure(first, names, bones, "Joints"))])
    if worst:
        figure = joint_figure(worst, names, bones, "Joints that are farthest from the truth")
        yield Picture("Worst images", "The largest mean distance of the joints of an image.", [png(figure)])


def bars(columns: dict[str, torch.Tensor], names: Sequence[str]) -> Picture:
    """Draw the numbers of each joint."""
    caption = (
        "How far each joint is from the truth, and how long its capsule is; lengths say whether a joint is seen "
        "only if training asked for it (--model.visibility_weight)."
    )
    drawn = {word: numbers.tolist() for word, numbers in columns.items()}
    return Picture("Joint by joint", caption, [png(bar_panels(drawn, names, "Joint by joint"))])
