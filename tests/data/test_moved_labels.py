"""Boxes and joints that follow the augmentation of their images."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from capsule_lightning.augmentations.base import Augmentation
from capsule_lightning.augmentations.chain import Chain, Mirror, Resize
from capsule_lightning.augmentations.geometry import Affine, PaddedCrop, Shift
from capsule_lightning.augmentations.identity import NoAugmentation
from capsule_lightning.data.joint_arrays import JointArraysDataModule
from capsule_lightning.data.moved_labels import moved_boxes, moved_joints, require_followed
from capsule_lightning.data.skeletons import BODY_JOINTS, other_sides
from capsule_lightning.data.targets import ABSENT
from capsule_lightning.errors import InputError

SIZE = 32, 40
MOVES = {
    "shift": lambda: Shift(4),
    "affine": lambda: Affine(40, 0.3, 20, 3),
    "crop": lambda: PaddedCrop(3),
    "mirror": Mirror,
    "chain": lambda: Chain([Mirror, lambda: Affine(30, 0.2), lambda: Shift(2)]),
    "none": NoAugmentation,
}


def spots(points: torch.Tensor) -> torch.Tensor:
    """Images ``(B, 1, H, W)``, each with a smooth spot at a place ``(B, 2)``."""
    y = torch.arange(SIZE[0]).view(-1, 1) + 0.5
    x = torch.arange(SIZE[1]).view(1, -1) + 0.5
    away = (x - points[:, 0].view(-1, 1, 1)) ** 2 + (y - points[:, 1].view(-1, 1, 1)) ** 2
    return torch.exp(-away / (2 * 1.5**2)).unsqueeze(1)


@pytest.mark.parametrize("kind", MOVES)
def test_places_move_as_the_pixels_there_do(kind):
    augmentation: Augmentation = MOVES[kind]()
    random = torch.Generator().manual_seed(0)
    draws = torch.rand(64, augmentation.num_draws, generator=random)
    points = torch.tensor([20.0, 16.0]) + 8 * torch.rand(64, 2, generator=random) - 4
    images = augmentation.train(spots(points), draws).squeeze(1)
    moved = augmentation.move_points(points.unsqueeze(1), draws, SIZE).squeeze(1)
    inside = ((moved > 8) & (moved < torch.tensor([32.0, 24.0]))).all(dim=1)
    assert inside.sum() > 40
    total = images.sum(dim=(1, 2))
    x = (images.sum(dim=1) * (torch.arange(SIZE[1]) + 0.5)).sum(dim=1) / total
    y = (images.sum(dim=2) * (torch.arange(SIZE[0]) + 0.5)).sum(dim=1) / total
    # bilinear resampling of a spot, smaller or larger, moves its center by a few hundredths of a pixel
    assert_close(torch.stack([x, y], dim=1)[inside], moved[inside], rtol=0, atol=0.05)


@pytest.mark.parametrize("kind", ["shift", "crop", "mirror"])
def test_boxes_lie_around_the_pixels_that_were_moved(kind):
    augmentation = MOVES[kind]()
    draws = torch.rand(40, augmentation.num_draws, generator=torch.Generator().manual_seed(1))
    images, boxes = torch.zeros(40, 1, *SIZE), torch.tensor([[[3.0, 5.0, 12.0, 9.0], [0, 0, 0, 0]]]).repeat(40, 1, 1)
    images[:, :, 5:9, 3:12] = 1
    labels, crowd = torch.tensor([[2, ABSENT]]).repeat(40, 1), torch.zeros(40, 2, dtype=torch.bool)
    found, classes, crowds = moved_boxes(boxes, labels, crowd, augmentation, draws, SIZE)
    for seen, box in zip(augmentation.train(images, draws)[:, 0], found[:, 0], strict=True):
        rows, columns = (seen > 0).nonzero().unbind(dim=1)
        assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert classes.equal(labels)
    assert not crowds.any()


def test_what_is_moved_out_is_absent_and_what_hardly_remains_counts_nowhere():
    draws = torch.tensor([[0.999, 0.5], [0.0, 0.5], [0.5, 0.5]])  # 4 up, 4 down, not at all
    boxes = torch.tensor([[[0.0, 0.0, 8.0, 4.0], [10.0, 0.0, 18.0, 5.0], [20.0, 0.0, 28.0, 8.0]]]).repeat(3, 1, 1)
    labels, crowd = torch.tensor([[0, 1, 2]]).repeat(3, 1), torch.zeros(3, 3, dtype=torch.bool)
    found, classes, crowds = moved_boxes(boxes, labels, crowd, Shift(4), draws, SIZE)
    assert classes.tolist() == [[ABSENT, 1, 2], [0, 1, 2], [0, 1, 2]]
    assert crowds.tolist() == [[False, True, False], [False] * 3, [False] * 3]  # a fifth of the second remains
    assert found[0].tolist() == [[0, 0, 0, 0], [10, 0, 18, 1], [20, 0, 28, 4]]
    assert found[1, 0].tolist() == [0, 4, 8, 8]


def test_left_becomes_right_in_a_mirror_and_joints_out_of_sight_are_not_seen():
    assert other_sides(BODY_JOINTS)[3:] == [*range(9, 15), *range(3, 9)]
    joints = torch.tensor([[[1.0, 2.0], [5.0, 6.0], [39.0, 8.0], [torch.nan, torch.nan]]]).repeat(2, 1, 1)
    visible, areas = torch.tensor([[True, False, True, False]] * 2), torch.tensor([10.0, 10.0])
    order = other_sides(["head", "left_eye", "right_eye", "tail"])
    draws = torch.tensor([[0.1], [0.9]])  # the first is mirrored
    found, seen, covered = moved_joints(joints, visible, areas, Mirror(), draws, SIZE, order)
    assert_close(found[0, :3], torch.tensor([[39.0, 2.0], [1.0, 8.0], [35.0, 6.0]]))
    assert_close(found[1], joints[1], equal_nan=True)
    assert found[0, 3].isnan().all()
    assert seen.tolist() == [[True, True, False, False], [True, False, True, False]]
    assert covered.tolist() == [10, 10]
    _, seen, _ = moved_joints(joints, visible, areas, Shift(4), torch.tensor([[0.5, 0.0]] * 2), SIZE, order)
    assert seen[0].tolist() == [True, False, False, False]  # the third has left on the right
    _, _, covered = moved_joints(joints, visible, areas, Affine(0, 0.5, 0, 0), torch.full((2, 5), 1.0), SIZE, order)
    assert_close(covered, torch.tensor([22.5, 22.5]))


def arrays(path, **more):
    """Bodies on the left of their pictures."""
    pictures = np.zeros((12, 16, 16), np.uint8)
    pictures[:, 4:8, 2:5] = 200
    joints = np.array([[3.5, 6.0], [2.0, 4.0], [5.0, 8.0]], np.float32)[None].repeat(12, axis=0)
    named = {"images": pictures, "joints": joints, "joint_names": np.array(["head", "left_hand", "right_hand"])}
    np.savez(path, **named, **more)
    return str(path)


def test_training_images_and_joints_are_mirrored_alike_and_evaluation_is_not(tmp_path):
    path = arrays(tmp_path / "bodies.npz", areas=np.full(12, 12.0, np.float32))
    data = JointArraysDataModule(path, augmentation=Mirror, batch_size=4, noise=0.01)
    data.setup("fit")
    seen = set()
    for stored in data.train_dataloader():
        batch = data.on_after_batch_transfer(stored, 0)
        for picture, joints, depth in zip(batch.pictures, batch.joints, batch.depth, strict=True):
            mirrored = bool(picture[0, 5, 12] > 0.5)
            seen.add(mirrored)
            expected = [[12.5, 6], [11, 8], [14, 4]] if mirrored else [[3.5, 6], [2, 4], [5, 8]]
            assert joints.tolist() == expected
            assert bool(depth[0, 5, 12] > 0.5) == mirrored
        assert batch.areas.tolist() == [12] * 4
    assert seen == {True, False}
    batch = data.on_after_batch_transfer(next(iter(data.val_dataloader())), 0)
    assert batch.joints[0].tolist() == [[3.5, 6], [2, 4], [5, 8]]


def test_what_cannot_be_followed_is_refused(tmp_path):
    path = arrays(tmp_path / "bodies.npz")
    with pytest.raises(InputError, match=r"augmentation=Resize: joints cannot follow"):
        JointArraysDataModule(path, augmentation=lambda: Resize(8)).setup("fit")
    with pytest.raises(InputError, match=r"augmentation=Resize: boxes"):
        require_followed(Resize(8), (1, 16, 16), "boxes")
    np.savez(tmp_path / "meters.npz", images=np.zeros((4, 8, 8), np.uint8), joints=np.zeros((4, 2, 3), np.float32))
    with pytest.raises(InputError, match=r"joints in meters \(dims=3\)"):
        JointArraysDataModule(str(tmp_path / "meters.npz"), dims=3, augmentation=Mirror)
