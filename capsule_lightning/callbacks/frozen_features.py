"""Features of a frozen backbone, computed once and trained on from then on."""

from __future__ import annotations

import json
import time
from hashlib import blake2b
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info
from rich import get_console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from typing_extensions import override

from capsule_lightning.augmentations.identity import NoAugmentation
from capsule_lightning.data.base import ImageBatch, ImageDataModule
from capsule_lightning.data.feature_cache import FeatureCache, StoredFeatures
from capsule_lightning.data.loader import Store, StoredBatch
from capsule_lightning.data.module import Split
from capsule_lightning.data.statistics import digests
from capsule_lightning.encoders.backbone import BackboneEncoder
from capsule_lightning.errors import InputError, require

AT_ONCE = 64
"""Images that go through the backbone at a time."""
PART_BYTES, PART_SECONDS = 2**26, 30.0
"""When the next part of the cache is written, whichever comes first: an interruption costs less than one."""


class FrozenFeatures(L.Callback):
    """Run a frozen backbone once on each image, and train, validate and test the rest of the network on what it gave.

    The features are kept on disk and found again by what is in the images, whichever run, fold or seed asks for them,
    as long as backbone, weights, size, normalization, precision and kind of device are the same. The network stays
    whole: its checkpoints, predictions and exports are as without this callback. So are its numbers, but for the last
    bits, which on some devices depend on how many images go through the backbone at a time: here 64.

    It is for a `BackboneEncoder` with ``frozen: true`` and for images that training does not change
    (``--data.augmentation NoAugmentation``). Predictions of new images run the backbone.

    Args:
        folder: of the features; null for ``.prepared/features`` in the folder of the data.

    Raises:
        InputError: the network has no such encoder, the backbone is not wholly frozen, the augmentation changes images,
            or the folder cannot be written; all before training.
    """

    def __init__(self, folder: str | None = None) -> None:
        self.folder = folder
        self._features: dict[Split, StoredFeatures] = {}

    @override
    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse what cannot be computed once."""
        self._features = {}
        if stage == "predict":
            return
        encoder, data = encoder_of(pl_module), getattr(trainer, "datamodule", None)
        require(
            encoder.is_frozen,
            "FrozenFeatures: the backbone is trained, so its features change; set --model.net.encoder.frozen true, or "
            "leave FrozenFeatures out",
        )
        if not isinstance(data, ImageDataModule) or data.num_labels != 1:
            raise InputError("FrozenFeatures: expected an ImageDataModule with one label an image; leave it out here")
        require(
            isinstance(data.augmentation, NoAugmentation),
            f"FrozenFeatures: {type(data.augmentation).__name__} gives other images in each epoch; set "
            "--data.augmentation NoAugmentation, or leave FrozenFeatures out",
        )

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._ready(trainer, pl_module, "train")

    @override
    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._ready(trainer, pl_module, "train")

    @override
    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._ready(trainer, pl_module, "test")

    @override
    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: ImageBatch, batch_idx: int
    ) -> None:
        self._give(pl_module, "train", batch)

    @override
    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: ImageBatch, *_: Any
    ) -> None:
        self._give(pl_module, "train", batch)

    @override
    def on_test_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: ImageBatch, *_: Any) -> None:
        self._give(pl_module, "test", batch)

    @override
    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        for module in pl_module.modules():
            if isinstance(module, BackboneEncoder):
                module.forget()

    def _give(self, task: L.LightningModule, split: Split, batch: ImageBatch) -> None:
        features = self._features[split].take(batch.indices)
        encoder_of(task).know(batch.images, features.to(batch.images.device, non_blocking=True))

    def _ready(self, trainer: L.Trainer, task: L.LightningModule, split: Split) -> None:
        """Have the features of all images of a split: those of the cache, and the others computed."""
        if split in self._features:
            return
        data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]
        store, encoder = data.store(split), encoder_of(task)
        top = data.root / ".prepared" / "features" if self.folder is None else Path(self.folder).expanduser()
        facts = {
            **encoder.fingerprint(),
            "stored": [*data.stored_shape, str(_some(store).dtype)],
            "data_normalization": data.normalization,
            "data_statistics": None if data.normalization != "channel" else data.statistics,
            "precision": str(trainer.precision),
            "device": task.device.type,
            "torch": torch.__version__,
        }
        name = blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=8).hexdigest()
        try:
            cache = FeatureCache(top / name, (encoder.channels, *encoder.size))
            if not (top / name / "source.json").is_file():
                (top / name / "source.json").write_text(json.dumps(facts, indent=1))
            found = self._computed(cache, digests(store), trainer, encoder, data, store)
        except OSError as error:
            raise InputError(
                f"{top}: features cannot be kept there ({error.strerror}); choose another place with "
                "--trainer.callbacks+=FrozenFeatures --trainer.callbacks.folder=FOLDER"
            ) from error
        self._features[split] = found.on(task.device)

    def _computed(
        self,
        cache: FeatureCache,
        keys: Tensor,
        trainer: L.Trainer,
        encoder: BackboneEncoder,
        data: ImageDataModule,
        store: Store,
    ) -> StoredFeatures:
        found, _ = cache.find(keys)
        if found is not None:
            return found
        with cache.held():
            _, missing = cache.find(keys)  # another process may have added them
            begun = time.perf_counter()
            with progress(len(keys), len(keys) - len(missing)) as bar:
                pending: list[tuple[Tensor, Tensor]] = []
                size, since = 0, begun
                try:
                    for places in torch.split(missing, AT_ONCE):
                        with torch.no_grad(), trainer.precision_plugin.forward_context():
                            images = images_at(data, store, places, trainer)
                            features = encoder.compute_features(images).cpu()
                        pending.append((keys[places], features))
                        size += features.nbytes
                        bar.advance(bar.task_ids[0], len(places))
                        if size >= PART_BYTES or time.perf_counter() - since >= PART_SECONDS:
                            flush(cache, pending)
                            size, since = 0, time.perf_counter()
                finally:  # also of an interruption
                    flush(cache, pending)
        if len(missing):
            rank_zero_info(
                f"features of {len(missing):,} images computed in {time.perf_counter() - begun:.1f} s and kept in "
                f"{cache.folder}"
            )
        found, missing = cache.find(keys)
        if found is None:
            raise InputError(f"{cache.folder}: {len(missing):,} features that were written are gone; begin again")
        return found


def encoder_of(task: L.LightningModule) -> BackboneEncoder:
    """Return the encoder whose features are computed once.

    Raises:
        InputError: the network has none.
    """
    found = [module for module in task.modules() if isinstance(module, BackboneEncoder)]
    require(len(found) == 1, "FrozenFeatures: expected a network with one BackboneEncoder; leave FrozenFeatures out")
    return found[0]


def images_at(data: ImageDataModule, store: Store, places: Tensor, trainer: L.Trainer) -> Tensor:
    """Return the network's input ``(B, C, H, W)`` of stored images, as a step of evaluation gets it."""
    device, precision = trainer.strategy.root_device, trainer.precision_plugin
    here = places.to(store.labels.device)
    stored = StoredBatch(store.take(here).to(device), store.labels[here].to(device), here.to(device), None)
    images: Tensor = precision.convert_input(data.on_after_batch_transfer(stored, 0)).images
    return images


def flush(cache: FeatureCache, pending: list[tuple[Tensor, Tensor]]) -> None:
    """Write what was computed, and forget it."""
    if pending:
        keys, features = (torch.cat(parts) for parts in zip(*pending, strict=True))
        cache.add(keys, features)
        pending.clear()


def progress(total: int, done: int) -> Progress:
    """Return a bar with the time that is left, shown if the output is a terminal."""
    console = get_console()
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal or console.is_dumb_terminal,
    )
    bar.add_task("features of the backbone", total=total, completed=done)
    return bar


def _some(store: Store) -> Tensor:
    return store.take(torch.zeros(1, dtype=torch.int64, device=store.labels.device))
