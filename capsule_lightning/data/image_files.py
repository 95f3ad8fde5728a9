"""Read image files and trees of class folders into one tensor."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from capsule_lightning.errors import InputError, require

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


class ClassTree(NamedTuple):
    """Image files in a tree of class folders.

    Attributes:
        paths: the N files.
        labels: class number of each file.
        class_names: names of the classes.
    """

    paths: list[Path]
    labels: list[int]
    class_names: list[str]


def image_paths(folder: Path) -> list[Path]:
    """Return all image files below a folder, in order of their paths, without hidden files and folders."""
    found: list[Path] = []
    for top, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(top) / name for name in names if not name.startswith(".")]
    return sorted(path for path in found if path.suffix.lower() in SUFFIXES)


def class_folders(folder: Path) -> list[str]:
    """Return the names of the class folders in a folder, in alphabetical order."""
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def class_tree(folder: Path, class_names: Sequence[str] | None = None) -> ClassTree:
    """Find the image files ``<folder>/<class>/**``.

    Args:
        folder: the tree.
        class_names: names of the classes, in the order of their numbers; None for the names of the folders, in
            alphabetical order.

    Raises:
        InputError: there are no class folders, other ones than expected, or one without images.
    """
    names = class_folders(folder)
    require(names, f"{folder}: no class folders; expected {folder}/<class>/<image>")
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
        require(
            found,
            f"{folder / name}: the class folder is empty; put images ({', '.join(SUFFIXES)}) into it or remove it",
        )
        paths += found
        labels += [label] * len(found)
    return ClassTree(paths, labels, list(class_names))


def fingerprint(paths: Iterable[Path], folder: Path) -> str:
    """Return a hash of the names, sizes and times of files.

    It changes if a file changes, and stays the same if the folder moves.

    Args:
        paths: the files.
        folder: the folder that their names are relative to.

    Raises:
        InputError: a file does not exist, such as the target of a link.
    """
    digest = hashlib.sha256()
    for path in paths:
        try:
            status = path.stat()
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); replace or remove it") from error
        digest.update(f"{path.relative_to(folder)}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def size_of(path: Path) -> tuple[int, int]:
    """Return the numbers of rows and columns of an image file.

    Raises:
        InputError: the file is not an image.
    """
    with _open_image(path) as image:
        return image.height, image.width


def read_images(paths: Sequence[Path], shape: tuple[int, int, int], resize: bool = False) -> Tensor:
    """Decode image files.

    Args:
        paths: N files with 8 or 16 bits for each channel.
        shape: ``(C, H, W)`` of the result; one channel for gray, three for color.
        resize: scale images of another size (bilinear, antialiased) instead of refusing them.

    Returns:
        ``(N, C, H, W)`` uint8.

    Raises:
        InputError: a file cannot be read or has another size; the message names it.
    """
    from PIL import Image

    channels, rows, columns = shape
    out = np.empty((len(paths), rows, columns, channels), dtype=np.uint8)

    def read(number: int) -> None:
        path = paths[number]
        with _open_image(path) as image:
            if image.mode.startswith("I;16"):  # which `convert` would clip at 255
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            elif image.mode in ("I", "F"):
                raise ValueError("32 bits a pixel, expected 8 or 16")
            image = image.convert("L" if channels == 1 else "RGB")
        if image.size != (columns, rows):
            if not resize:
                raise InputError(
                    f"{path}: {image.height}x{image.width} pixels; expected {rows}x{columns} like the others; scale "
                    "it, or all images of an image folder with --data.image_size"
                )
            image = image.resize((columns, rows), Image.Resampling.BILINEAR)
        out[number] = np.asarray(image).reshape(rows, columns, channels)

    with ThreadPoolExecutor() as pool:
        for _ in pool.map(read, range(len(paths))):
            pass
    return torch.from_numpy(out).permute(0, 3, 1, 2).contiguous()


@contextmanager
def _open_image(path: Path) -> Iterator[Image.Image]:
    from PIL import Image

    try:
        with Image.open(path) as image:
            yield image
    except (
        Exception
    ) as error:  # Pillow raises anything for a broken file: OSError, ValueError, SyntaxError, struct.error, ...
        raise InputError(f"{path}: cannot be read as an image ({error}); replace or remove it") from error
