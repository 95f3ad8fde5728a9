"""Where the training, validation and test images of a tree lie."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from capsule_lightning.data.image_trees import class_folders
from capsule_lightning.errors import InputError, require

Part = Literal["train", "val", "test"]

USUAL: Mapping[Part, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
"""Names of folders that are usually splits, in small or capital letters."""
REMEDY = "if these are names of classes, set --data.split_folders false"


class SplitFolders(NamedTuple):
    """The trees of class folders that a data set consists of.

    Attributes:
        train: images to train on, and whatever has no tree of its own.
        val: images to validate on; None if they are held out of those to train on.
        test: images to test on; None if they are split off from those to train on.
        note: what was decided by a folder's name and may surprise; empty if nothing was.
    """

    train: Path
    val: Path | None = None
    test: Path | None = None
    note: str = ""


def find_splits(root: Path, split_folders: bool | None = None) -> SplitFolders:
    """Find the splits of a folder by the usual names, such as ``train``, ``Validation`` and ``testing``.

    A folder of such a name is a split if it holds folders, and a class if it holds images.

    Args:
        root: a folder of class folders, or of split folders that hold those.
        split_folders: whether the folders are splits; None to judge by their names and by what they hold.

    Raises:
        InputError: a split is missing or there twice, or folders of both kinds lie side by side.
    """
    names = class_folders(root)
    named = {split: [name for name in names if name.lower() in usual] for split, usual in USUAL.items()}
    candidates = [name for each in named.values() for name in each]
    if split_folders is False or not candidates:
        require(not split_folders, f"{root}: no folder train, as split_folders=true says; expected train and test")
        return SplitFolders(root)
    if split_folders is None and not any(class_folders(root / name) for name in candidates):
        return _classes(root, names, candidates)
    others = [name for name in names if name not in candidates]
    if others:
        raise InputError(
            f"{root}: {', '.join(candidates)} beside {', '.join(others[:10])}: expected either splits or classes; "
            f"{REMEDY}"
        )
    return _splits(root, named)


def _classes(root: Path, names: list[str], candidates: list[str]) -> SplitFolders:
    """Take folders that are called as splits are, but hold images, for classes."""
    if len(candidates) == len(names) > 1:
        raise InputError(
            f"{root}: {', '.join(candidates)} hold images and no class folders; expected "
            f"{root / candidates[0]}/<class>/<image>; {REMEDY}"
        )
    taken = ", ".join(candidates)
    return SplitFolders(root, note=f"{taken}: taken for a class like the others, as it holds images and no folders")


def _splits(root: Path, named: Mapping[Part, list[str]]) -> SplitFolders:
    for split, found in named.items():
        require(
            len(found) < 2, f"{root}: {' and '.join(found)} are both a {split} split; expected one, join or remove them"
        )
    paths = {split: root / found[0] if found else None for split, found in named.items()}
    train, val, test = paths["train"], paths["val"], paths["test"]
    if train is None:
        raise InputError(f"{root / 'train'}: no such folder; expected it beside {val or test}; {REMEDY}")
    if val is None and test is None:
        raise InputError(f"{root / 'test'}: no such folder; expected it beside {train}; {REMEDY}")
    return SplitFolders(train, val, test)
