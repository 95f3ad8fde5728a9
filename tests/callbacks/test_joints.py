"""What is drawn and written of joints."""

import csv
import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from capsule_lightning.callbacks.joint_table import JointRow, joint_arrays, joint_text
from capsule_lightning.callbacks.joints import JointFigures
from capsule_lightning.data.skeletons import BODY_JOINTS
from capsule_lightning.data.targets import JointBatch
from capsule_lightning.errors import InputError
from capsule_lightning.tasks.pose import PosePrediction


def batch_of(count, dims=2, start=0):
    images = torch.rand(count, 1, 8, 8)
    joints = 8 * torch.rand(count, 15, dims)
    return JointBatch(
        images, images, joints, torch.ones(count, 15, dtype=torch.bool), torch.arange(start, start + count)
    )


def prediction_of(batch, distances):
    presence = torch.rand(len(batch.joints), 15)
    return PosePrediction(
        batch.joints, presence, torch.tensor(distances), None, None, torch.zeros(len(presence), 15, 4)
    )


@pytest.mark.parametrize("dims", [2, 3])
def test_the_first_and_the_worst_images_are_drawn(dims, tmp_path) -> None:
    figures = JointFigures(count=3)
    batches = [batch_of(2, dims), batch_of(4, dims, 2)]
    distances = [[0.5, float("nan")], [3.0, 0.1, 9.0, 1.0]]
    for batch, apart in zip(batches, distances, strict=True):
        figures.keep(None, prediction_of(batch, apart), batch)
    captions = [row.caption for row in figures._first]
    assert captions == (["0.5 pixels", "", "3.0 pixels"] if dims == 2 else ["500 mm", "", "3000 mm"])
    assert [apart for apart, _ in figures._worst] == pytest.approx([9.0, 3.0, 1.0])
    run = SimpleNamespace(
        datamodule=SimpleNamespace(class_names=BODY_JOINTS),
        default_root_dir=str(tmp_path),
        global_step=1,
        loggers=[],
        fast_dev_run=False,
    )
    figures.draw_kept(run, None, "val", "val, after 1 epochs")
    for name in ("val_joints", "val_worst_joints"):
        assert (tmp_path / "figures" / f"{name}.png").stat().st_size > 1000


def test_predictions_of_classes_are_left_out() -> None:
    figures = JointFigures()
    figures.keep(None, SimpleNamespace(classes=torch.zeros(2)), batch_of(2))
    assert not figures._first
    with pytest.raises(InputError, match="count=0"):
        JointFigures(count=0)


def rows(dims=2):
    joints = np.arange(3 * dims, dtype=np.float32).reshape(3, dims)
    return [
        JointRow(0, joints, [0.5, 0.25, 1.0], 1.5, np.ones((3, 4))),
        JointRow(1, joints + 1, [0.5, 0.25, 1.0], None, np.ones((3, 4))),
    ]


@pytest.mark.parametrize("dims", [2, 3])
def test_the_table_is_read_back(dims) -> None:
    found = list(csv.DictReader(io.StringIO(joint_text(rows(dims), ["=a.png", "b,c"], ["nose", "left_hip", "c"]))))
    assert [each["image"] for each in found] == ["'=a.png", "b,c"]
    assert [each["distance"] for each in found] == ["1.5", ""]
    assert float(found[1]["left_hip_y"]) == dims + 2
    assert ("left_hip_z" in found[0]) == (dims == 3)
    assert found[0]["c_presence"] == "1.0"


def test_arrays_need_no_pickle(tmp_path) -> None:
    np.savez(tmp_path / "p.npz", **joint_arrays(rows(), ["a", "b"], ["x", "y", "z"]))
    with np.load(tmp_path / "p.npz", allow_pickle=False) as found:
        assert found["joints"].shape == (2, 3, 2)
        assert found["poses"].shape == (2, 3, 4)
        assert found["joint_names"].tolist() == ["x", "y", "z"]
        assert found["presence"].shape == (2, 3)


@pytest.mark.nightly
def test_a_run_is_drawn_and_its_predictions_are_written(run_main, tmp_path) -> None:
    few = ("--data.clips=12", "--data.frames=2", "--data.batch_size=4", "--trainer.max_epochs=1", "--run_id=one")
    folder = run_main("fit", "--config", "pose.yaml", *few) / "runs/pose/one"
    for name in ("val_joints", "val_worst_joints", "test_joints", "test_worst_joints"):
        assert (folder / "figures" / f"{name}.png").exists()
    Image.new("L", (30, 20)).save(tmp_path / "body.png")
    words = ("--ckpt_path", str(folder / "checkpoints/last.ckpt"), "--data.images", str(tmp_path / "body.png"))
    run_main("predict", *words, "--output", str(tmp_path / "joints.csv"))
    (found,) = csv.DictReader((tmp_path / "joints.csv").open(newline=""))
    assert found["image"].endswith("body.png")
    assert found["distance"] == ""
    assert -100 < float(found["left_knee_x"]) < 100
    assert (folder / "predict/figures/predict_joints.png").exists()
