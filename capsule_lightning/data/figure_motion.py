"""Motions of a body: clips of motion capture in the open frame format, and random ones."""

from __future__ import annotations

import os
from collections.abc import Sequence
from math import isfinite, pi
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from capsule_lightning.data.figure_body import NODES, NUMBERS
from capsule_lightning.data.regular_files import kind_of, open_regular
from capsule_lightning.data.rotations import quaternion_of_vector
from capsule_lightning.data.skeletons import SIDES
from capsule_lightning.errors import InputError, first_line, require
from capsule_lightning.runs.plain_json import MOST_CHARACTERS, parse_json

SUFFIXES = (".txt", ".json")
"""How the names of clips end."""
MOST_FRAMES = 1_000_000
"""Most frames of all clips of a folder."""
NUMBERS_OF_A_FRAME = 44
_QUATERNIONS = {
    "pelvis": 4,
    "chest": 8,
    "neck": 12,
    "right_hip": 16,
    "right_ankle": 21,
    "right_shoulder": 25,
    "left_hip": 30,
    "left_ankle": 35,
    "left_shoulder": 39,
}
"""Where the four numbers (w, x, y, z) of a joint begin in a frame."""
_ANGLES = {"right_knee": 20, "right_elbow": 29, "left_knee": 34, "left_elbow": 43}
"""Where the angle of a joint is in a frame, in radians about z."""
LIMITS = {
    "pelvis": ((-10, 10), (0, 0), (-15, 15)),
    "chest": ((-15, 15), (-25, 25), (-35, 10)),
    "neck": ((-15, 15), (-40, 40), (-25, 15)),
    "hip": ((-40, 10), (-20, 20), (-20, 80)),
    "knee": ((0, 0), (0, 0), (-110, 0)),
    "ankle": ((0, 0), (-10, 10), (-20, 20)),
    "shoulder": ((-130, 10), (-30, 30), (-40, 120)),
    "elbow": ((0, 0), (0, 0), (0, 130)),
}
"""Least and greatest angle of each joint of a random motion about x, y and z, in degrees, of the right hand side."""
_BETWEEN = 8
"""Frames between two random poses."""


class Motion(NamedTuple):
    """Frames of several clips, one after the other.

    Attributes:
        rotations: ``(F, N, 4)``, quaternion of each node in the frame of its parent.
        clips: ``(F)`` int64, which clip a frame is of.
        names: of the clips.
    """

    rotations: Tensor
    clips: Tensor
    names: Sequence[str]

    def of_clips(self, chosen: Sequence[int]) -> Motion:
        """Return the frames of some clips; clips keep their numbers."""
        return self._replace(
            rotations=self.rotations[kept := torch.isin(self.clips, torch.tensor(chosen))], clips=self.clips[kept]
        )


def read_motions(folder: Path) -> Motion:
    """Read the clips of a folder, in the order of their names.

    A clip is JSON, ``{"Loop": "wrap", "Frames": [[...], ...]}``, and a frame 44 numbers: its duration in seconds, the
    place of the root in meters, the quaternions (w, x, y, z) of root, chest, neck and right hip, the angle of the right
    knee, right ankle, right shoulder, the angle of the right elbow, and the same of the left side from its hip on.

    Raises:
        InputError: there is no such folder, it has no clips, or one of them is not in this form.

    Source: Peng et al. 2018, see `capsule_lightning.data.figure_body`.
    """
    require(
        kind_of(folder) == "folder",
        f"{folder}: no such folder; --data.folder takes one of motion clips, or null for random motions",
    )
    files = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
    require(files, f"{folder}: no clip of motion in it; expected files that end in {' or '.join(SUFFIXES)}")
    frames, total = [], 0
    for path in files:
        frames.append(read_clip(path))
        total += len(frames[-1])
        require(total <= MOST_FRAMES, f"{folder}: more than {MOST_FRAMES:,} frames; take fewer clips")
    clips = torch.repeat_interleave(torch.tensor([len(each) for each in frames]))
    return Motion(torch.cat(frames), clips, [path.name for path in files])


def read_clip(path: Path) -> Tensor:
    """Return the rotations ``(F, N, 4)`` of one clip, see `read_motions`.

    Raises:
        InputError: it cannot be read or is not in the form; names the frame and the field.
    """
    try:
        with open_regular(path) as file:
            require(
                os.fstat(file.fileno()).st_size <= MOST_CHARACTERS,
                f"{path}: more than {MOST_CHARACTERS:,} bytes; cut the clip into several",
            )
            text = file.read().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({first_line(error)}); expected a clip of motion") from error
    value = parse_json(text, path, "expected a clip of motion")
    frames = value.get("Frames") if isinstance(value, dict) else None
    require(isinstance(frames, list) and frames, f"{path}: Frames: expected a list of frames, each of 44 numbers")
    for number, frame in enumerate(frames):  # type: ignore[arg-type]
        require(
            isinstance(frame, list) and len(frame) == NUMBERS_OF_A_FRAME,
            f"{path}: Frames[{number}]: expected {NUMBERS_OF_A_FRAME} numbers, found "
            f"{len(frame) if isinstance(frame, list) else type(frame).__name__}; see the frame format",
        )
        wrong = next((n for n, v in enumerate(frame) if type(v) not in (int, float) or not isfinite(v)), None)
        require(
            wrong is None,
            f"{path}: Frames[{number}][{wrong}]: {frame[wrong or 0]!r:.40}: expected a finite number",
        )
    numbers = torch.tensor(frames, dtype=torch.float64)
    rotations = torch.zeros(len(numbers), len(NODES), 4, dtype=torch.float64)
    rotations[..., 0] = 1
    for name, start in _QUATERNIONS.items():
        quaternion = numbers[:, start : start + 4]
        empty = (torch.linalg.vector_norm(quaternion, dim=1) < 0.5).nonzero()
        require(
            not len(empty),
            f"{path}: Frames[{int(empty[0]) if len(empty) else 0}]: the quaternion of {name} (from number {start}) is "
            "far from length 1; expected w, x, y, z",
        )
        rotations[:, NUMBERS[name]] = quaternion
    for name, place in _ANGLES.items():
        about_z = torch.zeros(len(numbers), 3, dtype=torch.float64)
        about_z[:, 2] = numbers[:, place]
        rotations[:, NUMBERS[name]] = quaternion_of_vector(about_z)
    return rotations.float()


def random_motions(clips: int, frames: int, seed: int) -> Motion:
    """Draw clips in which the body goes smoothly from one random pose to the next, each within `LIMITS`.

    Args:
        clips: number of clips, C.
        frames: frames of each.
        seed: a clip depends on it and on its own number alone.
    """
    limits = torch.zeros(len(NODES), 3, 2)
    for name, ranges in LIMITS.items():
        limit = torch.tensor(ranges, dtype=torch.float32) * pi / 180
        if name in NUMBERS:
            limits[NUMBERS[name]] = limit
            continue
        other = limit.clone()
        other[:2] = -limit[:2].flip(1)  # mirrored at the plane between the sides
        for side, mine in zip(SIDES, (limit, other), strict=True):
            limits[NUMBERS[f"{side}_{name}"]] = mine
    keys = -(-(frames - 1) // _BETWEEN) + 1
    random = torch.Generator().manual_seed(seed)
    drawn = torch.rand(clips, keys, len(NODES), 3, generator=random)
    poses = limits[..., 0] + drawn * (limits[..., 1] - limits[..., 0])
    time = torch.arange(frames) / _BETWEEN
    before = time.floor().long().clamp_max(max(keys - 2, 0))
    part = ((1 - ((time - before) * pi).cos()) / 2)[:, None, None]
    after = (before + 1).clamp_max(keys - 1)
    vectors = poses[:, before] * (1 - part) + poses[:, after] * part  # (C, frames, N, 3)
    numbers = torch.arange(clips).repeat_interleave(frames)
    return Motion(quaternion_of_vector(vectors).flatten(0, 1), numbers, [f"random {n}" for n in range(clips)])
