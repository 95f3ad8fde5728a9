"""Pictures of the joints that a network says, in training and afterwards: the first images and the worst."""

from __future__ import annotations

from functools import partial
from math import isnan
from typing import Any

import lightning as L
from typing_extensions import override

from capsule_lightning.callbacks.collected import offers
from capsule_lightning.callbacks.figures import PredictedFigures, publish
from capsule_lightning.data.skeletons import bones_of
from capsule_lightning.errors import require
from capsule_lightning.figures.joints import JointPicture, joint_figure


class JointFigures(PredictedFigures):
    """Draws images, their joints and those that are predicted: the first ones, and those that are worst.

    It happens after validations as `PredictedFigures` says, after tests and after predictions, whose picture is
    ``figures/predict_joints.png``. Predictions without joints are left out.

    Args:
        count: number of images in each of the two figures.

    Raises:
        InputError: a ``count`` below 1.
    """

    def __init__(self, count: int = 16) -> None:
        require(count >= 1, f"JointFigures: count={count}: expected at least 1")
        self.count = count
        self.forget()

    @override
    def forget(self) -> None:
        self._first: list[JointPicture] = []
        self._worst: list[tuple[float, JointPicture]] = []

    @override
    def keep(self, trainer: L.Trainer, outputs: Any, batch: Any) -> None:
        if not offers(outputs, "joints", "distances") or not offers(batch, "pictures", "joints"):
            return
        distances = outputs.distances.tolist()
        for n in range(min(self.count - len(self._first), len(distances))):
            self._first.append(row(outputs, batch, n))
        limit = self._worst[-1][0] if len(self._worst) == self.count else -1.0
        found = sorted(range(len(distances)), key=lambda n: -1.0 if isnan(distances[n]) else -distances[n])
        for n in found[: self.count]:
            if distances[n] > limit:  # never of one that is not known
                self._worst.append((distances[n], row(outputs, batch, n)))
        self._worst = sorted(self._worst, key=lambda each: -each[0])[: self.count]

    @override
    def draw_kept(self, trainer: L.Trainer, task: L.LightningModule, stage: str, when: str) -> None:
        names = list(trainer.datamodule.class_names)  # type: ignore[attr-defined]
        for rows, name, title in (
            (self._first, "joints", "Joints"),
            ([each for _, each in self._worst], "worst_joints", "Joints that are farthest from the truth"),
        ):
            if rows:
                publish(
                    trainer, f"{stage}/{name}", partial(joint_figure, rows, names, bones_of(names), f"{title} ({when})")
                )


def row(outputs: Any, batch: Any, n: int) -> JointPicture:
    """Return what is drawn of image ``n`` of a batch, on the CPU."""
    distance = float(outputs.distances[n])
    in_pixels = outputs.joints.shape[-1] == 2
    caption = "" if isnan(distance) else f"{distance:.1f} pixels" if in_pixels else f"{1000 * distance:.0f} mm"
    depth = outputs.depth[n].float().cpu() if offers(outputs, "depth") else None
    return JointPicture(
        batch.pictures[n].cpu(), outputs.joints[n].float().cpu(), batch.joints[n].float().cpu(), depth, caption
    )
