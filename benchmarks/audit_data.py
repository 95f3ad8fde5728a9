"""Make a set of images as people have it, and a backbone for it, from class folders such as those of CIFAR-10.

    python benchmarks/audit_data.py CIFAR10/train audit --others CIFAR10/more

The set is a table, ``audit/labels.csv``, with the columns path, label and group. Its classes are unequal: each has the
same share fewer images than the one before it, in alphabetical order. A group is a series: images whose names differ in
the last two digits alone, of one class. The backbone is trained for a few epochs on other images, those of
``--others``, as part of a network without capsules, and written as ``audit/backbone.safetensors``, so that every run of
a study has the same. Without ``--others`` its weights are random, the same for the same seed.
"""

from __future__ import annotations

import argparse
import csv
import re
import shutil
import subprocess
import sys
from pathlib import Path

import safetensors.torch
import torch

from capsule_lightning.data.image_trees import class_tree
from capsule_lightning.encoders.backbone import timm_library

PREFIX = "net.encoder.backbone."
"""Of the backbone's tensors in a checkpoint."""


def counts(most: int, least: int, classes: int) -> list[int]:
    """Return how many images each class has, falling from ``most`` to ``least`` by the same factor.

    Example:
        >>> counts(800, 100, 4)
        [800, 400, 200, 100]
    """
    factor = (least / most) ** (1 / max(1, classes - 1))
    return [round(most * factor**n) for n in range(classes)]


def series(path: Path) -> str:
    """Return the group of an image.

    Example:
        >>> series(Path("airplane/biplane_s_000367.webp")), series(Path("cat/7.png"))
        ('airplane/biplane_s_0003', 'cat/')
    """
    return f"{path.parent.name}/{re.sub(r'[0-9]{1,2}$', '', path.stem)}"


def write_set(source: Path, folder: Path, most: int, least: int) -> Path:
    """Copy images of class folders and write their table.

    Raises:
        SystemExit: a class has too few images.
    """
    tree = class_tree(source)
    rows: list[tuple[str, str, str]] = []
    for number, (name, count) in enumerate(
        zip(tree.class_names, counts(most, least, len(tree.class_names)), strict=True)
    ):
        paths = sorted(path for path, label in zip(tree.paths, tree.labels, strict=True) if label == number)[:count]
        if len(paths) < count:
            raise SystemExit(f"{source}: {name} has {len(paths)} images, expected {count}; lower --most")
        for path in paths:
            place = folder / "images" / name / path.name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
            rows.append((place.relative_to(folder).as_posix(), name, series(place)))
    table = folder / "labels.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "label", "group"), *rows])
    return table


def write_backbone(path: Path, name: str, size: int, seed: int, others: Path | None, epochs: int) -> None:
    """Write the weights of a backbone, trained on other images or random.

    Raises:
        SystemExit: the training has failed.
    """
    torch.manual_seed(seed)
    weights = timm_library().create_model(name, num_classes=0).state_dict()
    if others is not None:
        words = [
            *("--config", "image_folder.yaml", "--data.root", others, "--config", "model/backbone_linear.yaml"),
            *("--model.net.encoder.name", name, "--model.net.encoder.size", f"[{size},{size}]"),
            *("--model.optimizer", "AdamW", "--model.optimizer.lr", "0.002", "--trainer.max_epochs", epochs),
            *("--data.normalization", "none", "--data.test_size", "0.02", "--data.val_size", "0.05"),
            *("--trainer.logger", "MetricsFile", "--seed_everything", seed),
            *("--runs", path.parent / "runs", "--experiment", "backbone", "--run_id", "backbone"),
        ]
        program = [sys.executable, "-m", "capsule_lightning", "fit", *map(str, words)]
        if subprocess.run(program, check=False).returncode:
            raise SystemExit("the backbone could not be trained")
        checkpoint = path.parent / "runs" / "backbone" / "backbone" / "checkpoints" / "last.ckpt"
        trained = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
        weights |= {key.removeprefix(PREFIX): value for key, value in trained.items() if key.startswith(PREFIX)}
    safetensors.torch.save_file({key: value.contiguous() for key, value in weights.items()}, path)


def main(words: list[str] | None = None) -> None:
    """Write the set and the backbone."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("source", type=Path, help="class folders of images")
    options.add_argument("folder", type=Path, help="where the set is written")
    options.add_argument("--most", type=int, default=600, help="images of the first class (default: %(default)s)")
    options.add_argument("--least", type=int, default=100, help="images of the last class (default: %(default)s)")
    options.add_argument("--others", type=Path, help="class folders of other images, to train the backbone on")
    options.add_argument("--epochs", type=int, default=8, help="epochs on the other images (default: %(default)s)")
    options.add_argument("--name", default="test_resnet", help="timm's name of the backbone (default: %(default)s)")
    options.add_argument(
        "--size", type=int, default=64, help="rows and columns that it is shown (default: %(default)s)"
    )
    options.add_argument("--seed", type=int, default=0, help="seed of the backbone (default: %(default)s)")
    given = options.parse_args(words)
    table = write_set(given.source, given.folder, given.most, given.least)
    backbone = given.folder / "backbone.safetensors"
    write_backbone(backbone, given.name, given.size, given.seed, given.others, given.epochs)
    print(f"wrote {table} and {backbone}")


if __name__ == "__main__":
    main()
