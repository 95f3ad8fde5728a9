"""Names of joints, and between which of them bones are drawn."""

from __future__ import annotations

from collections.abc import Sequence

SIDES = ("right", "left")
BODY_JOINTS = (
    "pelvis",
    "neck",
    "head",
    *(f"{side}_{part}" for side in SIDES for part in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")),
)
"""The 15 joints of `FiguresDataModule`; the first is the root."""
COCO_JOINTS = (
    "nose",
    *(
        f"{side}_{part}"
        for part in ("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")
        for side in ("left", "right")
    ),
)
"""The 17 joints of COCO, in its order (Lin et al., Microsoft COCO, 2014, and its keypoint task of 2016)."""
_BONES = (
    ("pelvis", "neck"),
    ("neck", "head"),
    ("nose", "{}_eye"),
    ("{}_eye", "{}_ear"),
    ("neck", "{}_shoulder"),
    ("{}_shoulder", "{}_elbow"),
    ("{}_elbow", "{}_wrist"),
    ("pelvis", "{}_hip"),
    ("{}_hip", "{}_knee"),
    ("{}_knee", "{}_ankle"),
)
_TRUNK = (("left_shoulder", "right_shoulder"), ("left_hip", "right_hip"), ("{}_shoulder", "{}_hip"))
"""Bones of a body without a neck and a pelvis, such as COCO's."""


def usual_names(count: int) -> tuple[str, ...]:
    """Return the names of ``count`` joints if there is a usual set of so many, or else their numbers."""
    known = {len(names): names for names in (BODY_JOINTS, COCO_JOINTS)}
    return known.get(count, tuple(str(number) for number in range(count)))


def bones_of(names: Sequence[str]) -> list[tuple[int, int]]:
    """Return the pairs of joints between which a bone is drawn, by their numbers; none of names that are not known.

    Example:
        >>> bones_of(["pelvis", "neck", "left_hip", "tail"])
        [(0, 1), (0, 2)]
    """
    known = {name: number for number, name in enumerate(names)}
    listed = _BONES if "pelvis" in known or "neck" in known else (*_BONES, *_TRUNK)
    pairs = {(a.format(side), b.format(side)) for a, b in listed for side in SIDES}
    return sorted((known[a], known[b]) for a, b in pairs if a in known and b in known)


def mirrored(names: Sequence[str]) -> list[int]:
    """Return, for each joint, the number of the one on the other side of the body: itself if it has none.

    Example:
        >>> mirrored(["nose", "left_eye", "right_eye"])
        [0, 2, 1]
    """
    swap = {"left": "right", "right": "left"}
    numbers = {name: number for number, name in enumerate(names)}
    found = []
    for number, name in enumerate(names):
        side, _, part = name.partition("_")
        found.append(numbers.get(f"{swap[side]}_{part}", number) if side in swap else number)
    return found


def other_sides(names: Sequence[str]) -> list[int]:
    """Return for each joint the number of that on the other side of the body; its own if there is none.

    Example:
        >>> other_sides(["head", "left_hip", "right_hip", "left_ear"])
        [0, 2, 1, 3]
    """
    numbers = {name: number for number, name in enumerate(names)}
    exchanged = str.maketrans({"\x00": "left", "\x01": "right"})
    others = (name.replace("left", "\x01").replace("right", "\x00").translate(exchanged) for name in names)
    return [numbers.get(other, number) for number, other in enumerate(others)]
