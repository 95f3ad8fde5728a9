"""Measure the package's data path with augmentation beside the usual one, a picture at a time, in the same run.

The result is images per second over whole epochs. The package indexes a tensor in memory and augments a batch at a
time; the usual way makes a PIL image of every sample, applies torchvision's transforms to it and collates, in 2 worker
processes. MNIST is shifted by up to 2 pixels; CIFAR-10 is cropped from a padded image, mirrored and normalized.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from measure import (
    Bench,
    Step,
    Workload,
    add_turns,
    interleave,
    parser,
    positive,
    ratio,
    setting,
    spread,
    write,
)
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import Compose, Normalize, RandomCrop, RandomHorizontalFlip, ToTensor
from typing_extensions import override

from capsule_lightning.augmentations.geometry import PaddedCrop, Shift
from capsule_lightning.data import prepared
from capsule_lightning.data.cifar import CIFAR10DataModule
from capsule_lightning.data.mnist import MNISTDataModule
from capsule_lightning.data.named import NamedDataModule
from capsule_lightning.errors import InputError


class Case(NamedTuple):
    """A data set and its augmentation, in the package and in torchvision.

    Attributes:
        module: makes the data module from the options that all data modules have.
        images: number of images in the real training set.
        transform: augments a PIL image and converts it to a tensor.
    """

    module: Callable[..., NamedDataModule]
    images: int
    transform: Callable[[Image.Image], Tensor]


_mean, _deviation = CIFAR10DataModule.statistics or ((), ())
CASES = {
    "mnist": Case(
        partial(MNISTDataModule, augmentation=partial(Shift, pixels=2), normalization="none"),
        60_000,
        Compose([RandomCrop(28, padding=2), ToTensor()]),
    ),
    "cifar10": Case(
        partial(CIFAR10DataModule, augmentation=partial(PaddedCrop, padding=4, flip=True), normalization="channel"),
        50_000,
        Compose([RandomCrop(32, padding=4), RandomHorizontalFlip(), ToTensor(), Normalize(_mean, _deviation)]),
    ),
}


class PackagePath(Workload):
    """One epoch of the package's training batches, augmented on the device.

    Args:
        name: of the case.
        root: folder of the data.
        batch_size: images a batch.
    """

    def __init__(self, name: str, root: str, batch_size: int) -> None:
        self.name, self.root, self.batch_size = name, root, batch_size

    @override
    def build(self, device: torch.device) -> Step:
        data = CASES[self.name].module(root=self.root, batch_size=self.batch_size, val_size=0, download=False)
        data.setup("fit")
        self.images = data.steps_per_epoch * self.batch_size
        loader = data.train_dataloader()

        def epoch() -> None:
            loader.set_epoch(loader.epoch + 1)
            for stored in loader:
                data.on_after_batch_transfer(data.transfer_batch_to_device(stored, device, 0), 0)

        return epoch

    @override
    def facts(self) -> dict[str, Any]:
        return {"images": self.images}


class PerSamplePath(PackagePath):
    """One epoch of the usual ``DataLoader``, whose worker processes persist between epochs."""

    @override
    def build(self, device: torch.device) -> Step:
        case = CASES[self.name]
        loader = DataLoader(
            PILImages(*case.module(root=self.root, download=False).load("train"), case.transform),
            self.batch_size,
            shuffle=True,
            num_workers=2,
            drop_last=True,
            pin_memory=device.type == "cuda",
            persistent_workers=True,
        )
        self.images = len(loader) * self.batch_size

        def epoch() -> None:
            for images, labels in loader:
                images.to(device, non_blocking=True)
                labels.to(device, non_blocking=True)

        return epoch


class PILImages(Dataset[tuple[Tensor, int]]):
    """Decoded images that are converted to PIL images and transformed on access, as in torchvision's data sets.

    Args:
        images: ``(N, C, H, W)`` uint8.
        labels: ``(N)``.
        transform: transforms a PIL image.
    """

    def __init__(self, images: Tensor, labels: Tensor, transform: Callable[[Image.Image], Tensor]) -> None:
        pixels = images.squeeze(1) if images.shape[1] == 1 else images.movedim(1, -1)
        self.pixels = np.ascontiguousarray(pixels.numpy())
        self.labels, self.transform = labels.tolist(), transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[index])), self.labels[index]


@contextmanager
def found_or_generated(name: str, root: Path | None, images: int | None) -> Iterator[tuple[str, str]]:
    """Yield the folder of the data and their origin: ``files``, or ``generated`` for the time of the context."""
    case = CASES[name]
    data = case.module(root=None if root is None else str(root), download=False)
    if images is None:
        try:
            data.load("train")
            yield str(data.root), "files"
            return
        except InputError:
            pass
    with tempfile.TemporaryDirectory() as folder:
        count = images or case.images
        random = torch.Generator().manual_seed(0)
        pixels = torch.randint(256, (count, *data.stored_shape), dtype=torch.uint8, generator=random)
        labels = torch.arange(count) % data.num_classes
        prepared.save(Path(folder) / "prepared" / name / "train", prepared.Images(pixels, labels))
        yield folder, "generated"


def measure(name: str, benches: dict[str, Bench], arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure both paths on one data set."""
    with found_or_generated(name, arguments.root, arguments.images) as (root, source):
        workloads: dict[str, Workload] = {
            "package": PackagePath(name, root, arguments.batch_size),
            "per_sample": PerSamplePath(name, root, arguments.batch_size),
        }
        for path, workload in workloads.items():
            benches[path].start(workload)
        times = interleave(benches, arguments.repeats, arguments.warmup, inner=1)
        images = {path: bench.summary()["images"] for path, bench in benches.items()}
    rates = {path: [1000 * images[path] / ms for ms in found] for path, found in times.items()}
    return {
        "source": source,
        "images": images,
        "images_per_s": {path: spread(found) for path, found in rates.items()},
        "ratio": ratio(rates["package"], rates["per_sample"]),
    }


def options() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parsed = parser("data", __doc__)
    add_turns(parsed, repeats=5, warmup=1)
    parsed.set_defaults(device="cpu")
    parsed.add_argument(
        "--root",
        type=Path,
        help="folder of the data, else $CAPSULE_LIGHTNING_DATA, else data; where there are "
        "none, images of the same shape are generated",
    )
    parsed.add_argument("--images", type=positive, help="generate so many, whatever the folder holds")
    parsed.add_argument("--datasets", nargs="+", choices=CASES, default=list(CASES), help="default: both")
    parsed.add_argument("--batch_size", type=positive, default=128, help="images a batch (default: %(default)s)")
    return parsed


def main() -> None:
    """Measure, print a table, write the JSON."""
    arguments = options().parse_args()
    results = {}
    benches = {path: Bench(setting(arguments)) for path in ("package", "per_sample")}
    for name in arguments.datasets:
        found = measure(name, benches, arguments)
        rates = {path: f"{rate['median']:,.0f}" for path, rate in found["images_per_s"].items()}
        print(f"{name} ({found['source']}): images/s {rates}, ratio {found['ratio']['median']:.1f}", flush=True)
        results[name] = found
    write(arguments, results)


if __name__ == "__main__":
    main()
