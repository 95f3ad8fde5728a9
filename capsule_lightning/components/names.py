"""Names of the classes that a config may name: short ones, dotted ones, and those of files saved earlier."""

from __future__ import annotations

import pkgutil
import re
from functools import cache
from importlib import import_module
from typing import Any

from capsule_lightning.shipped import PACKAGE, PROGRAM

# What a config fills with a class: the folder of the classes, and what they derive from.
SLOTS = {
    "--data": (
        "data",
        "ImageDataModule",
        "NamedDataModule",
        "ListedImagesDataModule",
        "PartedImagesDataModule",
        "AnnotatedDataModule",
        "PairedMasksDataModule",
        "ListedMasksDataModule",
        "ListedBoxesDataModule",
        "JointDataModule",
        "TextDataModule",
        "RelationDataModule",
    ),
    "--data.augmentation": ("augmentations", "Augmentation"),
    "--model.net": (
        "models",
        "CapsuleNet",
        "SegmentationNet",
        "Detector",
        "PoseNet",
        "RelationNet",
        "TextNet",
        "WordNet",
    ),
    "--model.net.encoder": ("encoders", "Encoder", "MapEncoder", "FeatureEncoder"),
    "--model.net.routing": ("routing", "Routing", "MatrixRouting"),
    "--model.net.decoder": ("decoders", "Decoder"),
    "--model.loss": ("losses", "ClassificationLoss", "HeatMapLoss", "PixelLoss"),
    "--model.metrics": ("metrics", "Metrics"),
    "--model.lr_scheduler": ("", "Schedule"),
}
FOLDERS = (
    "augmentations",
    "callbacks",
    "data",
    "decoders",
    "encoders",
    "loggers",
    "losses",
    "metrics",
    "models",
    "routing",
    "tasks",
)
"""The folders whose modules define a class that a config may name."""
ABSTRACT = (
    "annotated",
    "base",
    "joints",
    "listed_boxes",
    "listed_images",
    "listed_masks",
    "named",
    "paired_masks",
    "parted_images",
    "pose",
    "relations",
    "segmentation",
    "text",
    "words",
)
"""Modules of classes that others derive from."""
OLD_NAMES = {"normalisation": "normalization"}
"""Names of arguments and of metadata in files that were written before the names changed."""


def class_names(slot: str) -> list[str]:
    """List the classes that the package offers for a slot, without importing them.

    Args:
        slot: a key of `SLOTS`.
    """
    folder, *bases = SLOTS[slot]
    pattern = re.compile(rf"^class (\w+)\((?:{'|'.join(bases)})\):", re.M)
    modules = (path for path in sorted((PACKAGE / folder).glob("*.py")) if path.stem not in ABSTRACT)
    return [name for module in modules for name in pattern.findall(module.read_text())]


@cache
def short_names() -> dict[str, str]:
    """Map the short name of every class of the package that a config may name to its module, without imports.

    Example:
        >>> short_names()["EMRouting"]
        'capsule_lightning.routing.em'
    """
    found: dict[str, str] = {}
    for folder in (*FOLDERS, ""):
        for path in sorted((PACKAGE / folder).glob("*.py")):
            module = ".".join(part for part in (PROGRAM, folder, path.stem) if part)
            found |= dict.fromkeys(re.findall(r"^class ([A-Z]\w*)", path.read_text(), re.M), module)
    return found


def modern_path(name: str) -> str:
    """Bring the dotted path of one of the package's classes up to date, if its module has moved since it was saved.

    Configs, checkpoints and shared networks name classes by their paths. Short names are unique in the package, so a
    path that leads nowhere any more is looked up by its last part.

    Example:
        >>> modern_path("capsule_lightning.data.augmentation.Affine")
        'capsule_lightning.augmentations.geometry.Affine'
    """
    module, _, short = name.rpartition(".")
    known = short_names().get(short)
    return f"{known}.{short}" if known and module.split(".")[0] == PROGRAM else name


def modernized(config: Any) -> Any:
    """Bring the class paths and the names of a saved configuration up to date, see `modern_path` and `OLD_NAMES`.

    Args:
        config: mappings, lists and plain values, as YAML or JSON holds them.
    """
    if isinstance(config, dict):
        return {
            OLD_NAMES.get(key, key): modern_path(value)
            if key == "class_path" and isinstance(value, str)
            else modernized(value)
            for key, value in config.items()
        }
    return [modernized(value) for value in config] if isinstance(config, list) else config


@cache
def import_components() -> None:
    """Import every module that defines a class a config may name, so that its short name is known."""
    for folder in FOLDERS:
        package = import_module(f"{PROGRAM}.{folder}")
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            import_module(module.name)
