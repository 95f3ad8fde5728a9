"""Boxes from the JSON of COCO, as `torchvision.datasets.CocoDetection` reads it.

Lin et al., Microsoft COCO: Common Objects in Context, ECCV 2014 (arXiv 1405.0312); https://cocodataset.org/#format-data.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from capsule_lightning.data.box_files import MOST_IMAGES, Annotated, Box, BoxSet, inside, number, require_few, text_of
from capsule_lightning.errors import InputError, require
from capsule_lightning.runs.plain_json import parse_json

MOST_BYTES = 2**30
"""Bytes of the longest file that is read; that of COCO 2017 has 448 million."""


def read_coco(path: Path, pictures: Path | None = None) -> BoxSet:
    """Read boxes; images without any are kept.

    Args:
        path: the JSON file.
        pictures: folder of the images; None for that of the file.

    Raises:
        InputError: names the file and the field that is missing or is something else.
    """
    text = text_of(path, MOST_BYTES, "COCO's JSON")
    found = parse_json(text, path, most=MOST_BYTES)
    if not isinstance(found, dict):
        raise InputError(f"{path}: holds a {type(found).__name__}, expected a mapping with images and annotations")
    folder = path.parent if pictures is None else pictures
    names = _categories(listed(found, "categories", path), path)
    images: dict[int, Annotated] = {}
    for n, image in enumerate(listed(found, "images", path)):
        source = f"{path}: images[{n}]"
        key = whole(image, "id", source)
        require(key not in images, f"{source}.id={key}: there is an image of this id before it; expected one of each")
        size = whole(image, "height", source), whole(image, "width", source)
        require(min(size) >= 1, f"{source}: height={size[0]}, width={size[1]}: expected at least 1 pixel")
        images[key] = Annotated(inside(folder, image.get("file_name"), f"{source}.file_name"), [], size, source)
    for n, annotation in enumerate(listed(found, "annotations", path)):
        source = f"{path}: annotations[{n}]"
        key, category = whole(annotation, "image_id", source), whole(annotation, "category_id", source)
        require(key in images, f"{source}.image_id={key}: there is no image of this id")
        require(category in names, f"{source}.category_id={category}: there is no category of this id")
        box: Any = annotation.get("bbox")
        crowd = annotation.get("iscrowd", 0)
        require(
            isinstance(box, list) and len(box) == 4,
            f"{source}.bbox={str(box)[:80]}: expected four numbers, left, top, width and height",
        )
        require(crowd in (0, 1), f"{source}.iscrowd={str(crowd)[:20]}: expected 0 or 1")
        left, top, width, height = (number(value, f"{source}.bbox[{k}]") for k, value in enumerate(box))
        require(min(width, height) >= 0, f"{source}.bbox={box}: expected a width and a height of 0 or more")
        boxes = images[key].boxes
        boxes.append(Box((left, top, left + width, top + height), names[category], bool(crowd)))
        require_few(boxes, images[key].source)
    return BoxSet(list(images.values()), list(names.values()))


def listed(found: dict[str, Any], field: str, path: Path) -> list[dict[str, Any]]:
    """Return a list of mappings.

    Raises:
        InputError: there is none.
    """
    values = found.get(field)
    if not isinstance(values, list):
        what = "missing" if values is None else type(values).__name__
        raise InputError(f"{path}: {field} is {what}: expected a list")
    require(len(values) <= 100 * MOST_IMAGES, f"{path}: {field} has {len(values):,} entries, more than are believed")
    for n, value in enumerate(values):
        require(isinstance(value, dict), f"{path}: {field}[{n}]={str(value)[:40]}: expected a mapping")
    return values


def whole(mapping: dict[str, Any], field: str, source: str) -> int:
    """Return a whole number.

    Raises:
        InputError: there is none.
    """
    value = mapping.get(field)
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(f"{source}.{field}={str(value)[:40]}: expected a whole number")
    return value


def _categories(categories: list[dict[str, Any]], path: Path) -> dict[int, str]:
    """Return the names of categories by their ids, in the order of the ids."""
    names: dict[int, str] = {}
    for n, category in enumerate(categories):
        source = f"{path}: categories[{n}]"
        key, name = whole(category, "id", source), category.get("name")
        if not isinstance(name, str) or not name.isprintable() or not name:
            raise InputError(f"{source}.name={str(name)[:40]!r}: expected a word")
        require(
            key not in names and name not in names.values(),
            f"{source}: id={key}, name={name}: there is such a category before it; expected one of each",
        )
        names[key] = name
    require(names, f"{path}: categories is empty: expected at least one class")
    return dict(sorted(names.items()))
