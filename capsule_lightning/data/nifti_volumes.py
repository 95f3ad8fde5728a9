"""Volumes of one's own in NIfTI files that a network for masks is asked about, slice by slice."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from typing_extensions import override

from capsule_lightning.data.annotated import AnnotatedDataModule
from capsule_lightning.data.deep_pictures import scaled
from capsule_lightning.data.loader import Store, StoredBatch
from capsule_lightning.data.module import Split
from capsule_lightning.data.nifti_files import ENDINGS, MOST_VOXELS, Plane, Volume, read_header, read_slices
from capsule_lightning.data.nifti_slices import fitted_slice, volumes_in
from capsule_lightning.data.pictures import Reading
from capsule_lightning.data.regular_files import kind_of
from capsule_lightning.data.targets import IGNORE, MaskBatch
from capsule_lightning.errors import InputError, printable, require, require_one_of, some_of


class NiftiVolumesDataModule(AnnotatedDataModule):
    """Volumes for ``predict`` with a network for masks, all slices of each, which are not all in memory at once.

    ``predict`` chooses it by itself when ``images`` are NIfTI files.

    Args:
        class_names: names of the network's classes, without the background.
        shape: ``(1, H, W)`` to which every slice is brought.
        images: a NIfTI file, or a folder of them.
        plane: of the slices, as in training.
        window: the values that become 0 and 1, as in training.
        batch_size: slices at a time.
        max_voxels: most voxels of a volume; a larger one is refused before it is read.

    Attributes:
        volumes: in the order of their names.

    Raises:
        InputError: nibabel is not installed, there are no volumes or one cannot be read, the network takes colors, or
            the window is not known.
    """

    name = "nifti_volumes"
    example_name = "slice"

    def __init__(
        self,
        class_names: list[str],
        shape: tuple[int, int, int],
        images: str | None = None,
        plane: Plane = "axial",
        window: tuple[float, float] | None = None,
        batch_size: int = 8,
        max_voxels: int = MOST_VOXELS,
    ) -> None:
        super().__init__(batch_size, 0, 0, images, Reading())
        require_one_of("plane", plane, get_args(Plane))
        require(shape[0] == 1, f"{images}: volumes are gray, and this network takes pictures of {shape[0]} channels")
        require(
            window is not None and np.isfinite(window).all() and window[0] < window[1],
            f"window={window}: which values become 0 and 1 is not known of this network; state --data.window, such as "
            "[-160, 240], as in training",
        )
        self.class_names, self.shape = list(class_names), (shape[0], shape[1], shape[2])
        self.plane, self.max_voxels = plane, max_voxels
        assert window is not None
        self.window = window[0], window[1]
        self.volumes: list[Volume] = []
        self._ends: list[int] = []

    @override
    def setup(self, stage: str | None = None) -> None:
        require(stage == "predict" and self.images is not None, f"{self.name}: have no images to {stage}; choose other")
        assert self.images is not None
        is_folder = kind_of(self.images) == "folder"
        paths = list(volumes_in(self.images, "").values()) if is_folder else [self.images]
        if is_folder:
            others = [path for path in self.images.iterdir() if kind_of(path) == "file" and path not in paths]
            if names := [path.name for path in sorted(others) if not path.name.startswith(".")]:
                rank_zero_info(f"{self.images}: {some_of(names)} are no NIfTI volumes, and are left out")
        self.volumes = [read_header(path, self.max_voxels) for path in paths]
        self._ends = list(accumulate(volume.slices(self.plane) for volume in self.volumes))
        self.stores["predict"] = VolumeSlices(self)

    @override
    def open(self, split: Split) -> Store:
        raise InputError(f"{self.name}: have no {split} images; choose other data with --data")

    def place_of(self, index: int) -> tuple[int, int]:
        """Return the number of the volume that has a slice, and the place of the slice in it."""
        number = bisect_right(self._ends, index)
        return number, index - (self._ends[number - 1] if number else 0)

    @override
    def name_of(self, index: int) -> str:
        """Return file and number of a slice."""
        number, place = self.place_of(index)
        return printable(f"{self.volumes[number].path} {self.plane} {place}")

    @override
    def on_after_batch_transfer(self, batch: StoredBatch | MaskBatch, dataloader_idx: int) -> MaskBatch:
        """Say that nothing is known of the slices."""
        if isinstance(batch, MaskBatch):
            return batch
        unknown = torch.full_like(batch.inputs[:, 0], IGNORE, dtype=torch.int64)
        return MaskBatch(batch.inputs, batch.inputs, unknown, batch.indices)


class VolumeSlices:
    """The slices of volumes, of which the one that was asked for last is in memory.

    Args:
        data: which volumes, and how their slices become pictures.
    """

    def __init__(self, data: NiftiVolumesDataModule) -> None:
        self.data = data
        self.labels = torch.full((sum(volume.slices(data.plane) for volume in data.volumes),), -1)
        self._number, self._slices = -1, np.empty((0, 0, 0), np.float32)

    def __len__(self) -> int:
        """Return the number of slices, N."""
        return len(self.labels)

    def on(self, device: torch.device) -> VolumeSlices:
        """Return itself: files are read on the host."""
        return self

    def take(self, indices: Tensor) -> Tensor:
        """Return the slices ``(B, 1, H, W)`` float32 in [0, 1] at ``indices (B)``.

        Raises:
            InputError: a file is damaged.
        """
        data, out = self.data, np.empty((len(indices), *self.data.shape), np.float32)
        for row, index in zip(out, indices.tolist(), strict=True):
            number, place = data.place_of(index)
            if number != self._number:
                self._slices = read_slices(data.volumes[number].path, data.plane, data.max_voxels)
                self._number = number
            row[0] = scaled(fitted_slice(self._slices[place], data.shape[1:]), data.window).clip(0, 1)
        return torch.from_numpy(out)


def are_volumes(images: Path) -> bool:
    """Return whether a path is a NIfTI file, or a folder that has some."""
    if kind_of(images) == "folder":
        return any(path.name.endswith(ENDINGS) and not path.name.startswith(".") for path in images.iterdir())
    return images.name.endswith(ENDINGS)
