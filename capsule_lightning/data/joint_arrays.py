"""Images of bodies and their joints from arrays of NumPy."""

from __future__ import annotations

import os
from collections.abc import Callable
from math import isfinite
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from capsule_lightning.augmentations.base import Augmentation
from capsule_lightning.data.array_pictures import Layout, coding_of, layout_of, pictures_of
from capsule_lightning.data.joints import Dims, JointDataModule, JointLabels
from capsule_lightning.data.loader import MemoryStore
from capsule_lightning.data.module import Split
from capsule_lightning.data.named_arrays import NamedArrays, StoredArray
from capsule_lightning.data.skeletons import usual_names
from capsule_lightning.data.stratified import split_off
from capsule_lightning.errors import printable, require
from capsule_lightning.metrics.joint_distances import from_root, root_of

PICTURES = ("depth", "images")
"""Names of the pictures; the first that is there is taken."""
SPLITS = ("train", "val", "test")


class JointArraysDataModule(JointDataModule):
    """Depth maps or images of one body each and their joints, in an ``.npz`` file or in the ``.npy`` files of a folder.

    The arrays are ``depth`` or ``images``, ``(N, H, W)`` or with channels first or last; ``joints (N, K, 2)`` in pixels
    or ``(N, K, 3)`` in meters, NaN where they are not labeled; and, if they are there, ``visible (N, K)`` of true and
    false, ``areas (N)`` in square pixels, ``joint_names (K)``, ``groups (N)``, of which each, such as a clip or a
    person, is in one split alone, and ``split (N)``: train, val or test. Joints in meters are taken relative to the
    pelvis, to the center of the hips, or to the center of all joints, whichever is there first.

    Pictures are bytes, or become bytes as `ImageArrayDataModule` says. With ``near`` and ``far`` their values are
    distances, and become 1 at ``near`` and 0 at ``far``; what is 0 or not finite is background.

    Args:
        path: an ``.npz`` file, or a folder of ``.npy`` files.
        near, far: distances in the units of the array; null for pictures that are bright and dark already.
        test_size: number or fraction of the images that form the test set if there is no ``split``, the same for every
            seed.
        dims, noise, images, batch_size, val_size, seed, augmentation: see `JointDataModule`.

    Raises:
        InputError: there are no such arrays, they do not fit each other or hold something else, or a value is out of
            range.
    """

    name = "joint_arrays"

    def __init__(
        self,
        path: str | None = None,
        near: float | None = None,
        far: float | None = None,
        test_size: float | int = 0.2,
        dims: Dims = 2,
        noise: float = 0.0,
        images: str | None = None,
        batch_size: int = 64,
        val_size: float | int = 0.1,
        seed: int | None = None,
        augmentation: Callable[[], Augmentation] | None = None,
    ) -> None:
        super().__init__(dims, noise, images, batch_size, val_size, seed, augmentation)
        require(path, "no file of arrays is given: set --data.path to an .npz file or to a folder of .npy files")
        require(
            (near is None) == (far is None),
            f"near={near}, far={far}: expected both, for pictures that are distances, or neither",
        )
        require(
            near is None or far is None or (isfinite(near) and isfinite(far) and 0 <= near < far),
            f"near={near}, far={far}: expected two distances, the nearer first",
        )
        require(
            test_size > 0 and (not isinstance(test_size, float) or test_size < 1 or test_size.is_integer()),
            f"test_size={test_size}: expected a fraction below 1 or a number of images",
        )
        self.path, self.near, self.far = Path(os.path.expanduser(str(path))), near, far
        self.test_size = test_size
        self.arrays = NamedArrays(self.path)
        found = next((name for name in PICTURES if name in self.arrays), None)
        require(found is not None, f"{self.path}: no array depth or images; there are {', '.join(self.arrays.names)}")
        self.pictures = self.arrays[str(found)]
        self.layout: Layout = layout_of(self.pictures, None)
        joints = self.arrays["joints"]
        count = self.pictures.shape[0]
        require(
            len(joints.shape) == 3 and joints.shape[0] == count and joints.shape[2] in (2, 3),
            f"{joints.title}: has the shape {joints.shape}; expected ({count}, joints, 2) in pixels or "
            f"({count}, joints, 3) in meters",
        )
        require(
            joints.shape[2] == dims,
            f"{joints.title}: has {joints.shape[2]} coordinates, and dims={dims}; set --data.dims {joints.shape[2]}",
        )
        require(joints.shape[1] >= 2, f"{joints.title}: has one joint; expected at least 2")
        self.class_names = self._names(joints.shape[1])
        self._labels = self._read_labels(joints)
        self._places = self._split()

    @property
    @override
    def in_shape(self) -> tuple[int, int, int]:
        return self.layout.shape

    @property
    @override
    def is_depth(self) -> bool:
        return self.layout.shape[0] == 1

    @override
    def open(self, split: Split) -> MemoryStore:
        """Return the pictures of a split; those to validate on are the last of the training set."""
        places = self._places_of(split)
        labels = JointLabels(*(part[places] for part in self._labels))
        self.require_known(labels, str(self.path))
        if self.near is None:
            coding = coding_of([self.pictures])
            order = places.argsort()
            pictures = pictures_of([(self.pictures, places[order])], self.layout, coding, False)[order.argsort()]
        else:
            pictures = self._distances(places)
        return MemoryStore(pictures, labels.packed())

    @override
    def hold_out(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Hold out the images whose split is val, or else ``val_size`` images."""
        places, val = self._places_of("train"), self._places.get("val")
        if val is not None and len(val) and self.val_size:
            indices = torch.arange(len(places))
            return indices[: len(places) - len(val)], indices[len(places) - len(val) :]
        groups = self._groups()
        zeros = torch.zeros(len(places), dtype=torch.int64)
        return split_off(
            zeros,
            self.val_size,
            self.seed,
            class_names=["image"],
            groups=groups and [groups[n] for n in places.tolist()],
        )

    def _places_of(self, split: Split) -> Tensor:
        if split == "test":
            return self._places["test"]
        val = self._places.get("val")
        return self._places["train"] if val is None or self.val_size == 0 else torch.cat([self._places["train"], val])

    def _names(self, count: int) -> list[str]:
        if "joint_names" not in self.arrays:
            return list(usual_names(count))
        names = self._words("joint_names", count, "joint")
        require(len(set(names)) == count, f"{self.path}: joint_names: some are the same; expected {count} names")
        return [printable(name) for name in names]

    def _words(self, name: str, count: int, what: str) -> list[str]:
        array = self.arrays[name]
        require(
            array.shape == (count,) and array.dtype.kind in "Uiu",
            f"{array.title}: has {array.dtype} {array.shape}; expected a word or a number for each of {count} {what}s",
        )
        return [str(word) for word in array.read().tolist()]

    def _groups(self) -> list[str] | None:
        return self._words("groups", self.pictures.shape[0], "image") if "groups" in self.arrays else None

    def _numbers(self, array: StoredArray, shape: tuple[int, ...], kinds: str) -> Tensor:
        """Return the values of an array as float32, of a shape and of kinds of numbers."""
        require(
            array.shape == shape and array.dtype.kind in kinds,
            f"{array.title}: has {array.dtype} {array.shape}; expected {'numbers' if 'f' in kinds else 'bool'} {shape}",
        )
        values = array.read().astype(np.float32)
        require(not np.isinf(values).any(), f"{array.title}: has infinite values; expected numbers, or NaN")
        return torch.from_numpy(values)

    def _read_labels(self, joints: StoredArray) -> JointLabels:
        count, number, dims = joints.shape
        values = self._numbers(joints, joints.shape, "fiu")
        values = torch.where(values.isnan().any(dim=-1, keepdim=True), torch.nan, values)
        unknown = torch.full((count, number, 5 - dims), torch.nan)
        if dims == 3:
            values = from_root(values, root_of(self.class_names))
        visible = ~values.isnan().any(dim=-1)
        if "visible" in self.arrays:
            visible &= self._numbers(self.arrays["visible"], (count, number), "biu") > 0
        areas = torch.full((count,), torch.nan)
        if "areas" in self.arrays:
            areas = self._numbers(self.arrays["areas"], (count,), "fiu")
        return JointLabels(*((values, unknown) if dims == 2 else (unknown, values)), visible, areas)

    def _split(self) -> dict[str, Tensor]:
        """Return the places of the images of each split."""
        count = self.pictures.shape[0]
        if "split" not in self.arrays:
            zeros = torch.zeros(count, dtype=torch.int64)
            train, test = split_off(zeros, self.test_size, 0, "test_size", ["image"], self._groups())
            return {"train": train, "test": test}
        words = self._words("split", count, "image")
        wrong = next((word for word in words if word not in SPLITS), None)
        require(wrong is None, f"{self.path}: split: {wrong!r}: expected train, val or test")
        found = {
            split: torch.tensor([n for n, w in enumerate(words) if w == split], dtype=torch.int64) for split in SPLITS
        }
        for split in ("train", "test"):
            require(len(found[split]), f"{self.path}: split: none is {split}; expected images to train and to test on")
        return found

    def _distances(self, places: Tensor) -> Tensor:
        """Return pictures ``(N, C, H, W)`` uint8 of distances between ``near`` and ``far``."""
        assert self.near is not None
        assert self.far is not None
        require(
            self.pictures.dtype.kind in "fiu",
            f"{self.pictures.title}: holds {self.pictures.dtype}; expected distances as numbers",
        )
        every = []
        for values in self.pictures.slices():
            depth = self.layout.laid(values).astype(np.float32)
            bright = np.clip((self.far - depth) / (self.far - self.near), 0, 1)
            bright[~np.isfinite(depth) | (depth == 0)] = 0
            every.append(np.rint(255 * bright).astype(np.uint8))
        return torch.from_numpy(np.concatenate(every))[places]

    @override
    def describe(self) -> str:
        return f"{super().describe()}\n  {self.pictures.title} as {self.layout.in_words()}"
