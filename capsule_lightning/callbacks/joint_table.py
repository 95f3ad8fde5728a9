"""The table of joints that ``predict`` writes."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import numpy as np
from typing_extensions import override

from capsule_lightning.callbacks.collected import of_all_processes, offers
from capsule_lightning.runs.csv_text import csv_text
from capsule_lightning.runs.files import open_whole
from capsule_lightning.runs.folders import expanded
from capsule_lightning.runs.results import from_here

AXES = "xyz"


class JointRow(NamedTuple):
    """What is kept of one image.

    Attributes:
        number: its place in the data.
        joints: ``(K, D)``, in pixels or meters.
        presence: ``(K)``, activations of the joint capsules.
        distance: mean distance from the truth; None if that is not known.
        poses: ``(K, E)``; None unless they are asked for.
    """

    number: int
    joints: np.ndarray
    presence: list[float]
    distance: float | None
    poses: np.ndarray | None = None


class JointTable(L.Callback):
    """Write the joints of a prediction as a table.

    Its columns are the image, the mean distance from the truth if that is known, and of each joint its coordinates, as
    ``left_knee_x``, and the activation of its capsule, as ``left_knee_presence``. Coordinates are pixels, right and
    down from the upper left corner of the network's input, or meters. Predictions without joints are left out.

    Args:
        output: file of the table, a ``.csv``; null for ``joints.csv`` in the folder of the command.
        embeddings: file for names, joints, activations and poses as NumPy arrays, a ``.npz``; null for none.
        overwrite: replace ``output`` and ``embeddings`` if they are there.
    """

    def __init__(self, output: str | None = None, embeddings: str | None = None, overwrite: bool = False) -> None:
        self.output, self.embeddings, self.overwrite = output, embeddings, overwrite
        self._rows: list[JointRow] = []
        self._said: list[str] = []

    @override
    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        if not offers(outputs, "joints", "presence", "distances") or not offers(batch, "indices"):
            return
        self._rows += map(
            JointRow,
            batch.indices.tolist(),
            outputs.joints.float().cpu().numpy(),
            outputs.presence.float().tolist(),
            [None if isnan(distance) else distance for distance in outputs.distances.tolist()],
            outputs.poses.float().cpu().numpy() if self.embeddings else [None] * len(batch.indices),
        )

    @override
    def on_predict_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Gather the rows of all processes and write them in the order of the images."""
        rows, self._rows = of_all_processes(trainer, self._rows), []
        if not rows or not trainer.is_global_zero:
            return
        rows.sort(key=lambda row: row.number)
        data = trainer.datamodule  # type: ignore[attr-defined]
        names, joints = [data.name_of(row.number) for row in rows], list(data.class_names)
        folder = Path(trainer.default_root_dir)
        path = folder / "joints.csv" if self.output is None else expanded(self.output, "--output")
        replace = self.overwrite or self.output is None
        with open_whole(
            path, overwrite=replace, make_folder=self.output is None, remedy="choose another --output"
        ) as file:
            file.write(joint_text(rows, names, joints).encode())
        self._said = [f"joints of {len(rows):,} images: {from_here(path)}"]
        if self.embeddings is not None:
            place = expanded(self.embeddings, "--embeddings")
            with open_whole(place, overwrite=self.overwrite, remedy="choose another --embeddings") as file:
                np.savez(file, **joint_arrays(rows, names, joints))  # type: ignore[arg-type]
            self._said.append(f"embeddings: {from_here(place)}")
        known = [row.distance for row in rows if row.distance is not None]
        if known:
            unit = "pixels" if rows[0].joints.shape[-1] == 2 else "meters"
            self._said.insert(0, f"mean distance from the truth: {sum(known) / len(known):.3g} {unit}")

    @override
    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Print what was written, once the progress bar is gone."""
        said, self._said = self._said, []
        if said:
            print("\n".join(said), flush=True)


def joint_text(rows: Sequence[JointRow], names: Sequence[str], joints: Sequence[str]) -> str:
    """Return joints as the text of a CSV file; ``names`` are those of the images."""
    axes = AXES[: rows[0].joints.shape[-1]]
    header = ["image", "distance", *(f"{joint}_{what}" for joint in joints for what in (*axes, "presence"))]
    lines: list[Sequence[object]] = [header]
    for row, name in zip(rows, names, strict=True):
        told = [number for place, sure in zip(row.joints, row.presence, strict=True) for number in (*place, sure)]
        lines.append([name, "" if row.distance is None else row.distance, *(float(f"{each:.6g}") for each in told)])
    return csv_text(lines)


def joint_arrays(rows: Sequence[JointRow], names: Sequence[str], joints: Sequence[str]) -> dict[str, np.ndarray]:
    """Return predictions as arrays by name.

    Returns:
        ``names (N)``, ``joint_names (K)``, ``joints (N, K, D)``, ``presence (N, K)`` and ``poses (N, K, E)``.
    """
    return {
        "names": np.array(names, dtype=str),
        "joint_names": np.array(joints, dtype=str),
        "joints": np.stack([row.joints for row in rows]),
        "presence": np.array([row.presence for row in rows], dtype=np.float32),
        "poses": np.stack([row.poses for row in rows if row.poses is not None]),
    }
