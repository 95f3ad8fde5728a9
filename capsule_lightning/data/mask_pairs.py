"""Find images and their masks: two folders, or a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from capsule_lightning.data.image_table import parts_of
from capsule_lightning.data.image_trees import image_paths
from capsule_lightning.data.label_tables import files_in, read_table
from capsule_lightning.data.regular_files import kind_of
from capsule_lightning.data.split_folders import Part
from capsule_lightning.errors import InputError, require, some_of


class MaskPairs(NamedTuple):
    """Image files and their masks.

    Attributes:
        images: the N images.
        masks: of each image.
        parts: the split of each image that a table states; empty if none is stated.
        notes: what was left out.
    """

    images: list[Path]
    masks: list[Path]
    parts: list[Part]
    notes: list[str]


def pairs_in_folders(images: Path, masks: Path, mask_suffix: str = "") -> MaskPairs:
    """Pair the images of a folder with the masks of another that lie at the same place and are called the same.

    Args:
        images: folder of the images.
        masks: folder of the masks, which may end otherwise, such as ``.png``.
        mask_suffix: what the name of a mask has behind that of its image, such as ``_mask``.

    Raises:
        InputError: a folder is missing, no mask has an image, or two files are called the same but for their ending.
    """
    for folder, option in ((images, "pictures"), (masks, "masks")):
        require(kind_of(folder) == "folder", f"{option}={folder}: {kind_of(folder)}; expected a folder of image files")
    named = _by_name(images, "")
    found = _by_name(masks, mask_suffix)
    both = [name for name in named if name in found]
    require(
        both,
        f"{masks}: none of its {len(found):,} masks is called like one of the {len(named):,} images in {images} "
        f"(the first: {next(iter(found), 'none')} and {next(iter(named), 'none')}); see --data.mask_suffix",
    )
    notes = []
    for folder, rest, what in (
        (images, [path for name, path in named.items() if name not in found], "images have no mask"),
        (masks, [path for name, path in found.items() if name not in named], "masks have no image"),
    ):
        if rest:
            shown = some_of([str(path.relative_to(folder)) for path in rest], 3)
            notes.append(f"{len(rest):,} {what} and are left out: {shown}")
    return MaskPairs([named[name] for name in both], [found[name] for name in both], [], notes)


def pairs_in_table(table: Path) -> MaskPairs:
    """Return the images and masks that a table lists, in columns ``path`` and ``mask``, with ``split`` if it is there.

    Raises:
        InputError: a column or a file is missing, or a split is called otherwise than usual.
    """
    found = read_table(table)
    images, masks = files_in(found), files_in(found, "mask", "mask_column", "masks")
    parts: list[Part] = []
    if "split" in found.columns:
        parts = parts_of(found, found.column("split", "split"), "split")
    return MaskPairs(images, masks, parts, [])


def _by_name(folder: Path, suffix: str) -> dict[str, Path]:
    """The image files of a folder by their paths in it without ending; ``suffix`` is taken off, others are left out."""
    named: dict[str, Path] = {}
    for path in image_paths(folder):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if not name.endswith(suffix):
            continue
        name = name.removesuffix(suffix)
        if name in named:
            raise InputError(f"{path}: is called like {named[name].name}; expected one file of a name; remove one")
        named[name] = path
    return named


def chosen(pairs: MaskPairs, places: Sequence[int]) -> MaskPairs:
    """Return some of the pairs."""
    return MaskPairs([pairs.images[n] for n in places], [pairs.masks[n] for n in places], [], [])
