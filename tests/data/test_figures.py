"""Figures: kinematics and depth equal plain loops, examples depend on their number alone, clips are disjoint."""

import json
from math import cos, pi, radians, sin

import numpy as np
import pytest
import torch
from PIL import Image

from capsule_lightning.data.figure_body import LENGTHS, LIMBS, NODES, NUMBERS, forward_kinematics, limbs_of, offsets_of
from capsule_lightning.data.figure_depth import (
    Camera,
    axes_of,
    focal_length,
    project,
    seen_from,
    seen_joints,
    z_buffer,
)
from capsule_lightning.data.figure_motion import LIMITS, NUMBERS_OF_A_FRAME, random_motions, read_clip, read_motions
from capsule_lightning.data.figures import FiguresDataModule
from capsule_lightning.data.rotations import about_vertical, matrix_of_quaternion, quaternion_of_vector
from capsule_lightning.data.skeletons import BODY_JOINTS, COCO_JOINTS, bones_of, mirrored
from capsule_lightning.errors import InputError

SMALL = {"clips": 12, "frames": 3, "size": 24, "batch_size": 4, "test_size": 0.25}


def standing(**changes: list[float]) -> list[float]:
    """A frame of a body that stands upright; ``changes`` are numbers from a place on, such as ``at20=[-1.0]``."""
    frame = [0.0] * NUMBERS_OF_A_FRAME
    for start in (4, 8, 12, 16, 21, 25, 30, 35, 39):
        frame[start] = 1.0
    for place, numbers in changes.items():
        start = int(place.removeprefix("at"))
        frame[start : start + len(numbers)] = numbers
    return frame


@pytest.fixture
def clips(tmp_path):
    """Writes clips of some frames each, and gives back their folder."""

    def write(count=5, frames=4, **more):
        for number in range(count):
            turns = [standing(at20=[-0.1 * n], at43=[0.2 * number]) for n in range(frames)]
            (tmp_path / f"clip{number}.txt").write_text(json.dumps({"Loop": "wrap", "Frames": turns}))
        for name, text in more.items():
            (tmp_path / f"{name}.json").write_text(text)
        return tmp_path

    return write


def places_of(rotations):
    size = torch.ones(len(rotations))
    return forward_kinematics(matrix_of_quaternion(rotations), offsets_of(size, torch.ones(len(size), len(LENGTHS))))


# Kinematics.


def test_kinematics_equal_a_plain_loop() -> None:
    random = torch.Generator().manual_seed(0)
    rotations = matrix_of_quaternion(torch.randn(3, len(NODES), 4, generator=random, dtype=torch.float64))
    offsets = torch.randn(3, len(NODES), 3, generator=random, dtype=torch.float64)
    found = forward_kinematics(rotations, offsets)
    for figure in range(3):
        for number, node in enumerate(NODES):
            point, name = np.zeros(3), node.name
            chain = []
            while name:
                chain.append(NUMBERS[name])
                name = NODES[NUMBERS[name]].parent
            for n in chain[:-1]:
                point = point + offsets[figure, n].numpy()
                point = rotations[figure, NUMBERS[NODES[n].parent]].numpy() @ point
            assert np.allclose(found[figure, number], point, atol=1e-12)


def test_bodies_stand_bend_their_knees_back_and_their_elbows_forward(tmp_path) -> None:
    frames = [standing(), standing(at20=[-pi / 2]), standing(at29=[pi / 2])]
    (tmp_path / "a.txt").write_text(json.dumps({"Frames": frames}))
    places = places_of(read_clip(tmp_path / "a.txt"))

    def at(frame, name):
        return places[frame, NUMBERS[name]]

    assert at(0, "head")[1] == pytest.approx(0.2362 + 0.2239 + 0.175, abs=1e-4)
    assert at(0, "right_ankle")[1] == pytest.approx(-0.4215 - 0.4099, abs=1e-4)
    assert at(0, "right_hip")[2] > 0 > at(0, "left_hip")[2]
    assert torch.allclose(at(1, "right_ankle") - at(1, "right_knee"), torch.tensor([-0.4099, 0.0, 0.0]), atol=1e-4)
    assert torch.allclose(at(2, "right_wrist") - at(2, "right_elbow"), torch.tensor([0.2589, 0.0, 0.0]), atol=1e-4)
    assert torch.equal(places[1, NUMBERS["left_ankle"]], places[0, NUMBERS["left_ankle"]])


def test_rotations_are_what_their_vectors_say() -> None:
    vectors = torch.tensor([[0.0, 0.0, pi / 2], [0.3, -0.2, 0.9], [0.0, 0.0, 0.0]], dtype=torch.float64)
    found = matrix_of_quaternion(quaternion_of_vector(vectors))
    for vector, matrix in zip(vectors, found, strict=True):
        x, y, z = vector.tolist()
        skew = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
        assert torch.allclose(matrix, torch.linalg.matrix_exp(skew), atol=1e-12)


def test_the_heading_alone_is_about_the_vertical() -> None:
    turn, lean = (quaternion_of_vector(torch.tensor([v])) for v in ([0.0, 0.8, 0.0], [0.0, 0.0, 0.3]))
    heading = about_vertical(turn)
    assert torch.allclose(heading, matrix_of_quaternion(turn), atol=1e-6)
    assert torch.allclose(about_vertical(lean), torch.eye(3), atol=1e-6)
    assert torch.allclose(about_vertical(torch.tensor([[0.0, 1.0, 0.0, 0.0]])), torch.eye(3))  # upside down


# Depth.


def test_depth_equals_marching_along_each_ray() -> None:
    """Spheres of distance fields: an algorithm that solves no equation."""
    random = torch.Generator().manual_seed(1)
    size, ends = 12, torch.rand(2, 3, 2, 3, generator=random) - 0.5
    ends[..., 2] += 3
    ends[:, 0, 1] = ends[:, 0, 0]  # a sphere
    radii = 0.05 + 0.2 * torch.rand(2, 3, generator=random)
    found = z_buffer(ends, radii, size)
    focal = focal_length(size)
    for figure in range(2):
        for row in range(size):
            for column in range(size):
                ray = np.array([(column + 0.5 - size / 2) / focal, -(row + 0.5 - size / 2) / focal, 1.0])
                depth = march(ray, ends[figure].double().numpy(), radii[figure].double().numpy())
                assert found[figure, row, column].item() == pytest.approx(depth, abs=2e-4)
    assert found.isfinite().any()
    assert found.isinf().any()


def march(ray: np.ndarray, ends: np.ndarray, radii: np.ndarray) -> float:
    unit, along = ray / np.linalg.norm(ray), 0.0
    for _ in range(400):
        point, nearest = along * unit, np.inf
        for (start, end), radius in zip(ends, radii, strict=True):
            axis = end - start
            share = np.clip(np.dot(point - start, axis) / max(np.dot(axis, axis), 1e-12), 0, 1)
            nearest = min(nearest, np.linalg.norm(point - start - share * axis) - radius)
        if nearest < 1e-7:
            return float(point[2])
        along += nearest
        if along > 10:
            return np.inf
    return float(along * unit[2])


def test_limbs_at_the_border_and_outside_are_cut() -> None:
    at_border, outside, behind_all = [-1.2, 0.0, 4.0], [-9.0, 0.0, 4.0], [0.0, 0.0, 30.0]
    ends = torch.tensor([[at_border, at_border], [outside, outside], [behind_all, behind_all]]).unsqueeze(1)
    found = z_buffer(ends, torch.full((3, 1), 0.2), 16)
    assert found[0, 8, 0].isfinite()
    assert found[0, :, 3:].isinf().all()
    assert found[1].isinf().all()


def test_a_camera_sees_front_right_side_and_top() -> None:
    quarter = torch.tensor([0.0, pi / 2, 0.0])
    camera = Camera(quarter, torch.tensor([0.0, 0.0, pi / 2]), torch.full((3,), 4.0))
    points = torch.tensor([[0.3, 0.0, 0.0], [0.0, 0.3, 0.0], [0.0, 0.0, 0.3]]).expand(3, 3, 3)  # forward, up, right
    forward, up, right = seen_from(points, camera).unbind(dim=1)
    assert torch.allclose(forward[0], torch.tensor([0.0, 0.0, 3.7]), atol=1e-6)  # toward the camera
    assert torch.allclose(right[0], torch.tensor([-0.3, 0.0, 4.0]), atol=1e-6)  # its right hand is at the left
    assert torch.allclose(forward[1], torch.tensor([0.3, 0.0, 4.0]), atol=1e-6)
    assert torch.allclose(right[1], torch.tensor([0.0, 0.0, 3.7]), atol=1e-6)
    assert torch.allclose(up[2], torch.tensor([0.0, 0.0, 3.7]), atol=1e-6)
    axes = axes_of(camera)
    assert torch.allclose(axes @ axes.transpose(1, 2), torch.eye(3).expand(3, 3, 3), atol=1e-6)


def test_joints_in_pixels_lie_on_the_body_and_hidden_ones_are_known() -> None:
    sphere = torch.tensor([[0.4, 0.3, 4.0]])
    depth = z_buffer(sphere.expand(1, 1, 2, 3).contiguous(), torch.full((1, 1), 0.2), 48)
    column, row = project(sphere, 48)[0].floor().long().tolist()
    assert depth[0, row, column].item() == pytest.approx(3.8, abs=0.01)
    behind, outside = torch.tensor([0.4, 0.3, 4.5]), torch.tensor([5.0, 0.3, 4.0])
    near = torch.tensor([0.4, 0.3, 3.85])
    assert seen_joints(torch.stack([near, behind, outside]).unsqueeze(0), depth).tolist() == [[True, False, False]]


def test_every_limb_is_drawn_where_its_nodes_are() -> None:
    ends, radii = limbs_of(places_of(torch.tensor([1.0, 0, 0, 0]).expand(1, len(NODES), 4)), torch.tensor([2.0]))
    assert ends.shape == (1, len(LIMBS), 2, 3)
    assert radii[0].tolist() == pytest.approx([2 * limb.radius for limb in LIMBS])


# Motions.


def test_random_motions_stay_within_their_limits_and_are_smooth() -> None:
    motion = random_motions(20, 9, seed=3)
    angle = 2 * torch.atan2(motion.rotations[..., 3], motion.rotations[..., 0])  # about z alone, of knees and elbows
    for part in ("knee", "elbow"):
        low, high = (radians(end) for end in LIMITS[part][2])
        found = angle[:, NUMBERS[f"left_{part}"]]
        assert low - 1e-5 <= found.min() < found.max() <= high + 1e-5
    knees = angle[:, NUMBERS["right_knee"]].view(20, 9)
    assert knees.diff(dim=1).abs().max() < radians(110) / 4
    again = random_motions(5, 9, seed=3)
    assert torch.equal(again.rotations, motion.rotations[: 5 * 9])


WRONG = {
    "no-json": ("{", "is not valid JSON"),
    "no-frames": ('{"Loop": "wrap"}', "Frames: expected a list"),
    "short": (json.dumps({"Frames": [standing(), standing()[:43]]}), r"Frames\[1\]: expected 44 numbers, found 43"),
    "word": (json.dumps({"Frames": [standing(at7=["a"])]}), r"Frames\[0\]\[7\]: 'a': expected a finite number"),
    "truth": (json.dumps({"Frames": [standing(at7=[True])]}), r"Frames\[0\]\[7\]: True"),
    "infinite": ('{"Frames": [[1e999]]}', "44 numbers"),
    "no-rotation": (json.dumps({"Frames": [standing(at16=[0.0])]}), r"Frames\[0\]: the quaternion of right_hip"),
}


@pytest.mark.parametrize(("text", "told"), WRONG.values(), ids=WRONG)
def test_clips_that_are_none_are_refused(text, told, clips) -> None:
    folder = clips(3, wrong=text)
    with pytest.raises(InputError, match=told) as refused:
        read_motions(folder)
    assert "wrong.json" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_folders_without_enough_clips_are_refused(clips, tmp_path) -> None:
    with pytest.raises(InputError, match=r"none: no such folder.*--data\.folder"):
        read_motions(tmp_path / "none")
    with pytest.raises(InputError, match="no clip of motion"):
        read_motions(tmp_path)
    with pytest.raises(InputError, match="2 clips; expected 3 or more"):
        FiguresDataModule(str(clips(2)), batch_size=2).setup()


# The data module.


def batch_of(data, split="test"):
    data.setup()
    loader = data.loader(split)
    return data.on_after_batch_transfer(next(iter(loader)), 0)


def test_batches_are_what_they_say() -> None:
    batch = batch_of(FiguresDataModule(**SMALL))
    assert batch.images.shape == batch.depth.shape == (4, 1, 24, 24)
    assert batch.joints.shape == (4, 15, 2)
    assert batch.visible.shape == (4, 15)
    assert batch.positions.shape == (4, 15, 3)
    assert not batch.positions[:, 0].any()
    assert 0 <= batch.images.min() < batch.images.max() <= 1
    assert (batch.depth > 0).sum(dim=(1, 2, 3)).tolist() == batch.areas.tolist()
    in_meters = batch_of(FiguresDataModule(**SMALL, dims=3))
    assert torch.equal(in_meters.joints, batch.positions)
    assert in_meters.positions is None
    column, row = batch.joints[batch.visible].floor().long().unbind(dim=1)
    figure = batch.visible.nonzero()[:, 0]
    assert (batch.depth[figure, 0, row, column] > 0).all()


def test_an_example_depends_on_draw_and_its_number_alone() -> None:
    one, other = (FiguresDataModule(**SMALL, seed=seed) for seed in (0, 7))
    one.setup()
    other.setup()
    for split in ("train", "test"):
        assert torch.equal(one.stores[split].inputs, other.stores[split].inputs)
        assert torch.equal(one.stores[split].labels, other.stores[split].labels)
    changed = FiguresDataModule(**SMALL, draw=1)
    changed.setup()
    assert not torch.equal(changed.stores["train"].inputs, one.stores["train"].inputs)
    assert torch.equal(changed.stores["test"].inputs, one.stores["test"].inputs)


def test_processes_share_the_batches_of_one() -> None:
    data = FiguresDataModule(**SMALL)
    data.setup()
    whole = next(iter(data.train_dataloader()))
    parts = []
    for rank in range(2):
        type(data).process = property(lambda self, rank=rank: (rank, 2))
        try:
            parts.append(next(iter(data.train_dataloader())))
        finally:
            del type(data).process
    assert sorted([*parts[0].indices.tolist(), *parts[1].indices.tolist()]) == sorted(whole.indices.tolist())
    images = data.on_after_batch_transfer(whole, 0).images
    mine = data.on_after_batch_transfer(parts[1], 0)
    place = whole.indices.tolist().index(mine.indices[0].item())
    assert torch.equal(images[place], mine.images[0])  # noise and all


@pytest.mark.parametrize("folder", [False, True])
def test_clips_are_disjoint(folder, clips) -> None:
    source = {"folder": str(clips(8)), "frames": None, "repeats": 2} if folder else {}
    data = FiguresDataModule(**{**SMALL, "val_size": 0.2, **source})
    data.setup()
    train = {data._clips_of["train"][n] for n in data._train.tolist()}
    val = {data._clips_of["train"][n] for n in data._val.tolist()}
    test = set(data._clips_of["test"])
    assert train
    assert val
    assert test
    assert not train & val
    if folder:
        assert not (train | val) & test
        assert train | val | test == {f"clip{n}.txt" for n in range(8)}
    else:
        known, other = (data.motion(split).rotations[:, NUMBERS["chest"], 1] for split in ("train", "test"))
        assert len(known) == 3 * 9
        assert not torch.isin(other, known).any()
    assert "clips of train" in str(data)


@pytest.mark.parametrize(("size", "held"), [(1, 1), (2, 1), (7, 2), (12, 3), (0.25, 2)])
def test_the_test_set_has_whole_clips_next_to_its_size(size, held, clips) -> None:
    source = {"folder": str(clips(8, frames=2)), "frames": None, "repeats": 2}
    data = FiguresDataModule(**{**SMALL, **source, "test_size": size, "val_size": 2})
    data.setup()
    assert len(set(data._clips_of["test"])) == held
    assert len(data.store("test")) == 4 * held


def test_a_viewpoint_turns_what_the_camera_sees_and_not_the_body() -> None:
    fixed = {**SMALL, "dims": 3, "elevation": (0.0, 0.0), "aim": 0.0, "distance": (4.0, 4.0), "noise": 0.0}
    front, side = (batch_of(FiguresDataModule(**fixed, azimuth=(angle, angle))).joints for angle in (0.0, 60.0))
    turn = torch.tensor([[cos(pi / 3), 0, -sin(pi / 3)], [0, 1, 0], [sin(pi / 3), 0, cos(pi / 3)]])
    assert torch.allclose(side, front @ turn, atol=1e-5)
    assert not torch.allclose(side, front, atol=0.05)
    own = [batch_of(FiguresDataModule(**fixed, azimuth=(angle, angle), frame="body")).joints for angle in (0.0, 60.0)]
    assert torch.equal(*own)


def test_bodies_face_the_camera_whatever_their_motion_turns(tmp_path) -> None:
    for number, turn in enumerate((0.0, 2.0, -1.0)):
        frame = standing(at4=[cos(turn / 2), 0.0, sin(turn / 2), 0.0])
        (tmp_path / f"{number}.txt").write_text(json.dumps({"Frames": [frame] * 4}))
    wanted = {"folder": str(tmp_path), "frames": None, "azimuth": (0.0, 0.0), "limbs": 0.0, "dims": 3}
    joints = {}
    for facing in (True, False):
        data = FiguresDataModule(**wanted, size=16, batch_size=4, facing=facing, elevation=(0.0, 0.0), frame="body")
        data.setup()
        labels = torch.cat([data.stores[split].labels for split in ("train", "test")])
        joints[facing] = labels[:, 30:75]
    assert torch.allclose(joints[True], joints[True][:1].expand(12, -1), atol=1e-5)
    assert not torch.allclose(joints[False], joints[False][:1].expand(12, -1), atol=0.05)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"size": 4}, "size=4: expected 8 to 512"),
        ({"elevation": (-100.0, 0.0)}, "elevation=.*-90 to 90"),
        ({"azimuth": (10.0, -10.0)}, "azimuth=.*the least and the greatest"),
        ({"distance": (1.0, 4.0)}, r"distance=.*2\.0 meters"),
        ({"frames": None}, "frames=null.*data.folder"),
        ({"dims": 4}, "dims=4: expected 2"),
        ({"noise": 1.0}, r"noise=1\.0"),
        ({"limbs": 0.5}, r"limbs=0\.5"),
        ({"frame": "world"}, "frame='world': expected one of camera, body"),
        ({"clips": 0}, "clips=0"),
    ],
)
def test_values_out_of_range_are_refused(wrong, told) -> None:
    with pytest.raises(InputError, match=told):
        FiguresDataModule(**wrong)


def test_joints_of_both_skeletons_have_bones_and_mirror_images() -> None:
    for names in (BODY_JOINTS, COCO_JOINTS):
        swapped = mirrored(names)
        assert [swapped[n] for n in swapped] == list(range(len(names)))
        bones = bones_of(names)
        assert {n for bone in bones for n in bone} == set(range(len(names)))
        assert sorted(tuple(sorted((swapped[a], swapped[b]))) for a, b in bones) == sorted(
            tuple(sorted(bone)) for bone in bones
        )


def test_pictures_of_ones_own_are_predicted_without_labels(tmp_path) -> None:
    for number in range(3):
        Image.new("L", (30, 20), 40 * number).save(tmp_path / f"{number}.png")
    data = FiguresDataModule(**SMALL, images=str(tmp_path))
    data.setup("predict")
    (stored,) = data.predict_dataloader()
    batch = data.on_after_batch_transfer(stored, 0)
    assert batch.images.shape == (3, 1, 24, 24)
    assert [round(255 * image.max().item()) for image in batch.images] == [0, 40, 80]  # without noise
    assert batch.joints.isnan().all()
    assert not batch.visible.any()
    assert [data.name_of(n) for n in range(3)] == [str(tmp_path / f"{n}.png") for n in range(3)]
    with pytest.raises(InputError, match=r"none\.png: no such file"):
        FiguresDataModule(**SMALL, images=str(tmp_path / "none.png")).setup("predict")
