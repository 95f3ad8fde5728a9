"""Boxes from the text files of YOLO: ``labels/a.txt`` for ``images/a.jpg``, a line for each object.

Redmon & Farhadi's Darknet (https://pjreddie.com/darknet/yolo) and its successors. A line has the number of the class,
then column and row of the center, width and height, as shares of the image.
"""

from __future__ import annotations

from pathlib import Path

from capsule_lightning.data.box_files import Annotated, Box, BoxSet, number, require_few, text_of
from capsule_lightning.data.image_trees import find_images
from capsule_lightning.data.regular_files import kind_of
from capsule_lightning.errors import InputError, require

MOST_BYTES = 10 * 2**20
CLASSES = "classes.txt"
"""File with the names of the classes, one a line."""
_ROUNDING = 1e-3  # by which an edge may lie outside of the image: files have few digits

MOST_CLASSES = 10_000
"""Classes whose numbers are believed: a network has a capsule for each, up to the greatest."""


def read_yolo(folder: Path, pictures: Path | None = None) -> BoxSet:
    """Read boxes; an image without a text file, or with an empty one, has none.

    Args:
        folder: has ``labels`` and, if there is one, ``classes.txt``.
        pictures: folder of the images; None for ``images`` beside ``labels``.

    Raises:
        InputError: names the file and the line that is something else.
    """
    labels, pictures = folder / "labels", pictures or folder / "images"
    require(kind_of(pictures) == "folder", f"{pictures}: {kind_of(pictures)}; expected the folder of the images")
    names = None
    if kind_of(folder / CLASSES) == "file":
        text = text_of(folder / CLASSES, MOST_BYTES, "names of classes, one a line")
        names = [line.strip() for line in text.splitlines() if line.strip()]
        require(len(set(names)) == len(names) > 0, f"{folder / CLASSES}: expected a name for each class, all different")
    images = []
    files = find_images(pictures).images
    expected = set()
    for path in files:
        stated = labels / path.relative_to(pictures).with_suffix(".txt")
        expected.add(stated)
        boxes = read_lines(stated, names) if kind_of(stated) == "file" else []
        images.append(Annotated(path, boxes, None, str(stated)))
    lonely = sorted(path for path in labels.rglob("*.txt") if path not in expected and path.name != CLASSES)
    if lonely:
        raise InputError(f"{lonely[0]}: there is no image {lonely[0].stem} in {pictures} ({len(lonely)} such files)")
    return BoxSet(images, names, relative=True)


def read_lines(path: Path, names: list[str] | None) -> list[Box]:
    """Return the boxes of a file, in shares of the image.

    Raises:
        InputError: names the line.
    """
    boxes = []
    for n, line in enumerate(text_of(path, MOST_BYTES, "lines of YOLO").splitlines(), start=1):
        source, words = f"{path}: line {n}", line.split()
        if not words:
            continue
        require(
            len(words) == 5,
            f"{source} has {len(words)} numbers: expected 5, the class, then column and row of the center, width and "
            "height as shares of the image",
        )
        label = number(words[0], f"{source}, class")
        require(
            label == int(label) and 0 <= label < MOST_CLASSES,
            f"{source}, class={words[0]}: expected a whole number from 0 to {MOST_CLASSES - 1:,}",
        )
        if names is not None:
            require(
                label < len(names), f"{source}, class={words[0]}: {CLASSES} names {len(names)}, expected a lower number"
            )
        column, row, width, height = (
            number(word, f"{source}, {field}")
            for word, field in zip(words[1:], ("column", "row", "width", "height"), strict=True)
        )
        require(
            all(0 <= value <= 1 + _ROUNDING for value in (column, row, width, height)),
            f"{source}: {' '.join(words[1:])}: expected shares of the image, from 0 to 1, and not pixels",
        )
        edges = (column - width / 2, row - height / 2, column + width / 2, row + height / 2)
        boxes.append(Box(edges, names[int(label)] if names else str(int(label))))
    require_few(boxes, str(path))
    return boxes
