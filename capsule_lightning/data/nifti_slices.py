"""Slices of volumes with masks, such as CT and MR images, from NIfTI files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from capsule_lightning.augmentations.base import Augmentation
from capsule_lightning.data.annotated import part, require_test_size
from capsule_lightning.data.deep_pictures import scaled
from capsule_lightning.data.loader import MemoryStore
from capsule_lightning.data.mask_files import resized
from capsule_lightning.data.mask_values import MaskCode, Meaning
from capsule_lightning.data.module import Split
from capsule_lightning.data.nifti_files import (
    ENDINGS,
    MOST_VOXELS,
    PLANES,
    Plane,
    Volume,
    read_header,
    read_slices,
)
from capsule_lightning.data.paired_masks import PairedMasksDataModule
from capsule_lightning.data.pictures import Reading
from capsule_lightning.data.regular_files import kind_of
from capsule_lightning.errors import InputError, printable, require, require_one_of, some_of

PERCENTILES = (0.5, 99.5)
"""Of the voxels to train on, which become 0 and 1 if no window is given."""
_SAMPLED = 100_000  # voxels of a volume, evenly spread, of which percentiles are taken


class Scan(NamedTuple):
    """A volume and its mask, checked to be of one shape and place.

    Attributes:
        volume: the images.
        mask: of the voxels.
    """

    volume: Volume
    mask: Volume


class NiftiSlicesDataModule(PairedMasksDataModule):
    """Slices of volumes and of their masks, ``.nii`` or ``.nii.gz``, brought to one size.

    A volume is turned to right, anterior and superior, whatever the order of its voxels, so that slices look as
    radiologists show them; which way that is, and how many files do not say how the body lies, is told before training.
    All slices of a volume are in one split. The distance of slices and voxels is not changed.

    Args:
        pictures: folder of the volumes.
        masks: folder of their masks, which are called the same.
        mask_suffix: what the name of a mask has behind that of its volume, such as ``_seg``.
        test_pictures: folder of volumes to test on; null to split ``test_size`` off.
        test_masks: folder of their masks.
        plane: of the slices: axial, coronal or sagittal.
        step: take every second, third, ... slice.
        window: the values that become 0 and 1, such as [-160, 240] for soft tissue in CT; null for percentiles 0.5 and
            99.5 of the volumes to train on.
        class_names, class_values, ignore_index, background_index: see `ImageMaskDataModule`.
        image_size: rows and columns that slices are brought to, whatever their shape.
        augmentation: see `ImageMaskDataModule`.
        test_size: number or fraction of the volumes that form the test set if there is none; the same for every seed.
        batch_size, seed: see `DataModule`.
        val_size: number or fraction of the volumes that are held out for validation.
        images: image files for ``predict``, see `ImageDataModule`.
        max_voxels: most voxels of a volume; a larger one is refused before it is read.

    Raises:
        InputError: nibabel is not installed, files are missing or do not fit each other, values of masks mean nothing
            or may mean two things, or an option is out of range; the message names file or option.
    """

    name = "nifti_slices"
    example_name = "slice"

    def __init__(
        self,
        pictures: str | None = None,
        masks: str | None = None,
        mask_suffix: str = "",
        test_pictures: str | None = None,
        test_masks: str | None = None,
        plane: Plane = "axial",
        step: int = 1,
        window: tuple[float, float] | None = None,
        class_names: list[str] | None = None,
        class_values: list[int] | None = None,
        ignore_index: list[int] | None = None,
        background_index: int = 0,
        image_size: int = 128,
        augmentation: Callable[[], Augmentation] | None = None,
        test_size: float | int = 0.2,
        batch_size: int = 8,
        val_size: float | int = 0.1,
        seed: int | None = None,
        images: str | None = None,
        max_voxels: int = MOST_VOXELS,
    ) -> None:
        meaning = Meaning(class_names, class_values, ignore_index, background_index)
        shape = (1, image_size, image_size)
        super().__init__(shape, augmentation, meaning, batch_size, val_size, seed, images, Reading())
        require(
            pictures is not None and masks is not None,
            "no volumes are given: set --data.pictures and --data.masks to two folders of NIfTI files",
        )
        require((test_pictures is None) == (test_masks is None), "test_pictures and test_masks are given together")
        require_one_of("plane", plane, get_args(Plane))
        require(step >= 1, f"step={step}: expected 1 for all slices, 2 for every second, ...")
        require(max_voxels >= 1, f"max_voxels={max_voxels}: expected at least 1")
        require(
            window is None or (np.isfinite(window).all() and window[0] < window[1]),
            f"window={window}: expected the value that becomes 0 and a higher one that becomes 1, or null",
        )
        require_test_size(test_size)
        self.plane, self.step, self.stated_window, self.max_voxels = plane, step, window, max_voxels
        self.test_size, self.suffix = test_size, mask_suffix
        self.folders = [(str(pictures), str(masks))]
        self.folders += [(test_pictures, test_masks)] if test_pictures is not None and test_masks is not None else []

    @cached_property
    def scans(self) -> dict[str, list[Scan]]:
        """The volumes of each split, ``train`` and ``test``."""
        found = [self._scans(Path(os.path.expanduser(a)), Path(os.path.expanduser(b))) for a, b in self.folders]
        unsaid = sum(not scan.volume.is_oriented for scans in found for scan in scans)
        self.told.append(f"{self.plane} slices {PLANES[self.plane][1]}")
        if unsaid:
            self.told.append(f"{unsaid:,} volumes do not say how the body lies in them: taken as the format's standard")
        if len(found) == 2:
            return {"train": found[0], "test": found[1]}
        kept, taken = part(len(found[0]), self.test_size, 0)
        require(taken, f"test_size={self.test_size}: no volume to test on of {len(found[0])}; set a larger one")
        return {"train": [found[0][n] for n in kept], "test": [found[0][n] for n in taken]}

    def _scans(self, pictures: Path, masks: Path) -> list[Scan]:
        volumes, others = volumes_in(pictures, ""), volumes_in(masks, self.suffix)
        both = [name for name in volumes if name in others]
        require(
            both,
            f"{masks}: none of its {len(others):,} masks is called like one of the {len(volumes):,} volumes in "
            f"{pictures}; see --data.mask_suffix",
        )
        for rest, what in ((volumes.keys() - others.keys(), "volumes"), (others.keys() - volumes.keys(), "masks")):
            if rest:
                self.told.append(f"{len(rest):,} {what} are alone and left out: {some_of(sorted(rest), 3)}")
        scans = []
        for name in both:
            scan = Scan(read_header(volumes[name], self.max_voxels), read_header(others[name], self.max_voxels))
            require(
                scan.volume.shape == scan.mask.shape
                and np.allclose(scan.volume.affine, scan.mask.affine, rtol=1e-3, atol=1e-2),
                f"{scan.mask.path}: shape {scan.mask.shape} or sform/qform is not that of {scan.volume.path}, "
                f"{scan.volume.shape}: the mask of another volume? give it that of its own",
            )
            scans.append(scan)
        return scans

    @cached_property
    def held_out(self) -> tuple[list[int], list[int]]:
        """Numbers of the volumes of the training set to train and to validate on."""
        return part(len(self.scans["train"]), self.val_size, self.seed)

    @cached_property
    def window(self) -> tuple[float, float]:
        """The values that become 0 and 1."""
        if self.stated_window is not None:
            return self.stated_window
        kept, _ = self.held_out
        values = []
        for number in kept:
            found = read_slices(self.scans["train"][number].volume.path, self.plane, self.max_voxels).ravel()
            values.append(found[:: max(1, len(found) // _SAMPLED)])
        low, high = np.percentile(np.concatenate(values), PERCENTILES).tolist()
        require(low < high, f"{self.folders[0][0]}: all voxels have the value {low:g}; set --data.window")
        self.told.append(f"window {low:g} to {high:g}, of the volumes to train on (--data.window)")
        return low, high

    @cached_property
    @override
    def code(self) -> MaskCode:
        """What the values mean, of all masks of all splits."""
        counts: Counter[int] = Counter()
        for scan in (scan for scans in self.scans.values() for scan in scans):
            values, numbers = np.unique(self._slices(scan.mask, whole_numbers=True), return_counts=True)
            counts.update(dict(zip(values.tolist(), numbers.tolist(), strict=True)))
        return self.code_from(counts, self.folders[0][1])

    @override
    def open(self, split: Split) -> MemoryStore:
        """Return slices and masks of a split, checked."""
        code, scans, (low, high) = self.code, self.scans[split], self.window
        counts = self._counts(scans)
        size, total = (self.shape[1], self.shape[2]), sum(counts)
        try:
            images, masks = np.empty((total, *self.shape), np.float32), np.empty((total, *size), np.int16)
        except MemoryError as error:
            raise InputError(
                f"{total:,} slices of {size[0]}x{size[1]} pixels take more memory than there is; set --data.step or a "
                "smaller --data.image_size"
            ) from error
        places = iter(range(total))
        for scan in scans:
            values, labels = self._slices(scan.volume), self._slices(scan.mask, whole_numbers=True)
            unknown = set(np.unique(labels).tolist()) - set(code.labels)
            require(
                not unknown, f"{scan.mask.path}: value {min(unknown, default=0)} is new since the masks were first read"
            )
            for picture, mask in zip(values, labels, strict=True):
                place = next(places)
                images[place, 0] = scaled(fitted_slice(picture, size), (low, high)).clip(0, 1)
                masks[place] = code.encode(resized(mask, size))
        return MemoryStore(torch.from_numpy(images), torch.from_numpy(masks))

    def _slices(self, volume: Volume, whole_numbers: bool = False) -> np.ndarray:
        return read_slices(volume.path, self.plane, self.max_voxels, whole_numbers)[:: self.step]

    def _counts(self, scans: Sequence[Scan]) -> list[int]:
        """Slices of each volume."""
        return [len(range(0, scan.volume.slices(self.plane), self.step)) for scan in scans]

    @override
    def hold_out(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Hold out all slices of some volumes."""
        counts = torch.tensor(self._counts(self.scans["train"]))
        volume = torch.arange(len(counts)).repeat_interleave(counts)
        held = torch.isin(volume, torch.tensor(self.held_out[1], dtype=torch.int64))
        return (~held).nonzero()[:, 0], held.nonzero()[:, 0]

    @override
    def name_of(self, index: int) -> str:
        """Return the file of a predicted image, or file and number of a slice of a test."""
        if self.predict_files:
            return super().name_of(index)
        for scan, count in zip(self.scans["test"], self._counts(self.scans["test"]), strict=True):
            if index < count:
                return printable(f"{scan.volume.path} {self.plane} {index * self.step}")
            index -= count
        return super().name_of(index)

    @override
    def learned(self) -> dict[str, Any]:
        return {"window": list(self.window)}

    @override
    def describe(self) -> str:
        """Return what has been read so far: volumes, orientation, window, classes, and what is ignored."""
        count = sum(map(len, self.scans.values()))
        first = f"masks of {self.num_classes} classes, {count} volumes, slices {self.in_shape}; "
        return "\n  ".join([first + self.describe_splits(), *map(printable, self.told)])


def volumes_in(folder: Path, suffix: str) -> dict[str, Path]:
    """Return the NIfTI files of a folder by their names without ending and suffix, in the order of the alphabet.

    Args:
        folder: where they are.
        suffix: what their names have behind the part that they share with others; files without it are left out.

    Raises:
        InputError: there are none, or two of a name.
    """
    require(kind_of(folder) == "folder", f"{folder}: {kind_of(folder)}; expected a folder of NIfTI files")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        ending = next((ending for ending in reversed(ENDINGS) if path.name.endswith(ending)), None)
        if ending is None or path.name.startswith(".") or not path.name.endswith(suffix + ending):
            continue
        name = path.name.removesuffix(suffix + ending)
        require(name not in found, f"{path}: is called like {found.get(name)}; expected one file of a name")
        found[name] = path
    require(found, f"{folder}: no NIfTI files whose names end in {suffix}.nii or {suffix}.nii.gz")
    return found


def fitted_slice(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return a slice ``(rows, columns)`` float32 at another size, bilinear, and the mean of pixels where it shrinks."""
    if picture.shape == size:
        return picture
    from PIL import Image

    return np.asarray(Image.fromarray(picture).resize(size[::-1], Image.Resampling.BILINEAR))
