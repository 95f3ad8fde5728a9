"""Joints in arrays: every layout, distances as pictures, splits that are kept, and every fault named."""

import numpy as np
import pytest
import torch

from capsule_lightning.data.joint_arrays import JointArraysDataModule
from capsule_lightning.data.skeletons import BODY_JOINTS
from capsule_lightning.errors import InputError

RANDOM = np.random.default_rng(0)
DEPTH = RANDOM.uniform(1.0, 4.0, (30, 12, 10)).astype(np.float32)
PIXELS = RANDOM.uniform(0, 10, (30, 15, 2)).astype(np.float32)
METERS = RANDOM.normal(0, 1, (30, 15, 3)).astype(np.float32)
BYTES = RANDOM.integers(0, 256, (30, 12, 10, 3), dtype=np.uint8)


@pytest.fixture
def make(tmp_path):
    """Makes data of arrays in an archive."""

    def make(options=None, **arrays):
        np.savez(tmp_path / "bodies.npz", **arrays)
        return JointArraysDataModule(
            str(tmp_path / "bodies.npz"), **{"batch_size": 4, "val_size": 0.2, **(options or {})}
        )

    return make


def every(data, split):
    return [data.on_after_batch_transfer(batch, 0) for batch in data.loader(split)]


def test_distances_become_bright_where_they_are_near(make) -> None:
    depth = DEPTH.copy()
    depth[:, 0, 0], depth[:, 0, 1], depth[:, 0, 2] = 0, np.nan, np.inf
    depth[:, 1, 0], depth[:, 1, 1] = 1.0, 5.0
    data = make({"near": 1.0, "far": 4.0}, depth=depth, joints=PIXELS)
    data.setup()
    found = torch.cat([batch.pictures for batch in every(data, "train")])
    assert found.shape == (24, 1, 12, 10)
    assert (found[:, 0, 0, :3] == 0).all()
    assert (found[:, 0, 1, 0] == 1).all()
    assert (found[:, 0, 1, 1] == 0).all()
    places = data._places["train"]
    expected = np.clip((4 - depth[places][:, 5:]) / 3, 0, 1)
    assert np.abs(found[:, 0, 5:].numpy() - expected).max() <= 0.5 / 255 + 1e-6
    assert data.is_depth


def test_joints_in_pixels_are_kept_and_missing_ones_are_unlabeled(make) -> None:
    joints = PIXELS.copy()
    joints[3, 2, 0] = np.nan
    visible = np.ones((30, 15), bool)
    visible[3, 4] = False
    data = make(None, images=BYTES, joints=joints, visible=visible, areas=np.arange(30.0))
    data.setup()
    assert data.in_shape == (3, 12, 10)
    assert data.class_names == list(BODY_JOINTS)
    labels = {}
    for split in ("train", "test"):
        for batch in every(data, split):
            for n, index in enumerate(batch.indices.tolist()):
                labels[data._places[split][index].item()] = (batch.joints[n], batch.visible[n], batch.areas[n].item())
    assert sorted(labels) == list(range(30))
    for n, (found, seen, area) in labels.items():
        assert area == n
        if n != 3:
            assert np.array_equal(found.numpy(), PIXELS[n])
            assert seen.all()
    assert labels[3][0][2].isnan().all()
    assert labels[3][1].tolist() == [k not in (2, 4) for k in range(15)]


def test_joints_in_meters_are_from_the_root(make) -> None:
    data = make({"dims": 3}, images=BYTES, joints=METERS)
    data.setup()
    batch = every(data, "test")[0]
    places = data._places["test"][batch.indices]
    expected = METERS[places] - METERS[places][:, :1]
    assert np.allclose(batch.joints.numpy(), expected, atol=1e-6)


def test_named_splits_and_groups_are_kept(make) -> None:
    words = np.array(["test", "train", "val"] * 10)
    data = make(None, images=BYTES, joints=PIXELS, split=words)
    data.setup()
    assert len(data.stores["test"]) == len(data._val) == 10
    order = data._places_of("train")
    assert set(words[order[data._val]]) == {"val"}
    assert set(words[order[data._train]]) == {"train"}
    groups = np.array([f"clip {n // 3}" for n in range(30)])
    data = make(None, images=BYTES, joints=PIXELS, groups=groups)
    data.setup()
    order = data._places_of("train")
    parts = [set(groups[order[data._train]]), set(groups[order[data._val]]), set(groups[data._places["test"]])]
    assert all(parts)
    assert sum(map(len, parts)) == len(set.union(*parts)) == 10


WRONG = {
    "no-pictures": ({"joints": PIXELS}, {}, "no array depth or images"),
    "no-joints": ({"images": BYTES}, {}, "no array 'joints'"),
    "fewer": ({"images": BYTES, "joints": PIXELS[:5]}, {}, r"joints: has the shape \(5, 15, 2\); expected \(30, "),
    "flat": ({"images": BYTES, "joints": PIXELS[..., 0]}, {}, "joints: has the shape"),
    "meters": ({"images": BYTES, "joints": METERS}, {}, "joints: has 3 coordinates, and dims=2; set --data.dims 3"),
    "words": ({"images": BYTES, "joints": PIXELS.astype(str)}, {}, "joints: has <U"),
    "infinite": ({"images": BYTES, "joints": np.full_like(PIXELS, np.inf)}, {}, "joints: has infinite values"),
    "visible": (
        {"images": BYTES, "joints": PIXELS, "visible": np.ones((30, 14), bool)},
        {},
        r"visible: has bool \(30, 14\)",
    ),
    "areas": ({"images": BYTES, "joints": PIXELS, "areas": np.ones(3)}, {}, "areas: has float64"),
    "names": (
        {"images": BYTES, "joints": PIXELS, "joint_names": np.array(["a"] * 15)},
        {},
        "joint_names: some are the same",
    ),
    "split": (
        {"images": BYTES, "joints": PIXELS, "split": np.array(["dev"] * 30)},
        {},
        "split: 'dev': expected train, val or test",
    ),
    "no-test": ({"images": BYTES, "joints": PIXELS, "split": np.array(["train"] * 30)}, {}, "split: none is test"),
    "one-end": ({"images": BYTES, "joints": PIXELS}, {"near": 1.0}, "near=1.0, far=None"),
    "reversed": ({"images": BYTES, "joints": PIXELS}, {"near": 2.0, "far": 1.0}, r"near=2\.0, far=1\.0"),
    "objects": ({"images": BYTES, "joints": np.array([None] * 30)}, {}, "never loaded"),
}


@pytest.mark.parametrize(("arrays", "options", "told"), WRONG.values(), ids=WRONG)
def test_arrays_that_do_not_fit_are_refused(arrays, options, told, make) -> None:
    with pytest.raises(InputError, match=told) as refused:
        make(options, **arrays)
    assert "\n" not in str(refused.value)


def test_labels_that_are_all_missing_are_refused(make) -> None:
    data = make(None, images=BYTES, joints=np.full_like(PIXELS, np.nan))
    with pytest.raises(InputError, match="no joint with a label"):
        data.setup()
