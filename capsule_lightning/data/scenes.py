"""Scenes of several objects, made on the fly from cut-outs: images with the class, mask, box and pose of each object.

They are composites. Three to six digits that come with scikit-learn, on black, need no download.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from capsule_lightning.data.annotated import AnnotatedDataModule
from capsule_lightning.data.base import ImageDataModule
from capsule_lightning.data.digits import DigitsDataModule
from capsule_lightning.data.image_files import read_images
from capsule_lightning.data.image_trees import find_images
from capsule_lightning.data.loader import ExactLoader, MemoryStore, StoredBatch
from capsule_lightning.data.module import Split
from capsule_lightning.data.pictures import MOST_PIXELS, Reading
from capsule_lightning.data.regular_files import kind_of
from capsule_lightning.data.scene_composition import Rules, compose, tight_boxes
from capsule_lightning.data.scene_loader import SceneLoader, SceneParts
from capsule_lightning.data.targets import ABSENT, IGNORE, SceneBatch
from capsule_lightning.errors import InputError, require

_SHARE = 5  # one photograph of so many is for tests, another one for validation


class ScenesDataModule(AnnotatedDataModule):
    """Composites of cut-outs at random places, sizes, angles and depths on a canvas, made on the device.

    Scene n is a function of ``seed``, n and the epoch alone, on any number of processes and after an interruption.
    Cut-outs to train, validate and test on are different ones, as those of their data set are; test scenes are the same
    for every seed. Nearer objects hide those behind them. All of an object lies on the canvas; its box is around what
    it would show if nothing hid it, its mask is what is seen of it. A cut-out is what is more than half opaque.

    Args:
        cutouts: data set of the cut-outs: images of one channel are ink, and each object gets a random color or, on a
            gray canvas, brightness; of gray images with opacity (two channels) or RGBA (four) the last channel is the
            opacity. Its root, path and number of channels are used; how it augments, normalizes and splits its training
            set is not.
        classes: names of the classes whose cut-outs are used, numbered in this order; null for all.
        scenes: scenes of a training epoch.
        val_scenes: scenes to validate on.
        test_scenes: scenes to test on. Those of a smaller number are the first of a larger.
        fresh: make other scenes in each epoch, which trains better than a fixed set of any size that is learned by
            heart; false for the same ones in another order.
        image_size: rows and columns of the canvas.
        channels: 1 for gray, 3 for color; null for color if ``backgrounds`` or RGBA cut-outs are given.
        min_objects, max_objects: fewest and most objects of a scene. One that finds no place where it is seen as
            ``occlusion`` says, after 12 tries, is left out.
        min_size, max_size: size of an object, the longer side of its box before it is turned, in pixels.
        degrees: largest rotation of an object in either direction.
        occlusion: most of an object that nearer ones may hide, a share from 0 to 1.
        backgrounds: folder of photographs behind the objects, brought to the size of the canvas; of five, in order of
            their names, three are for training, one for validation and one for tests. Null for black.
        batch_size: scenes a step, of all processes together.
        val_size: cut-outs held out of the training set for validation, a number or a fraction; 0 to train on all.
        seed: seed of scenes and split; null for that of ``seed_everything``, or else 0.
        images, background, invert, max_pixels: see `ImageDataModule`.

    Raises:
        InputError: values out of range; what the data set of the cut-outs refuses; no photographs.
    """

    name = "scenes"

    def __init__(
        self,
        cutouts: Callable[[], ImageDataModule] = DigitsDataModule,
        classes: Sequence[str | int] | None = None,
        scenes: int = 8192,
        val_scenes: int = 512,
        test_scenes: int = 1024,
        fresh: bool = True,
        image_size: int = 64,
        channels: int | None = None,
        min_objects: int = 3,
        max_objects: int = 6,
        min_size: float = 14.0,
        max_size: float = 22.0,
        degrees: float = 30.0,
        occlusion: float = 0.25,
        backgrounds: str | None = None,
        batch_size: int = 64,
        val_size: float | int = 0.1,
        seed: int | None = None,
        images: str | None = None,
        background: str = "black",
        invert: bool = False,
        max_pixels: int = MOST_PIXELS,
    ) -> None:
        super().__init__(batch_size, val_size, seed, images, Reading(background, invert, max_pixels))
        for name, number in {"scenes": scenes, "val_scenes": val_scenes, "test_scenes": test_scenes}.items():
            require(number >= 1, f"{name}={number}: expected at least 1")
        require(image_size >= 8, f"image_size={image_size}: expected at least 8 pixels")
        require(
            0 <= min_objects <= max_objects and 1 <= max_objects <= 64,
            f"min_objects={min_objects}, max_objects={max_objects}: expected 0 <= min_objects <= max_objects <= 64",
        )
        require(
            4 <= min_size <= max_size <= image_size,
            f"min_size={min_size}, max_size={max_size}: expected 4 <= min_size <= max_size <= image_size={image_size}",
        )
        repeated = classes is not None and (not classes or len(set(map(str, classes))) < len(classes))
        require(not repeated, f"classes={classes}: expected names of classes, each once; null for all")
        require(0 <= degrees <= 180, f"degrees={degrees}: expected a number from 0 to 180")
        require(0 <= occlusion <= 1, f"occlusion={occlusion}: expected a share from 0 to 1")
        require(channels in (None, 1, 3), f"channels={channels}: expected 1 for gray or 3 for color")
        require(
            batch_size <= scenes,
            f"batch_size={batch_size} but only {scenes} scenes: set --data.batch_size to at most {scenes}",
        )
        self.cutouts = cutouts()
        planes = self.cutouts.stored_shape[0]
        require(
            planes in (1, 2, 4),
            f"cutouts: {self.cutouts.title} has images of {planes} channels: expected 1 (ink), 2 (gray and opacity) or "
            "4 (RGBA); give arrays with opacity, or --data.cutouts.channels 1",
        )
        if channels is None:
            channels = 3 if backgrounds is not None or planes == 4 else 1
        require(
            channels == 3 or planes < 4,
            "channels=1 with cut-outs in color: expected 3; leave --data.channels out",
        )
        self.classes = None if classes is None else tuple(map(str, classes))
        self.class_names = self.cutouts.class_names if self.classes is None else self.classes
        self.scenes, self.fresh = scenes, fresh
        self.counts = {"val": val_scenes, "test": test_scenes}
        objects, sizes = (min_objects, max_objects), (min_size, max_size)
        self.rules = Rules(image_size, channels, objects, sizes, degrees, occlusion)
        self.shape = (channels, image_size, image_size)
        self.backgrounds = None if backgrounds is None else Path(os.path.expanduser(backgrounds))
        self._photographs: Tensor | None = None

    @property
    @override
    def num_draws(self) -> int:
        return self.rules.num_draws

    @property
    @override
    def steps_per_epoch(self) -> int:
        return self.scenes // self.batch_size

    @override
    def prepare_data(self) -> None:
        """Fetch the cut-outs; called by one process of each machine."""
        self.cutouts.prepare_data()

    @override
    def open(self, split: Split) -> MemoryStore:
        """Return the cut-outs of a split, of at most about the size that objects have.

        Raises:
            InputError: nothing of a cut-out is opaque, or what their data set refuses.
        """
        store = self.cutouts.open(split)
        kept, labels = self._used(store.labels)
        images = store.take(kept)
        longest, most = max(images.shape[-2:]), round(1.5 * self.rules.sizes[1])
        if longest > most:
            size = [max(1, round(side * most / longest)) for side in images.shape[-2:]]
            images = torch.cat([_scaled(part, size) for part in torch.split(images, 4096)])
        boxes = torch.cat([tight_boxes(part[:, -1] > 127) for part in torch.split(images, 4096)])
        empty = (boxes[:, 2] == 0).nonzero()[:, 0]
        if len(empty):
            raise InputError(
                f"cut-out {int(empty[0])} of the {split} set of {self.cutouts.title} is nowhere more than half opaque "
                f"(so are {len(empty) - 1} others): expected something to see; leave them out"
            )
        return MemoryStore(images, labels)

    def _used(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the places of the cut-outs of ``classes``, and their numbers among these."""
        names = list(self.cutouts.class_names)
        self.class_names = names if self.classes is None else self.classes
        unknown = [name for name in self.class_names if name not in names]
        require(
            not unknown, f"classes: {', '.join(unknown)} is not a class of {self.cutouts.title}: {', '.join(names)}"
        )
        numbers = torch.full((len(names),), ABSENT)
        numbers[[names.index(name) for name in self.class_names]] = torch.arange(len(self.class_names))
        numbered = numbers.to(labels.device)[labels]
        kept = (numbered != ABSENT).nonzero()[:, 0]
        return kept, numbered[kept]

    @override
    def use_split(self, train: Tensor, val: Tensor) -> None:
        self._train, self._val, self._record = train, val, None

    @override
    def setup(self, stage: str | None = None) -> None:
        super().setup(stage)
        if self.backgrounds is not None and self._photographs is None:
            self._photographs = self._read_photographs(self.backgrounds)

    @override
    def loader(self, split: str, subset: Tensor | None = None, training: bool = False) -> ExactLoader:
        if split == "predict":
            return super().loader(split, subset)
        store, (rank, world_size) = self.placed(split), self.process
        part = "train" if training else "test" if split == "test" else "val"
        return SceneLoader(
            store,
            torch.arange(len(store)) if subset is None else subset,
            self.scenes if training else self.counts[part],
            self.batch_size,
            rules=self.rules,
            fresh=self.fresh,
            grounds=self.photographs_of(part, store.labels.device),
            training=training,
            seed=0 if part == "test" else self.seed,
            rank=rank,
            world_size=world_size,
        )

    @override
    def on_after_batch_transfer(self, batch: SceneParts | StoredBatch | SceneBatch, dataloader_idx: int) -> SceneBatch:
        """Put the scenes together, on the device."""
        if isinstance(batch, SceneBatch):
            return batch
        if not isinstance(batch, SceneParts):
            return unknown_scenes(batch)
        grounds = None if batch.grounds is None else batch.grounds.float() / 255
        made = compose(batch.inputs.float() / 255, batch.draws, self.rules, grounds)
        labels = torch.where(made.present, batch.labels, ABSENT)
        # 0 of the background, then the class of the object that is seen, from 1
        of_object = F.pad(labels + 1, (1, 0))
        masks = of_object.gather(1, made.owners.flatten(1)).view_as(made.owners)
        crowd = torch.zeros_like(made.present)
        return SceneBatch(made.pictures, made.pictures, masks, made.boxes, labels, crowd, made.poses, batch.indices)

    @override
    def describe_splits(self) -> str:
        kept = {"train": len(self._train), "val": len(self._val)}
        test = len(self.stores["test"]) if "test" in self.stores else 0
        parts = [f"{self.scenes:,} scenes an epoch of {kept['train']:,} cut-outs"] if kept["train"] else []
        parts += [f"{self.counts['val']:,} to validate on of {kept['val']:,} others"] if kept["val"] else []
        parts += [f"{self.counts['test']:,} to test on of {test:,}"] if test else []
        return ", ".join(parts) or "nothing is read yet"

    def photographs_of(self, part: str, device: torch.device) -> Tensor | None:
        """Return the photographs behind the scenes of ``train``, ``val`` or ``test``; None if there are none."""
        if self._photographs is None:
            return None
        turn = torch.arange(len(self._photographs)) % _SHARE
        chosen = {"train": turn < _SHARE - 2, "val": turn == _SHARE - 2, "test": turn == _SHARE - 1}[part]
        return self._photographs[chosen].to(device)

    def _read_photographs(self, folder: Path) -> Tensor:
        require(
            kind_of(folder) == "folder",
            f"backgrounds={folder}: {kind_of(folder)}; expected a folder of photographs",
        )
        files = find_images(folder).images
        require(
            len(files) >= _SHARE,
            f"backgrounds={folder}: {len(files)} photographs, expected at least {_SHARE}: one of five is for tests, "
            "and one for validation",
        )
        return read_images(files, self.in_shape, resize=True)


def unknown_scenes(batch: StoredBatch) -> SceneBatch:
    """Return pictures of one's own as scenes of which nothing is known."""
    pictures = batch.inputs.float() / 255
    masks = torch.full_like(pictures[:, 0], IGNORE, dtype=torch.int64)
    labels = torch.full_like(batch.labels, ABSENT).unsqueeze(1)
    boxes, poses = pictures.new_zeros(len(labels), 1, 4), pictures.new_zeros(len(labels), 1, 5)
    return SceneBatch(pictures, pictures, masks, boxes, labels, labels >= 0, poses, batch.indices)


def _scaled(images: Tensor, size: list[int]) -> Tensor:
    """Return images ``(N, A, h, w)`` uint8 of another size, antialiased."""
    scaled = F.interpolate(images.float(), size, mode="bilinear", antialias=True)
    return scaled.round().clamp(0, 255).to(torch.uint8)
