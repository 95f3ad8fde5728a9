"""The boxes that ``predict`` writes, as COCO's JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning as L
from typing_extensions import override

from capsule_lightning.callbacks.collected import damaged_of_all_processes, of_all_processes, offers
from capsule_lightning.data.annotated import AnnotatedDataModule
from capsule_lightning.data.module import DataModule
from capsule_lightning.errors import require
from capsule_lightning.runs.files import open_whole
from capsule_lightning.runs.folders import expanded
from capsule_lightning.runs.results import from_here

SHOWN = 20
"""Most images whose boxes are printed."""

Found = tuple[int, list[list[float]], list[float], list[int]]
"""Of an image: its number, and edges, scores and labels of its boxes."""


class PredictedBoxes(L.Callback):
    """Write the boxes that were found as JSON in the form of COCO, and print the first of them.

    It has ``images``, ``categories`` and ``annotations``, whose boxes are left, top, width and height in pixels of the
    image file, and each of which has a ``score``. COCO's own tools take the list of annotations alone as results.
    Predictions without boxes are left out, and images that could not be read, if they may be.

    Args:
        output: the file, a ``.json``; null for ``predictions.json`` in the folder of the command.
        embeddings: a detector has none: null.
        overwrite: replace ``output`` if it is there.
        threshold: least score of a box that is written, in [0, 1].

    Raises:
        InputError: the threshold is out of range.
    """

    def __init__(
        self, output: str | None = None, embeddings: str | None = None, overwrite: bool = False, threshold: float = 0.05
    ) -> None:
        require(0 <= threshold <= 1, f"PredictedBoxes: threshold={threshold}: expected a score from 0 to 1")
        self.output, self.embeddings, self.overwrite, self.threshold = output, embeddings, overwrite, threshold
        self._found: list[Found] = []
        self._said: list[str] = []

    @override
    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        if not offers(outputs, "boxes", "scores", "labels") or not offers(batch, "indices"):
            return
        for index, boxes, scores, labels in zip(
            batch.indices.tolist(), outputs.boxes.float().cpu(), outputs.scores.float().cpu(), outputs.labels.cpu(),
            strict=True,
        ):  # fmt: skip
            if index in trainer.datamodule.damaged:  # type: ignore[attr-defined]
                continue
            good = scores >= max(self.threshold, 1e-9)
            self._found.append((index, boxes[good].tolist(), scores[good].tolist(), labels[good].tolist()))

    @override
    def on_predict_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Gather the boxes of all processes and write them in the order of the images."""
        found, self._found = of_all_processes(trainer, self._found), []
        damaged = damaged_of_all_processes(trainer)
        if not found or not trainer.is_global_zero:
            return
        found.sort(key=lambda each: each[0])
        data: DataModule = trainer.datamodule  # type: ignore[attr-defined]
        stated = coco_of(found, data)
        folder = Path(trainer.default_root_dir)
        path = folder / "predictions.json" if self.output is None else expanded(self.output, "--output")
        replace = self.overwrite or self.output is None
        with open_whole(
            path, overwrite=replace, make_folder=self.output is None, remedy="choose another --output"
        ) as file:
            file.write(json.dumps(stated, indent=1).encode())
        lines = []
        for index, _, scores, labels in found[:SHOWN]:
            words = [f"{data.class_names[c]} ({s:.2f})" for c, s in zip(labels, scores, strict=True) if s >= 0.3]
            lines.append(f"{data.name_of(index)}  {', '.join(words) or 'nothing'}")
        if len(found) > SHOWN:
            lines.append(f"... and {len(found) - SHOWN:,} more")
        self._said = [
            *damaged,
            *lines,
            f"{len(stated['annotations']):,} boxes in {len(found):,} images: {from_here(path)}",
        ]

    @override
    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Print the first boxes, after the progress bar is gone."""
        said, self._said = self._said, []
        if said:
            print("\n".join(said), flush=True)


def coco_of(found: list[Found], data: DataModule) -> dict[str, Any]:
    """Return boxes in the form of COCO's JSON.

    Args:
        found: of each image.
        data: that states the names of images and classes.
    """
    sizes = {index: size_in(data, index) for index, *_ in found}
    seen = data.in_shape[-2:]
    annotations = [
        {
            "id": 0,
            "image_id": index,
            "category_id": label,
            "bbox": [round(n, 3) for n in (left, top, right - left, bottom - top)],
            "area": round((right - left) * (bottom - top), 3),
            "iscrowd": 0,
            "score": round(score, 5),
        }
        for index, boxes, scores, labels in found
        for (left, top, right, bottom), score, label in zip(
            (scaled(box, seen, sizes[index]) for box in boxes), scores, labels, strict=True
        )
    ]
    for number, annotation in enumerate(annotations):
        annotation["id"] = number + 1
    return {
        "images": [
            {"id": index, "file_name": data.name_of(index), "width": sizes[index][1], "height": sizes[index][0]}
            for index, *_ in found
        ],
        "categories": [{"id": n, "name": name} for n, name in enumerate(data.class_names)],
        "annotations": annotations,
    }


def size_in(data: DataModule, index: int) -> tuple[int, int]:
    """Return rows and columns of the picture that boxes are written for."""
    if isinstance(data, AnnotatedDataModule):
        return data.picture_size(index)
    return data.in_shape[-2], data.in_shape[-1]


def scaled(box: list[float], seen: tuple[int, ...], size: tuple[int, int]) -> list[float]:
    """Return the edges of a box in a picture of another size than the network saw."""
    down, across = (to / of for to, of in zip(size, seen, strict=True))
    return [edge * scale for edge, scale in zip(box, (across, down) * 2, strict=True)]
