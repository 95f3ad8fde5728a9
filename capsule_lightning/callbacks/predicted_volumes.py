"""The masks of volumes that ``predict`` writes, as NIfTI files."""

from __future__ import annotations

from typing import Any

import lightning as L
import numpy as np
from typing_extensions import override

from capsule_lightning.callbacks.collected import of_all_processes, offers
from capsule_lightning.callbacks.mask_tables import MaskTable
from capsule_lightning.data.mask_files import resized
from capsule_lightning.data.nifti_files import mask_file
from capsule_lightning.data.nifti_volumes import NiftiVolumesDataModule
from capsule_lightning.errors import printable
from capsule_lightning.runs.csv_text import csv_text
from capsule_lightning.runs.files import write_whole
from capsule_lightning.runs.results import from_here

SHOWN = 20
"""Most volumes that are printed."""


class PredictedVolumes(MaskTable):
    """Write a mask for each volume of ``predict``, with the volume's geometry, and a table of them.

    A mask is called like its volume and has its shape, its place in space and the number of a class at each voxel, 0
    for the background. Beside the table, such as ``predictions.csv``, there is the folder ``predictions`` with
    ``masks``. The table says how many milliliters of each volume each class takes. Each volume is written once its last
    slice is there. Predictions of anything else are left out.

    Args:
        output: the table, a ``.csv``; null for ``predictions.csv`` in the folder of the command.
        embeddings: there are none: null.
        overwrite: replace ``output`` and the masks if they are there.
    """

    def __init__(self, output: str | None = None, embeddings: str | None = None, overwrite: bool = False) -> None:
        super().__init__(output, embeddings, overwrite)
        self._rounds = 0  # batches that processes have not brought together yet
        self._mask = np.empty((0, 0, 0), np.uint8)
        self._rows: list[list[object]] = []

    @override
    def on_predict_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Agree with the other processes on how many batches there are: one of them may have one more."""
        self._rows = []
        if isinstance(trainer.datamodule, NiftiVolumesDataModule):  # type: ignore[attr-defined]
            self._rounds = int(max(of_all_processes(trainer, [sum(trainer.num_predict_batches)])))

    @override
    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Put the slices of this batch of all processes into their volumes."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        if isinstance(data, NiftiVolumesDataModule) and offers(outputs, "processed"):
            self._rounds -= 1
            kind = np.uint8 if data.num_classes < 256 else np.uint16
            masks = outputs.processed.cpu().numpy().astype(kind)
            self._add(trainer, data, [*zip(batch.indices.tolist(), masks, strict=True)])

    @override
    def on_predict_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the table."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, NiftiVolumesDataModule):
            return
        for _ in range(self._rounds):  # of processes that have a batch more
            self._add(trainer, data, [])
        if not trainer.is_global_zero or not self._rows:
            return
        table, rows = self.table(trainer), self._rows
        lines: list[list[object]] = [["volume", "mask", *(f"ml_{name}" for name in data.class_names)], *rows]
        write_whole(
            table,
            csv_text(lines),
            overwrite=self.overwrite or self.output is None,
            make_folder=self.output is None,
            remedy="choose another --output",
        )
        for name, _, *sizes in rows[:SHOWN]:
            found = [f"{each} {size:,.1f} ml" for each, size in zip(data.class_names, sizes, strict=True) if size]
            self._said.append(f"{name}  {', '.join(found) or 'background alone'}")
        self._said += [f"... and {len(rows) - SHOWN:,} more"] if len(rows) > SHOWN else []
        left = len(data.volumes) - len(rows)
        self._said += [f"{left:,} volumes are not written: not all of their slices were predicted"] if left else []
        self._said += [f"{len(rows):,} masks: {from_here(table.with_suffix(''))}/masks", f"table: {from_here(table)}"]

    def _add(self, trainer: L.Trainer, data: NiftiVolumesDataModule, mine: list[tuple[int, np.ndarray]]) -> None:
        """Add the slices that all processes have of a batch, and write the volumes that are complete."""
        slices = sorted(of_all_processes(trainer, mine), key=lambda each: each[0])
        if not trainer.is_global_zero:
            return
        for index, mask in slices:
            number, place = data.place_of(index)
            volume = data.volumes[number]
            if place == 0:
                self._mask = np.zeros((volume.slices(data.plane), *volume.slice_shape(data.plane)), mask.dtype)
            self._mask[place] = resized(mask, self._mask.shape[1:])
            if place == len(self._mask) - 1:
                self._write(trainer, data, number)

    def _write(self, trainer: L.Trainer, data: NiftiVolumesDataModule, number: int) -> None:
        """Write the mask of a volume."""
        table, volume = self.table(trainer), data.volumes[number]
        folder = table.with_suffix("")
        write_whole(
            folder / "masks" / volume.path.name,
            mask_file(volume, self._mask, data.plane, data.max_voxels),
            overwrite=self.overwrite or self.output is None,
            make_folder=True,
            remedy="choose another --output, or add --overwrite true",
        )
        counts = np.bincount(self._mask.ravel(), minlength=data.num_classes + 1)[1:]
        sizes = (counts * volume.voxel_size / 1000).tolist()
        name = printable(str(volume.path))
        self._rows.append([name, f"{folder.name}/masks/{printable(volume.path.name)}", *sizes])
