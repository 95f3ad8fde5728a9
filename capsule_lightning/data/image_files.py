"""Image files and trees of class folders, read into one tensor."""

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

from capsule_lightning.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


class ClassTree(NamedTuple):
    """The image files of a folder of class folders: their paths, the class number of each, the classes' names."""

    paths: list[Path]
    labels: list[int]
    class_names: list[str]


def image_paths(folder: Path) -> list[Path]:
    """All image files below a folder, in order of their names; hidden files and folders are left out."""
    found: list[Path] = []
    for top, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(top) / name for name in names if not name.startswith(".")]
    return sorted(path for path in found if path.suffix.lower() in SUFFIXES)


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


def fingerprint(paths: Iterable[Path], folder: Path) -> str:
    """A hash of names, sizes and times of files below a folder: another when any changes, the same when all move.

    Raises:
        InputError: a file that is not there, such as the end of a link.
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
    """Rows and columns of an image file.

    Raises:
        InputError: a file that is no image.
    """
    with _opened(path) as image:
        return image.height, image.width


def read_images(paths: Sequence[Path], shape: tuple[int, int, int], resize: bool = False) -> Tensor:
    """Decode image files.

    Args:
        paths: the files, of 8 or 16 bits a channel.
        shape: ``(C, H, W)`` to read them as; one channel for gray, three for color.
        resize: scale images of another size (bilinear, antialiased) instead of refusing them.

    Returns:
        ``(N, C, H, W)`` uint8.

    Raises:
        InputError: an unreadable file, or one of another size; the file is named.
    """
    from PIL import Image

    channels, rows, columns = shape
    out = np.empty((len(paths), rows, columns, channels), dtype=np.uint8)

    def read(number: int) -> None:
        path = paths[number]
        with _opened(path) as image:
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
def _opened(path: Path) -> Iterator[Image.Image]:
    from PIL import Image

    try:
        with Image.open(path) as image:
            yield image
    except Exception as error:  # a broken file raises anything: OSError, ValueError, SyntaxError, struct.error, ...
        raise InputError(f"{path}: cannot be read as an image ({error}); replace or remove it") from error
