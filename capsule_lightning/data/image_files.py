"""Image files and trees of class folders, read into one tensor."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from capsule_lightning.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


class ClassTree(NamedTuple):
    """The image files of a folder of class folders: their paths, the class number of each, the classes' names."""

    paths: list[Path]
    labels: list[int]
    class_names: list[str]


def image_paths(folder: Path) -> list[Path]:
    """All image files below a folder, in order of their names."""
    found = (Path(top) / name for top, _, names in os.walk(folder) for name in names)
    return sorted(path for path in found if path.suffix.lower() in SUFFIXES and not path.name.startswith("."))


def class_folders(folder: Path) -> list[str]:
    """The names of the class folders of a folder, in order."""
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def class_tree(folder: Path, class_names: Sequence[str] | None = None) -> ClassTree:
    """Look through ``<folder>/<class>/**``.

    Args:
        folder: the tree.
        class_names: names in the order of their numbers; the folders' own names in order where None.

    Raises:
        InputError: no class folders, other classes than expected, or a class without images.
    """
    names = class_folders(folder)
    if not names:
        raise InputError(f"{folder}: no class folders; expected {folder}/<class>/<image>")
    if class_names is None:
        class_names = names
    elif set(names) != set(class_names):
        wrong = sorted(set(names) ^ set(class_names))
        raise InputError(
            f"{folder}: expected the class folders {', '.join(class_names)}; differing: {', '.join(wrong)}"
        )
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(class_names):
        found = image_paths(folder / name)
        if not found:
            raise InputError(
                f"{folder / name}: the class folder is empty; put images ({', '.join(SUFFIXES)}) into it or remove it"
            )
        paths += found
        labels += [label] * len(found)
    return ClassTree(paths, labels, list(class_names))


def fingerprint(paths: Iterable[Path]) -> str:
    """A hash of names, sizes and times of files: another one when anything in a tree changes."""
    digest = hashlib.sha256()
    for path in paths:
        status = path.stat()
        digest.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def image_size(path: Path) -> tuple[int, int]:
    """Rows and columns of an image file.

    Raises:
        InputError: a file that is no image.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return image.height, image.width
    except (UnidentifiedImageError, OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as an image ({error}); replace or remove it") from error


def read_images(paths: Sequence[Path], shape: tuple[int, int, int], resize: bool = False) -> Tensor:
    """Decode image files.

    Args:
        paths: the files.
        shape: ``(C, H, W)`` to read them as; one channel for grey, three for colour.
        resize: scale images of another size (bilinear, antialiased) instead of refusing them.

    Returns:
        ``(N, C, H, W)`` uint8.

    Raises:
        InputError: an unreadable file, or one of another size; the file is named.
    """
    from PIL import Image, UnidentifiedImageError

    channels, rows, columns = shape
    out = np.empty((len(paths), rows, columns, channels), dtype=np.uint8)

    def read(number: int) -> None:
        path = paths[number]
        try:
            with Image.open(path) as opened:
                image = opened.convert("L" if channels == 1 else "RGB")
        except (UnidentifiedImageError, OSError, ValueError) as error:
            raise InputError(f"{path}: cannot be read as an image ({error}); replace or remove it") from error
        if image.size != (columns, rows):
            if not resize:
                raise InputError(
                    f"{path}: {image.height}x{image.width} pixels; expected {rows}x{columns} like the others; "
                    "set --data.image_size to scale all images"
                )
            image = image.resize((columns, rows), Image.Resampling.BILINEAR)
        out[number] = np.asarray(image).reshape(rows, columns, channels)

    with ThreadPoolExecutor() as pool:
        for _ in pool.map(read, range(len(paths))):
            pass
    return torch.from_numpy(out).permute(0, 3, 1, 2).contiguous()
