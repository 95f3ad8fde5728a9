"""Depth images of a moving body, made here: nothing on disk is needed, and every joint is known.

The viewpoints are those of DECA: Garau, Bisagno, Brodka & Conci, DECA: Deep Viewpoint-Equivariant Human Pose Estimation
Using Capsule Autoencoders, ICCV 2021 (arXiv 2108.08557), which trains on one and tests on another.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from math import isfinite, pi
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor
from typing_extensions import override

from capsule_lightning.augmentations.base import Augmentation
from capsule_lightning.data.figure_body import JOINTS, LENGTHS, forward_kinematics, limbs_of, offsets_of
from capsule_lightning.data.figure_depth import Camera, brightness_of, project, seen_from, seen_joints, z_buffer
from capsule_lightning.data.figure_motion import Motion, random_motions, read_motions
from capsule_lightning.data.joints import Dims, JointDataModule, JointLabels
from capsule_lightning.data.loader import MemoryStore
from capsule_lightning.data.module import Split
from capsule_lightning.data.rotations import about_vertical, matrix_of_quaternion
from capsule_lightning.data.skeletons import BODY_JOINTS
from capsule_lightning.data.stratified import split_off
from capsule_lightning.errors import require

Frame = Literal["camera", "body"]
_MOST_DRAWS = 2**30
_AT_ONCE = 128
"""Figures that are drawn together."""
_LEAST_DISTANCE = 2.0
"""Meters from which a body is before the camera, whatever it does."""
_DRAWS = 5
"""Random numbers of an example: azimuth, elevation and distance of the camera, and where it looks, in two directions.
"""


class FiguresDataModule(JointDataModule):
    """A body of capsules and spheres in motion, as a depth camera sees it: gray pictures in which near is bright.

    It moves as clips of motion capture say, or at random where there are none. Clips of training, validation and test
    are disjoint. Each clip has a body of its own, whose size and limbs are drawn; each example a camera of its own.
    Example number i of a split depends on ``draw`` and on i alone. All examples are drawn once, when they are first
    asked for, some 500 in a second on one core, and kept as bytes.

    Joints are in pixels or in meters, see `JointBatch`; the depth of a picture is 0 at 1.3 meters behind the point that
    the camera looks at, and 1 at 1.3 meters before it.

    Args:
        folder: clips of motion, see `read_motions`; null for random motions.
        clips: number of random clips, those to test on included; with ``folder`` the files are the clips.
        frames: frames of each random clip; with ``folder`` at most as many, spread over the clip, and null for all.
        repeats: how many times each frame is seen, each time by another camera.
        size: rows and columns of a picture.
        azimuth: least and greatest angle of the camera about the vertical in degrees: 0 sees the body from the front,
            90 its right side.
        elevation: least and greatest angle above the horizon in degrees: 90 sees it from the top.
        distance: least and greatest distance in meters; at 4 the width of a picture is 2.4 meters.
        facing: turn the body about the vertical so that it faces azimuth 0, whatever its motion turns.
        limbs: largest relative change of the body's size and, beyond that, of the length of each kind of limb.
        aim: largest distance in meters, right or up, between the pelvis and what the camera looks at.
        frame: axes of the joints in meters: ``camera`` for right, up and toward the camera; ``body`` for the world that
            the body faces along its first axis, with up as the second, which no camera changes (as DECA has it).
        test_size: number or fraction of the examples that form the test set; whole clips, the same for every seed.
        draw: chooses the random motions, bodies and cameras of the training set. Those of the test are always the same.
        dims, noise, images, batch_size, val_size, seed, augmentation: see `JointDataModule`; whole clips are held out
            for validation.

    Raises:
        InputError: values out of range; clips that cannot be read or are too few.
    """

    name = "figures"
    class_names = BODY_JOINTS
    root = 0

    def __init__(
        self,
        folder: str | None = None,
        clips: int = 800,
        frames: int | None = 10,
        repeats: int = 1,
        size: int = 64,
        azimuth: tuple[float, float] = (-10.0, 10.0),
        elevation: tuple[float, float] = (-5.0, 5.0),
        distance: tuple[float, float] = (3.8, 4.2),
        facing: bool = True,
        limbs: float = 0.1,
        aim: float = 0.1,
        frame: Frame = "camera",
        test_size: float | int = 0.15,
        draw: int = 0,
        dims: Dims = 2,
        noise: float = 0.01,
        images: str | None = None,
        batch_size: int = 64,
        val_size: float | int = 0.1,
        seed: int | None = None,
        augmentation: Callable[[], Augmentation] | None = None,
    ) -> None:
        super().__init__(dims, noise, images, batch_size, val_size, seed, augmentation)
        for name, value in (("clips", clips), ("repeats", repeats), ("frames", 1 if frames is None else frames)):
            require(value >= 1, f"{name}={value}: expected at least 1")
        require(frames is not None or folder, "frames=null: is for clips of a --data.folder; give a number")
        require(8 <= size <= 512, f"size={size}: expected 8 to 512 pixels")
        require(0 <= limbs < 0.5, f"limbs={limbs}: expected 0 or more and less than 0.5")
        require(0 <= aim <= 1, f"aim={aim}: expected 0 to 1 meters")
        require(0 <= draw < _MOST_DRAWS, f"draw={draw}: expected 0 to {_MOST_DRAWS - 1}")
        require(frame in get_args(Frame), f"frame={frame!r}: expected one of {', '.join(get_args(Frame))}")
        for name, pair in (("azimuth", azimuth), ("elevation", elevation), ("distance", distance)):
            good = len(pair) == 2 and all(map(isfinite, pair)) and pair[0] <= pair[1]
            require(good, f"{name}={list(pair)}: expected two numbers, the least and the greatest")
        require(elevation[0] >= -90 and elevation[1] <= 90, f"elevation={list(elevation)}: expected -90 to 90 degrees")
        require(distance[0] >= _LEAST_DISTANCE, f"distance={list(distance)}: expected {_LEAST_DISTANCE} meters or more")
        require(
            test_size > 0 and (not isinstance(test_size, float) or test_size < 1 or test_size.is_integer()),
            f"test_size={test_size}: expected a fraction below 1 or a number of examples",
        )
        self.folder = None if folder is None else Path(os.path.expanduser(folder))
        self.clips, self.frames, self.repeats, self.size = clips, frames, repeats, size
        self.azimuth, self.elevation, self.distance = azimuth, elevation, distance
        self.facing, self.limbs, self.aim, self.frame = facing, limbs, aim, frame
        self.test_size, self.draw = test_size, draw
        self._clips_of: dict[str, Sequence[str]] = {}

    @property
    @override
    def in_shape(self) -> tuple[int, int, int]:
        return 1, self.size, self.size

    @property
    @override
    def is_depth(self) -> bool:
        return True

    @override
    def open(self, split: Split) -> MemoryStore:
        """Draw all examples of a split."""
        motion = self.motion(split)
        self._clips_of[split] = [motion.names[clip] for clip in motion.clips.repeat_interleave(self.repeats).tolist()]
        pictures, labels = self.drawn(motion, split)
        return MemoryStore(pictures, labels.packed())

    def motion(self, split: Split) -> Motion:
        """Return the frames of a split.

        Raises:
            InputError: clips cannot be read, or are too few.
        """
        if self.folder is None:
            assert self.frames is not None
            count = (
                max(1, round(self.test_size * self.clips))
                if self.test_size < 1
                else -(-int(self.test_size) // (self.frames * self.repeats))
            )
            require(count < self.clips, f"test_size={self.test_size}: leaves none of {self.clips} clips to train on")
            if split == "test":
                return random_motions(count, self.frames, self._seed(split))
            return random_motions(self.clips - count, self.frames, self._seed(split))
        motion = thinned(read_motions(self.folder), self.frames)
        require(
            len(motion.names) >= 3,
            f"{self.folder}: {len(motion.names)} clips; expected 3 or more, to train, validate and test on",
        )
        size = self.test_size if self.test_size < 1 else -(-int(self.test_size) // self.repeats)
        train, test = by_clip(motion.clips, size, 0, "test_size")
        kept = test if split == "test" else train
        return motion._replace(rotations=motion.rotations[kept], clips=motion.clips[kept])

    def _seed(self, split: Split) -> int:
        """Return a number of its own for each training set and for the test set; torch keeps 32 bits of a seed."""
        return 1 if split == "test" else 2 * self.draw

    def drawn(self, motion: Motion, split: Split) -> tuple[Tensor, JointLabels]:
        """Return pictures ``(N, 1, H, W)`` uint8 of frames and their labels; each frame ``repeats`` times."""
        random = torch.Generator().manual_seed(2 * _MOST_DRAWS + self._seed(split))
        bodies = 2 * torch.rand(len(motion.names), 1 + len(LENGTHS), generator=random) - 1
        count = len(motion.clips) * self.repeats
        draws = torch.rand(count, _DRAWS, generator=random)
        frames = torch.arange(len(motion.clips)).repeat_interleave(self.repeats)
        pictures = torch.empty(count, 1, self.size, self.size, dtype=torch.uint8)
        found = []
        for start in range(0, count, _AT_ONCE):
            here = slice(start, start + _AT_ONCE)
            body = 1 + self.limbs * bodies[motion.clips[frames[here]]]
            pictures[here, 0], labels = self.seen(motion.rotations[frames[here]], body, draws[here])
            found.append(labels)
        return pictures, JointLabels(*(torch.cat(parts) for parts in zip(*found, strict=True)))

    def seen(self, rotations: Tensor, body: Tensor, draws: Tensor) -> tuple[Tensor, JointLabels]:
        """Return pictures ``(F, H, W)`` uint8 of bodies and their labels.

        Args:
            rotations: ``(F, N, 4)`` quaternions.
            body: ``(F, 8)``, factors of the size and of the lengths.
            draws: ``(F, 5)`` in [0, 1), see `_DRAWS`.
        """
        matrices = matrix_of_quaternion(rotations)
        if self.facing:
            matrices[:, 0] = about_vertical(rotations[:, 0]).transpose(-1, -2) @ matrices[:, 0]
        size, lengths = body[:, 0], body[:, 1:]
        places = forward_kinematics(matrices, offsets_of(size, lengths))
        camera = Camera(
            _between(self.azimuth, draws[:, 0]) * pi / 180,
            _between(self.elevation, draws[:, 1]) * pi / 180,
            _between(self.distance, draws[:, 2]),
        )
        nodes = seen_from(places, camera)
        beside = self.aim * (2 * draws[:, 3:] - 1)
        nodes[..., :2] += beside.unsqueeze(1)
        ends, radii = limbs_of(nodes, size)
        depth = z_buffer(ends, radii, self.size)
        joints = nodes[:, JOINTS]
        picture = (brightness_of(depth, camera.distance) * 255).round().to(torch.uint8)
        if self.frame == "body":
            positions = places[:, JOINTS]
        else:
            positions = (joints - joints[:, :1]) * torch.tensor([1.0, 1.0, -1.0])
        covered = depth.isfinite().flatten(1).sum(dim=1).float()
        return picture, JointLabels(project(joints, self.size), positions, seen_joints(joints, depth), covered)

    @override
    def hold_out(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Hold out whole clips."""
        names = {name: number for number, name in enumerate(dict.fromkeys(self._clips_of["train"]))}
        clips = torch.tensor([names[name] for name in self._clips_of["train"]])
        return by_clip(clips, self.val_size, self.seed, "val_size")

    @override
    def name_of(self, index: int) -> str:
        clips = self._clips_of.get("test")
        return f"{index} ({clips[index]})" if clips is not None else super().name_of(index)

    @override
    def describe(self) -> str:
        source = "random motions" if self.folder is None else f"motions of {self.folder}"
        seen = f"azimuth {_span(self.azimuth)}, elevation {_span(self.elevation)} degrees"
        parts = {"train": self._train, "validation": self._val}
        told = [
            f"{len({self._clips_of['train'][n] for n in places.tolist()})} clips of {split}"
            for split, places in parts.items()
            if len(places)
        ]
        told += [f"{len(set(self._clips_of['test']))} of test"] if "test" in self._clips_of else []
        return f"{super().describe()}\n  {source}, seen from {seen}" + (f"; {', '.join(told)}" if told else "")


def by_clip(clips: Tensor, size: float | int, seed: int, option: str) -> tuple[Tensor, Tensor]:
    """Split frames of clips ``(F)`` so that each clip is on one side; see `split_off`."""
    return split_off(torch.zeros_like(clips), size, seed, option, ["figure"], [str(clip) for clip in clips.tolist()])


def thinned(motion: Motion, most: int | None) -> Motion:
    """Return a motion with at most ``most`` frames of each clip, evenly spread; None for all of them."""
    if most is None:
        return motion
    kept = []
    for clip in range(len(motion.names)):
        places = (motion.clips == clip).nonzero()[:, 0]
        count = min(most, len(places))
        kept.append(places[(torch.arange(count) * len(places)) // count])
    chosen = torch.cat(kept)
    return motion._replace(rotations=motion.rotations[chosen], clips=motion.clips[chosen])


def _between(pair: tuple[float, float], draws: Tensor) -> Tensor:
    return pair[0] + draws * (pair[1] - pair[0])


def _span(pair: tuple[float, float]) -> str:
    return f"{pair[0]:g} to {pair[1]:g}"
