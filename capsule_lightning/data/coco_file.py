"""COCO's keypoints in JSON: what a file says of people and their joints, checked field by field.

Lin et al., Microsoft COCO: Common Objects in Context, ECCV 2014; the format is https://cocodataset.org/#format-data.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from math import isfinite
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from capsule_lightning.data.regular_files import open_regular
from capsule_lightning.errors import InputError, first_line, printable, require
from capsule_lightning.runs.plain_json import parse_json

MOST_BYTES = 2**30
"""Largest file that is read; that of COCO's training set has a quarter of it."""
REMEDY = "expected COCO's keypoints"


class Person(NamedTuple):
    """One body in an image.

    Attributes:
        image: number of the image in the file.
        box: left, top, width and height in pixels.
        keypoints: of each joint, right, down and 0 (not labeled), 1 (hidden) or 2 (seen).
        area: pixels that it covers.
    """

    image: int
    box: tuple[float, float, float, float]
    keypoints: Sequence[tuple[float, float, int]]
    area: float


class Keypoints(NamedTuple):
    """What a file says.

    Attributes:
        names: of the joints.
        images: path and ``(rows, columns)`` of each image that somebody is in.
        people: the bodies to learn from.
        crowds: number of annotations that are of a crowd, which have no joints of one body.
        empty: number of bodies none of whose joints is labeled, or whose box is empty.
    """

    names: Sequence[str]
    images: Sequence[tuple[str, tuple[int, int]]]
    people: Sequence[Person]
    crowds: int
    empty: int


def read_keypoints(path: Path) -> Keypoints:
    """Read a file of keypoints.

    Raises:
        InputError: it cannot be read, or a field is not as it should be; names the file and the field.
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            require(size <= MOST_BYTES, f"{path}: has {size:,} bytes, at most {MOST_BYTES:,}; split it")
            text = file.read().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({first_line(error)}); {REMEDY} as JSON") from error
    said = parse_json(text, path, f"{REMEDY} as JSON", MOST_BYTES)
    require(isinstance(said, dict), f"{path}: expected a mapping with images, annotations and categories")
    lists = {}
    for key in ("images", "annotations", "categories"):
        lists[key] = said.get(key)
        good = isinstance(lists[key], list) and all(isinstance(each, dict) for each in lists[key])
        require(good and lists[key], f"{path}: {key}: expected a list of mappings")
    category, names = _joints(path, lists["categories"])
    images, numbers = _images(path, lists["images"])
    people, crowds, empty = [], 0, 0
    for n, each in enumerate(lists["annotations"]):
        if each.get("category_id") != category:
            continue
        if each.get("iscrowd"):
            crowds += 1
            continue
        person = _person(f"{path}: annotations[{n}]", each, numbers, len(names))
        if not any(seen for _, _, seen in person.keypoints) or min(person.box[2:]) <= 0:
            empty += 1
        else:
            people.append(person)
    require(people, f"{path}: annotations: nobody in it has a labeled joint; {REMEDY}")
    return Keypoints(names, images, people, crowds, empty)


def _joints(path: Path, categories: Sequence[dict[str, Any]]) -> tuple[int, list[str]]:
    """Return number and joints of the only category that has any."""
    having = [(n, each) for n, each in enumerate(categories) if each.get("keypoints")]
    require(
        len(having) == 1,
        f"{path}: categories: {len(having)} have keypoints; expected one, such as person, with the names of its joints",
    )
    n, category = having[0]
    names, number = category["keypoints"], _whole(f"{path}: categories[{n}].id", category.get("id"))
    good = isinstance(names, list) and len(names) >= 2 and all(isinstance(name, str) and name for name in names)
    require(
        good and len(set(names)) == len(names),
        f"{path}: categories[{n}].keypoints: expected different names of two joints or more",
    )
    return number, [printable(name) for name in names]


def _images(path: Path, images: Sequence[dict[str, Any]]) -> tuple[list[tuple[str, tuple[int, int]]], dict[int, int]]:
    found, numbers = [], {}
    for n, each in enumerate(images):
        where = f"{path}: images[{n}]"
        name, number = each.get("file_name", ""), _whole(f"{where}.id", each.get("id"))
        require(number not in numbers, f"{where}.id: {number} is there twice")
        inside = isinstance(name, str) and name and "\0" not in name
        inside = inside and not PurePosixPath(name).is_absolute() and ".." not in PurePosixPath(name).parts
        require(inside, f"{where}.file_name: {name!r}: expected the name of a file within the folder of images")
        size = []
        for side in ("height", "width"):
            value = _whole(f"{where}.{side}", each.get(side))
            require(value >= 1, f"{where}.{side}: {value}: expected a number of pixels")
            size.append(value)
        numbers[number] = n
        found.append((str(name), (size[0], size[1])))
    return found, numbers


def _person(where: str, said: dict[str, Any], images: dict[int, int], joints: int) -> Person:
    image = said.get("image_id")
    require(
        isinstance(image, int) and image in images, f"{where}.image_id: {image!r}: there is no such image in images"
    )
    box, keypoints, area = said.get("bbox"), said.get("keypoints"), said.get("area")
    require(
        isinstance(box, list) and len(box) == 4 and all(map(_is_number, box)),
        f"{where}.bbox: {box!r:.60}: expected left, top, width and height",
    )
    count = len(keypoints) if isinstance(keypoints, list) else 0
    require(
        count == 3 * joints and all(map(_is_number, keypoints or [])),
        f"{where}.keypoints: {count} numbers; expected {3 * joints}, x, y and v of each of {joints} joints",
    )
    triples = [tuple(keypoints[3 * k : 3 * k + 3]) for k in range(joints)]  # type: ignore[index]
    wrong = next((v for _, _, v in triples if v not in (0, 1, 2)), None)
    require(wrong is None, f"{where}.keypoints: v={wrong}: expected 0 (not labeled), 1 (hidden) or 2 (seen)")
    require(area is None or (_is_number(area) and area >= 0), f"{where}.area: {area!r:.40}: expected square pixels")
    covered = float("nan") if area is None else float(area)
    return Person(images[image], tuple(map(float, box)), triples, covered)  # type: ignore[index, arg-type]


def _whole(where: str, value: Any) -> int:
    if type(value) is not int:
        raise InputError(f"{where}: {value!r:.40}: expected a whole number")
    return value


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and isfinite(value)
