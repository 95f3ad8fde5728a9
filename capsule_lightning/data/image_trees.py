"""Find image files in trees of class folders; nothing is left out in silence."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from capsule_lightning.data.image_files import NAMED, SUFFIXES, unreadable
from capsule_lightning.data.path_lists import PathList
from capsule_lightning.data.pictures import UnreadableImageError
from capsule_lightning.data.regular_files import kind_of
from capsule_lightning.errors import InputError, first_line, printable, require

REMEDY = "remove it, or set --data.skip_damaged true"

Walked = dict[tuple[int, int], Path]
"""The folders walked through so far, by what the file system tells them apart by."""


class Found(NamedTuple):
    """What lies below a folder, without hidden files and folders.

    Attributes:
        images: the image files, in order of their paths.
        others: files whose names do not end as those of images.
        odd: what has the name of an image but is not a file, and links that lead nowhere or in a circle.
    """

    images: PathList
    others: list[Path]
    odd: list[UnreadableImageError]


class ClassTree(NamedTuple):
    """Image files in a tree of class folders.

    Attributes:
        paths: the N files.
        labels: class number of each file.
        class_names: names of the classes, as they can be printed.
        others: files that are left out because they are not images or lie in no class folder.
        odd: what is left out because it is not a file, though its name is one of an image.
        groups: what must stay together of each file, such as its patient; empty if nothing must.
        sets: the classes of each file if it may have any number, in ascending order, ``labels`` being 0 then; else
            empty.
        weights: how much each file counts in the loss; empty if all count the same.
    """

    paths: PathList
    labels: list[int]
    class_names: list[str]
    others: Sequence[Path] = ()
    odd: Sequence[UnreadableImageError] = ()
    groups: Sequence[str] = ()
    sets: Sequence[tuple[int, ...]] = ()
    weights: Sequence[float] = ()

    def counts(self) -> Counter[int]:
        """Return how many files are of each class."""
        return Counter(label for each in self.sets for label in each) if self.sets else Counter(self.labels)

    def some(self, numbers: Sequence[int]) -> ClassTree:
        """Return the tree with some of its files."""
        return self._replace(
            paths=self.paths.some(numbers),
            labels=[self.labels[n] for n in numbers],
            groups=[self.groups[n] for n in numbers] if self.groups else (),
            sets=[self.sets[n] for n in numbers] if self.sets else (),
            weights=[self.weights[n] for n in numbers] if self.weights else (),
        )


def find_images(folder: Path, walked: Walked | None = None) -> Found:
    """Find the image files below a folder; links to files and folders are followed.

    Args:
        folder: where to look.
        walked: the folders walked through before, which no link may lead to again; gets those of this call.

    Raises:
        InputError: a folder cannot be read.
    """
    walked = {} if walked is None else walked
    images, others, odd = list[str](), list[Path](), list[UnreadableImageError]()
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        entries, before = _list(here, walked)
        if before is not None:
            reason = f"leads to {before}, whose images are read already"
            odd.append(UnreadableImageError(here, reason, REMEDY))
        for entry in entries:
            kind, is_image = _kind(entry), entry.name.lower().endswith(SUFFIXES)
            if kind == "file" and is_image:
                images.append(entry.path.removeprefix("./"))  # text: a path takes ten times as much memory
                continue
            path = Path(entry.path)
            if kind == "folder" and not is_image:
                waiting.append(path)
            elif is_image or (entry.is_symlink() and not path.suffix):
                reason = f"cannot be read ({kind})" if " " in kind else f"is a {kind}, not an image file"
                odd.append(UnreadableImageError(path, reason, REMEDY))
            else:
                others.append(path)
    images.sort(key=lambda text: text.replace(os.sep, "\0"))  # as paths are sorted, folder by folder
    others.sort()
    return Found(PathList(images), others, odd)


def image_paths(folder: Path) -> list[Path]:
    """Return all image files below a folder, in order of their paths, without hidden files and folders.

    Raises:
        InputError: a folder cannot be read, or something with the name of an image is not a file.
    """
    found = find_images(folder)
    if found.odd:
        raise unreadable(found.odd)
    return list(found.images)


def class_folders(folder: Path) -> list[str]:
    """Return the names of the class folders in a folder, in alphabetical order.

    Raises:
        InputError: the folder cannot be read.
    """
    return sorted(entry.name for entry in _list(folder, {})[0] if _kind(entry) == "folder")


def in_order(names: Iterable[str]) -> list[str]:
    """Return the different names in alphabetical order, or in that of their numbers if all are whole numbers.

    Example:
        >>> in_order(["10", "2", "2"]), in_order(["b", "10", "a"])
        (['2', '10'], ['10', 'a', 'b'])
    """
    different = sorted(set(names))
    numbers = all(name.removeprefix("-").isdecimal() for name in different)
    return sorted(different, key=int) if numbers else different


def class_tree(
    folder: Path,
    class_names: Sequence[str] | None = None,
    *,
    nested: bool = True,
    skip_odd: bool = False,
    walked: Walked | None = None,
) -> ClassTree:
    """Find the image files ``<folder>/<class>/**``.

    Args:
        folder: the tree.
        class_names: names of the classes, in the order of their numbers; None for the names of the folders, see
            `in_order`.
        nested: accept a tree in which every image lies in a folder below its class folder.
        skip_odd: leave out what is not a file though its name is one of an image, instead of refusing all.
        walked: see `find_images`.

    Raises:
        InputError: there are no class folders, other ones than expected, or one without images; something with the name
            of an image is not a file.
    """
    walked = {} if walked is None else walked
    entries, _ = _list(folder, {})
    names = class_folders(folder)
    folders = {printable(name): name for name in names}
    require(folders, f"{folder}: no class folders; expected {folder}/<class>/<image>")
    require(len(folders) == len(names), f"{folder}: class folders whose names look the same; rename one of them")
    if class_names is None:
        class_names = in_order(folders)
    elif set(folders) != set(class_names):
        wrong = sorted(set(folders) ^ set(class_names))
        raise InputError(
            f"{folder}: expected the class folders {', '.join(class_names)}; differing: {', '.join(wrong)}"
        )
    tree = ClassTree(PathList(), [], list(class_names), [], [])
    others = [Path(entry.path) for entry in entries if _kind(entry) != "folder"]
    odd: list[UnreadableImageError] = []
    for label, name in enumerate(class_names):
        found = find_images(folder / folders[name], walked)
        odd += found.odd
        require(
            found.images or (found.odd and not skip_odd),
            f"{folder / name}: the class folder is empty; put images ({', '.join(SUFFIXES)}) into it or remove it",
        )
        tree.paths.extend(found.images.texts())
        tree.labels.extend([label] * len(found.images))
        others += found.others
    if odd and not skip_odd:
        raise unreadable(odd)
    direct = any(path.parent == folder / folders[tree.class_names[n]] for path, n in zip(*tree[:2], strict=True))
    if not (nested or direct):
        raise InputError(
            f"{folder}: its folders {', '.join(tree.class_names[:NAMED])} hold folders and no images; expected "
            f"{folder}/<class>/<image>, or {folder}/{{train,test}}/<class>/<image>; if they are the classes, set "
            "--data.split_folders false"
        )
    return tree._replace(others=others, odd=odd)


def joined(first: ClassTree, second: ClassTree) -> ClassTree:
    """Return the files of two trees of the same classes."""
    return ClassTree(
        PathList(chain(first.paths.texts(), second.paths.texts())),
        first.labels + second.labels,
        first.class_names,
        [*first.others, *second.others],
        [*first.odd, *second.odd],
        [*first.groups, *second.groups],
        [*first.sets, *second.sets],
        [*first.weights, *second.weights],
    )


def fingerprint(paths: Iterable[Path], folder: Path, mark: str = "") -> str:
    """Return a hash of the names, sizes and times of files.

    It changes if a file changes, and stays the same if the folder moves.

    Args:
        paths: the files.
        folder: the folder that their names are relative to.
        mark: what else changes it, such as the way in which the files are read.

    Raises:
        InputError: a file does not exist, such as the target of a link.
    """
    digest = hashlib.sha256(mark.encode())
    for path in paths:
        try:
            status = path.stat()
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); replace or remove it") from error
        digest.update(os.fsencode(path.relative_to(folder)) + f"\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _list(folder: Path, walked: Walked) -> tuple[list[os.DirEntry[str]], Path | None]:
    """Return what lies in a folder, or nothing and the path by which it has been walked through before."""
    try:
        status = folder.stat()
        before = walked.setdefault((status.st_dev, status.st_ino), folder)
        if before is not folder:
            return [], before
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")], None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise InputError(f"{folder}: cannot be read ({reason}); expected a folder of images") from error


def _kind(entry: os.DirEntry[str]) -> str:
    """Return what an entry of a folder leads to, see `kind_of`; the file system is only asked where it must be."""
    if not entry.is_symlink():
        if entry.is_file():
            return "file"
        if entry.is_dir():
            return "folder"
    return kind_of(entry.path)
