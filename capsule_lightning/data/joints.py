"""What data sets of images of one body each share, with its joints as labels."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from typing_extensions import override

from capsule_lightning.augmentations.base import Augmentation
from capsule_lightning.augmentations.identity import NoAugmentation
from capsule_lightning.data.loader import StoredBatch
from capsule_lightning.data.module import DataModule
from capsule_lightning.data.moved_labels import moved_joints, require_followed
from capsule_lightning.data.pictures import Reading
from capsule_lightning.data.skeletons import other_sides
from capsule_lightning.data.statistics import unit
from capsule_lightning.data.targets import JointBatch
from capsule_lightning.data.to_predict import read_to_predict
from capsule_lightning.errors import InputError, printable, require

Dims = Literal[2, 3]
NOISE_STEPS = 61
"""Places in each direction at which noise is cut from one large picture of it."""


class JointLabels(NamedTuple):
    """What is known of the joints of N bodies.

    Attributes:
        pixels: ``(N, K, 2)`` float32, see `JointBatch`; NaN for what is not known.
        positions: ``(N, K, 3)`` float32, meters from the root joint; NaN for what is not known.
        visible: ``(N, K)`` bool.
        areas: ``(N)`` float32, pixels that the body covers; NaN if it is not known.
    """

    pixels: Tensor
    positions: Tensor
    visible: Tensor
    areas: Tensor

    def packed(self) -> Tensor:
        """Return all of it as one tensor, ``(N, 6 K + 1)`` float32, which a store keeps as labels."""
        parts = (self.pixels.flatten(1), self.positions.flatten(1), self.visible.float(), self.areas.unsqueeze(1))
        return torch.cat([part.float() for part in parts], dim=1)

    @classmethod
    def unpacked(cls, labels: Tensor) -> JointLabels:
        """Return what `packed` has put together."""
        count = labels.shape[1] // 6
        pixels, positions, visible, areas = torch.split(labels, [2 * count, 3 * count, count, 1], dim=1)
        return cls(pixels.view(-1, count, 2), positions.view(-1, count, 3), visible > 0.5, areas.squeeze(1))


class JointDataModule(DataModule):
    """Images of one body each in memory as ``uint8``, and where its joints are.

    A data set is a subclass that states ``class_names``, the names of the K joints, and ``in_shape``, and opens stores
    whose labels are `JointLabels.packed`.

    Args:
        dims: what ``joints`` of a batch are: 2 for pixels, 3 for meters from the root joint.
        noise: deviation of the noise that is added to every pixel of the network's input, on a scale of 0 to 1.
        images: a folder of image files, one file, or a table that lists them in a column ``path``, for ``predict``, in
            place of the test images; or images in an ``.npy`` or ``.npz`` file.
        batch_size, val_size, seed: see `DataModule`.
        augmentation: augmentation of the training images, by which joints in pixels are moved alike; in an image that
            it mirrors left joints become right ones. Null for none.

    Attributes:
        root: number of the joint that the meters are from; None if it is the center of the hips.

    Raises:
        InputError: values out of range; data missing or not as expected (in ``prepare_data`` and ``setup``).
    """

    name: str
    for_task = "PoseTask"

    def __init__(
        self,
        dims: Dims = 2,
        noise: float = 0.0,
        images: str | None = None,
        batch_size: int = 64,
        val_size: float | int = 0.1,
        seed: int | None = None,
        augmentation: Callable[[], Augmentation] | None = None,
    ) -> None:
        super().__init__(batch_size, val_size, seed)
        require(images != "", "images='': expected an image file, or a folder of them")
        require(dims in get_args(Dims), f"dims={dims}: expected 2, joints in pixels, or 3, in meters")
        require(0 <= noise < 1, f"noise={noise}: expected 0 or more and less than 1, the range of a pixel")
        self.dims, self.noise, self.predict_path = dims, noise, images
        self.augmentation = NoAugmentation() if augmentation is None else augmentation()
        require(
            augmentation is None or dims == 2,
            f"augmentation={type(self.augmentation).__name__}: joints in meters (dims=3) cannot follow what is done to "
            "images; set --data.augmentation null",
        )
        self.predict_files: list[Path] = []
        self._bank: Tensor | None = None

    @property
    @abstractmethod
    def in_shape(self) -> tuple[int, int, int]:
        """Shape ``(C, H, W)`` of the network's input."""

    @override
    def setup(self, stage: str | None = None) -> None:
        """Open what the stage needs.

        Raises:
            InputError: joints cannot follow the augmentation.
        """
        require_followed(self.augmentation, self.in_shape, "joints")
        if stage != "predict" or self.predict_path is None:
            super().setup(stage)
            return
        found = read_to_predict(Path(os.path.expanduser(self.predict_path)), self.in_shape, Reading())
        self.predict_files = found.files
        found.store.labels = unknown_labels(len(found.store), self.num_classes).packed()
        self.stores["predict"] = found.store

    @override
    def name_of(self, index: int) -> str:
        """Return the file of a predicted image, or its number in the test set."""
        return printable(str(self.predict_files[index])) if self.predict_files else super().name_of(index)

    @property
    @override
    def num_draws(self) -> int:
        return (2 if self.noise else 0) + self.augmentation.num_draws

    @override
    def on_after_batch_transfer(self, batch: StoredBatch | JointBatch, dataloader_idx: int) -> JointBatch:
        """Add noise and sort the labels, on the device."""
        if isinstance(batch, JointBatch):
            return batch
        clean, labels, draws = unit(batch.inputs), JointLabels.unpacked(batch.labels), batch.draws
        if draws is not None and self.augments:
            count = self.augmentation.num_draws
            own, draws = draws[:, :count], draws[:, count:]
            labels = self.moved(labels, own)
            clean = self.augmentation.train(clean, own)
        pictures = clean if "predict" in self.stores else self.noisy(clean, batch.indices, draws)
        three = self.dims == 3
        return JointBatch(
            pictures,
            pictures,
            labels.positions if three else labels.pixels,
            labels.visible,
            batch.indices,
            clean if self.is_depth else None,
            None if three else labels.positions,
            labels.areas,
        )

    @property
    def augments(self) -> bool:
        """Whether training images and their joints are moved."""
        return not isinstance(self.augmentation, NoAugmentation)

    def moved(self, labels: JointLabels, draws: Tensor) -> JointLabels:
        """Return labels whose joints are moved as the images are by the same draws ``(B, K)``; no meters are known."""
        size = self.in_shape[1], self.in_shape[2]
        found = moved_joints(
            labels.pixels, labels.visible, labels.areas, self.augmentation, draws, size, other_sides(self.class_names)
        )
        return JointLabels(found[0], torch.full_like(labels.positions, torch.nan), *found[1:])

    @property
    def is_depth(self) -> bool:
        """Whether a picture is a depth map, which a decoder may be asked for."""
        return False

    def noisy(self, pictures: Tensor, indices: Tensor, draws: Tensor | None) -> Tensor:
        """Return pictures ``(B, C, H, W)`` with noise, in [0, 1].

        The noise of a picture is cut from one large picture of it: in training at a place that ``draws (B, 2)`` choose,
        otherwise at one that follows from ``indices (B)``, the same in every evaluation.
        """
        if not self.noise:
            return pictures
        if self._bank is None:
            channels, rows, columns = pictures.shape[1:]
            random = torch.Generator().manual_seed(0)
            self._bank = torch.randn(channels, rows + NOISE_STEPS - 1, columns + NOISE_STEPS - 1, generator=random)
        bank = self._bank = self._bank.to(pictures.device)
        if draws is None:
            place = torch.stack([indices * 37, indices * 53 + indices // NOISE_STEPS], dim=1) % NOISE_STEPS
        else:
            place = (draws * NOISE_STEPS).long()
        windows = bank.unfold(1, pictures.shape[2], 1).unfold(2, pictures.shape[3], 1)  # (C, places, places, H, W)
        noise = windows[:, place[:, 0], place[:, 1]].movedim(0, 1)
        return (pictures + self.noise * noise).clamp(0, 1)

    def require_known(self, labels: JointLabels, source: str) -> None:
        """Refuse labels none of which is of the kind that is asked for.

        Raises:
            InputError: names ``dims``.
        """
        asked, other = (labels.positions, labels.pixels) if self.dims == 3 else (labels.pixels, labels.positions)
        if bool(asked.isnan().all()):
            found = "joints of the other kind alone" if not bool(other.isnan().all()) else "no joint with a label"
            raise InputError(f"{source}: has {found}, and dims={self.dims}; set --data.dims, or give other data")

    @override
    def describe(self) -> str:
        rows, columns = self.in_shape[1:]
        what = "pixels" if self.dims == 2 else "meters from the root"
        return f"{self.name}: {self.num_classes} joints in {what}, {rows}x{columns} images; {self.describe_splits()}"


def unknown_labels(count: int, joints: int) -> JointLabels:
    """Return the labels of bodies of which nothing is known."""
    return JointLabels(
        torch.full((count, joints, 2), torch.nan),
        torch.full((count, joints, 3), torch.nan),
        torch.zeros(count, joints, dtype=torch.bool),
        torch.full((count,), torch.nan),
    )
