"""The masks that ``predict`` writes, as PNG files."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from capsule_lightning.callbacks.collected import damaged_of_all_processes, of_all_processes, offers
from capsule_lightning.callbacks.mask_tables import MaskTable
from capsule_lightning.callbacks.predicted_boxes import size_in
from capsule_lightning.data.mask_files import resized
from capsule_lightning.data.module import DataModule
from capsule_lightning.data.nifti_volumes import NiftiVolumesDataModule
from capsule_lightning.figures.masks import class_colors, overlay
from capsule_lightning.metrics.masks import image_dice
from capsule_lightning.runs.csv_text import csv_text
from capsule_lightning.runs.files import write_whole
from capsule_lightning.runs.results import from_here

SHOWN = 20
"""Most images that are printed."""


class Row(NamedTuple):
    """What is kept of an image.

    Attributes:
        number: its place in the data.
        mask: the file of its mask, in the folder of the table.
        dice: mean over the classes in it; None if its truth is not known.
        shares: of its pixels, for the background and each class.
    """

    number: int
    mask: str
    dice: float | None
    shares: list[float]


class PredictedMasks(MaskTable):
    """Write the masks that were found as PNG files, each also laid on its picture, and a table of them.

    A mask has the number of a class at each pixel, 0 for the background, and a palette; it is as large as the picture
    in its file. Beside the table, such as ``predictions.csv``, there is the folder ``predictions`` with ``masks`` and
    ``overlays``. The table says for each image its mask, how much of it each class takes and, if the truth is known,
    its Dice, the mean over its classes. Masks are those after the task's post-processing. Predictions without masks are
    left out, and volumes, and images that could not be read, if they may be.

    Args:
        output: the table, a ``.csv``; null for ``predictions.csv`` in the folder of the command.
        embeddings: there are none: null.
        overwrite: replace ``output`` and the masks if they are there.
    """

    def __init__(self, output: str | None = None, embeddings: str | None = None, overwrite: bool = False) -> None:
        super().__init__(output, embeddings, overwrite)
        self._rows: list[Row] = []

    @override
    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Write the masks of a batch."""
        if not offers(outputs, "processed") or not offers(batch, "indices", "masks", "pictures"):
            return
        data: DataModule = trainer.datamodule  # type: ignore[attr-defined]
        if isinstance(data, NiftiVolumesDataModule):  # see `PredictedVolumes`
            return
        table, count = self.table(trainer), data.num_classes
        folder, replace = table.with_suffix(""), self.overwrite or self.output is None
        dices = image_dice(outputs.processed, batch.masks, count + 1).nanmean(dim=1).tolist()
        for n, index in enumerate(batch.indices.tolist()):
            if index in data.damaged:
                continue
            mask, picture = at_size(outputs.processed[n].cpu(), batch.pictures[n].cpu(), size_in(data, index))
            stem = Path(data.name_of(index)).stem
            name = f"{index:05d}.png" if stem == str(index) else f"{index:05d}_{stem}.png"
            laid = Image.fromarray(overlay(picture, mask, count))
            for place, image in (("masks", as_palette(mask, count)), ("overlays", laid)):
                content = BytesIO()
                image.save(content, format="PNG")
                write_whole(
                    folder / place / name,
                    content.getvalue(),
                    overwrite=replace,
                    make_folder=True,
                    remedy="choose another --output, or add --overwrite true",
                )
            shares = torch.bincount(mask.flatten(), minlength=count + 1) / mask.numel()
            known = dices[n] if dices[n] == dices[n] else None
            self._rows.append(Row(index, f"{folder.name}/masks/{name}", known, shares.tolist()))

    @override
    def on_predict_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Gather the rows of all processes and write them in the order of the images."""
        rows, self._rows = of_all_processes(trainer, self._rows), []
        damaged = damaged_of_all_processes(trainer)
        if not rows or not trainer.is_global_zero:
            return
        rows.sort(key=lambda row: row.number)
        data: DataModule = trainer.datamodule  # type: ignore[attr-defined]
        table, names = self.table(trainer), ["background", *data.class_names]
        lines: list[list[object]] = [["image", "mask", "dice", *(f"share_{name}" for name in names)]]
        for row in rows:
            lines.append([data.name_of(row.number), row.mask, "" if row.dice is None else row.dice, *row.shares])
        write_whole(
            table,
            csv_text(lines),
            overwrite=self.overwrite or self.output is None,
            make_folder=self.output is None,
            remedy="choose another --output",
        )
        said = []
        for row in rows[:SHOWN]:
            found = [f"{name} {100 * share:.1f} %" for name, share in zip(names, row.shares, strict=True) if share > 0]
            score = "" if row.dice is None else f"  (Dice {row.dice:.2f})"
            said.append(f"{data.name_of(row.number)}  {', '.join(found[1:]) or 'background alone'}{score}")
        said += [f"... and {len(rows) - SHOWN:,} more"] if len(rows) > SHOWN else []
        folder = from_here(table.with_suffix(""))
        self._said = [*damaged, *said, f"{len(rows):,} masks: {folder}/masks, laid on the pictures: {folder}/overlays",
                      f"table: {from_here(table)}"]  # fmt: skip


def at_size(mask: Tensor, picture: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return a mask ``(H, W)`` and a picture ``(C, H, W)`` at another size, the mask without mixing classes."""
    if tuple(mask.shape) == size:
        return mask, picture
    larger = F.interpolate(picture.unsqueeze(0), size, mode="bilinear", antialias=True)[0]
    return torch.from_numpy(resized(mask.numpy(), size)), larger


def as_palette(mask: Tensor, count: int) -> Image.Image:
    """Return a mask ``(H, W)`` of ``count`` classes as an image of numbers: with a palette, or of 16 bits if many."""
    if count > 255:
        return Image.fromarray(mask.numpy().astype(np.uint16))
    image = Image.fromarray(mask.numpy().astype(np.uint8), mode="P")
    image.putpalette(class_colors(count).ravel().tolist())
    return image
