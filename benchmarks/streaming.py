"""Measure reading more images than memory holds, beside torchvision's ``ImageFolder`` and ``DataLoader`` in one run.

The files are generated JPEGs of ImageNet's usual size, 500x375 pixels and about 110 KB, and are in the system's cache.
All give shuffled batches of the same pixels, uint8 at the stated size: the package from the originals and from prepared
shards, with threads; torchvision with 2 worker processes. The profile says where the time of one image goes, and what
other decoders would take. ``--memory`` measures the memory of sets of several sizes, preparation included.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import (
    Bench,
    Step,
    Worker,
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
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import Compose, PILToTensor, Resize
from typing_extensions import override

from capsule_lightning.augmentations.identity import NoAugmentation
from capsule_lightning.data.image_folder import ImageFolderDataModule
from capsule_lightning.data.pictures import Reading, read_picture
from capsule_lightning.data.storage import Storage

SIZE = (375, 500)
"""Rows and columns of the files: the most frequent size in ImageNet."""
CLASSES = 10


def generate(root: Path, count: int, size: tuple[int, int], seed: int, different: int | None = None) -> None:
    """Write JPEGs with structure at every scale, as photographs have, into class folders.

    Args:
        root: where to.
        count: how many files.
        size: rows and columns.
        seed: of the pixels.
        different: how many pictures; further files are links to these. None for as many as files.
    """
    random, made = np.random.default_rng(seed), []
    rows, columns = size
    for number in range(count):
        path = root / f"class{number % CLASSES}" / f"{number:07d}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        if different is not None and number >= different:
            os.link(made[number % different], path)
            continue
        pixels = np.zeros((rows, columns, 3), dtype=np.float32)
        for scale in (2, 4, 8, 16, 32, 64, 128):
            coarse = random.normal(size=(rows // scale + 2, columns // scale + 2, 3)).astype(np.float32)
            planes = [Image.fromarray(plane) for plane in coarse.transpose(2, 0, 1)]
            smooth = [np.asarray(plane.resize((columns, rows), Image.Resampling.BICUBIC)) for plane in planes]
            pixels += 19 * scale**0.1 * np.stack(smooth, axis=2)
        picture = Image.fromarray((pixels + 128).clip(0, 255).astype(np.uint8))
        picture.save(path, quality=90)
        made.append(path)


def module(root: Path, side: int, batch_size: int, storage: Storage) -> ImageFolderDataModule:
    """Return the package's data, opened and ready to train on: all images but ten to test on."""
    data = ImageFolderDataModule(
        str(root),
        image_size=(side, side),
        test_size=CLASSES,
        val_size=0,
        batch_size=batch_size,
        augmentation=NoAugmentation,
        storage=storage,
    )
    data.prepare_data()
    data.setup("fit")
    return data


class PackagePath(Workload):
    """One epoch of the package's training batches.

    Args:
        root: folder of class folders.
        side: rows and columns of a picture.
        batch_size: images a batch.
        storage: where the pictures are.
        most: most batches; None for a whole epoch.
    """

    def __init__(
        self, root: Path, side: int, batch_size: int, storage: Storage = "originals", most: int | None = None
    ) -> None:
        self.root, self.side, self.batch_size, self.storage, self.most = root, side, batch_size, storage, most

    @override
    def build(self, device: torch.device) -> Step:
        begun = time.perf_counter()
        data = module(self.root, self.side, self.batch_size, self.storage)
        self.seconds = time.perf_counter() - begun
        loader = data.train_dataloader()
        self.images = len(loader) * self.batch_size

        def epoch() -> None:
            loader.set_epoch(loader.epoch + 1)
            for number, _ in enumerate(loader, 1):
                if number == self.most:
                    return

        return epoch

    @override
    def facts(self) -> dict[str, Any]:
        return {"images": self.images, "seconds_before": self.seconds}


class Classes(ImageFolder):
    """`ImageFolder` without hidden folders, such as the one in which the package keeps shards."""

    @override
    def find_classes(self, directory: str | Path) -> tuple[list[str], dict[str, int]]:
        names = sorted(path.name for path in Path(directory).glob("class*"))
        return names, {name: number for number, name in enumerate(names)}


class ImageFolderPath(PackagePath):
    """One epoch of `ImageFolder` and a `DataLoader` whose 2 worker processes persist between epochs."""

    @override
    def build(self, device: torch.device) -> Step:
        data = Classes(str(self.root), Compose([Resize((self.side, self.side)), PILToTensor()]))
        loader = DataLoader(data, self.batch_size, shuffle=True, num_workers=2, drop_last=True, persistent_workers=True)
        self.images, self.seconds = len(loader) * self.batch_size, 0.0

        def epoch() -> None:
            for _ in loader:
                pass

        return epoch


def throughput(root: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure images a second from the originals, from shards, and of torchvision, in turns."""
    options = (root, arguments.side, arguments.batch_size)
    workloads: dict[str, Workload] = {
        "originals": PackagePath(*options, "originals"),
        "shards": PackagePath(*options, "shards"),
        "image_folder": ImageFolderPath(*options),
    }
    require_equal_pixels(*options)
    benches = {name: Bench(setting(arguments)) for name in workloads}
    for name, workload in workloads.items():
        benches[name].start(workload)
    times = interleave(benches, arguments.repeats, arguments.warmup, inner=1)
    facts = {name: bench.summary() for name, bench in benches.items()}
    rates = {name: [1000 * facts[name]["images"] / ms for ms in found] for name, found in times.items()}
    return {
        "images": {name: each["images"] for name, each in facts.items()},
        "images_per_s": {name: spread(found) for name, found in rates.items()},
        "ratio": {name: ratio(rates[name], rates["image_folder"]) for name in ("originals", "shards")},
    }


def require_equal_pixels(root: Path, side: int, batch_size: int) -> None:
    """Stop unless all arms give the same pixels for the same files."""
    theirs = Classes(str(root), Compose([Resize((side, side)), PILToTensor()]))
    place = {Path(path).relative_to(root): number for number, (path, _) in enumerate(theirs.samples)}
    for storage in ("originals", "shards"):
        data = module(root, side, batch_size, storage)
        some = torch.arange(0, len(data.store("train")), 37)
        files = data.files_of("train") or []
        for index, picture in zip(some.tolist(), data.store("train").take(some), strict=True):
            assert torch.equal(picture, theirs[place[files[index]]][0]), f"{files[index]} differs"


def profile(root: Path, side: int, count: int = 100) -> dict[str, Any]:
    """Return milliseconds an image of each part of decoding, in one thread, and of other decoders."""
    paths = sorted(root.glob("class*/*.JPEG"))[:count]
    contents = [path.read_bytes() for path in paths]
    tensors = [torch.frombuffer(bytearray(content), dtype=torch.uint8) for content in contents]
    decoded = [Image.open(path).convert("RGB") for path in paths]

    def full(path: Path) -> Image.Image:
        with Image.open(path) as image:
            return image.convert("RGB")

    def draft(path: Path) -> Image.Image:
        with Image.open(path) as image:
            image.draft("RGB", (side, side))
            return image.convert("RGB")

    def torchvision(content: torch.Tensor) -> torch.Tensor:
        return decode_jpeg(content, mode=ImageReadMode.RGB)

    def resized(image: Image.Image) -> Image.Image:
        return image.resize((side, side), Image.Resampling.BILINEAR)

    def ours(path: Path) -> np.ndarray | None:
        return read_picture(path, 3, (side, side), True, Reading())[0]

    parts: dict[str, tuple[Callable[[Any], object], list[Any]]] = {
        "read_the_file": (Path.read_bytes, paths),
        "decode_pillow": (full, paths),
        "decode_pillow_draft": (draft, paths),
        "decode_torchvision": (torchvision, tensors),
        "resize": (resized, decoded),
        "read_picture": (ours, paths),
    }
    found: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(5):
        for name, (function, inputs) in parts.items():
            begun = time.perf_counter()
            for each in inputs:
                function(each)
            found[name].append(1000 * (time.perf_counter() - begun) / len(inputs))
    whole = [np.asarray(resized(image)).astype(int) for image in decoded]
    drafts = [np.asarray(resized(draft(path))).astype(int) for path in paths]
    theirs = [torchvision(tensor).movedim(0, -1).numpy().astype(int) for tensor in tensors]
    others = [np.asarray(image) - other for image, other in zip(decoded, theirs, strict=True)]
    return {
        "ms_per_image": {name: spread(values) for name, values in found.items()},
        "bytes_per_file": sum(map(len, contents)) / len(contents),
        "draft_differs_by": float(np.mean([np.abs(a - b).mean() for a, b in zip(whole, drafts, strict=True)])),
        "torchvision_differs_by": float(np.mean([np.abs(each).mean() for each in others])),
    }


def memory(counts: list[int], arguments: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Return the peak of memory above the runtime, preparation and 100 batches, for sets of several sizes."""
    found = []
    for count in counts:
        root = folder / str(count)
        generate(root, count, (45, 60), arguments.seed, different=1000)
        for storage in arguments.storages:
            with Worker(setting(arguments)) as worker:
                worker.send("start", PackagePath(root, arguments.memory_side, arguments.batch_size, storage, most=100))
                worker.receive()
                worker.turn(1)
                facts = worker.summary()
            pixels = count * 3 * arguments.memory_side**2 / 2**20
            row = {"images": count, "storage": storage, "peak_mib": facts["peak_mib"], "pixels_mib": pixels}
            found.append({**row, "seconds_before": facts["seconds_before"]})
            print(found[-1], flush=True)
    return found


def options() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parsed = parser("streaming", __doc__)
    add_turns(parsed, repeats=7, warmup=1)
    parsed.set_defaults(device="cpu")
    parsed.add_argument("--images", type=int, default=1000, help="files to time, 0 for none (default: %(default)s)")
    parsed.add_argument("--side", type=positive, default=224, help="rows and columns read (default: %(default)s)")
    parsed.add_argument("--batch_size", type=positive, default=64, help="images a batch (default: %(default)s)")
    parsed.add_argument("--memory", type=positive, nargs="*", default=[10_000, 100_000], help="sizes of sets to weigh")
    parsed.add_argument("--memory_side", type=positive, default=32, help="their sides (default: %(default)s)")
    parsed.add_argument("--storages", nargs="+", default=["originals", "shards"], help="where their pictures are")
    return parsed


def main() -> None:
    """Measure, print, write the JSON."""
    arguments = options().parse_args()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        if arguments.images:
            root = Path(folder) / "timed"
            generate(root, arguments.images + CLASSES, SIZE, arguments.seed)
            results |= {"profile": profile(root, arguments.side), **throughput(root, arguments)}
            for name, found in results["profile"]["ms_per_image"].items():
                print(f"{name}: {found['median']:.2f} ms an image")
            for name, rate in results["images_per_s"].items():
                print(f"{name}: {rate['median']:,.0f} images/s", flush=True)
            print({name: round(found["median"], 2) for name, found in results["ratio"].items()}, flush=True)
        results["memory"] = memory(arguments.memory, arguments, Path(folder))
    write(arguments, results)


if __name__ == "__main__":
    main()
