"""Networks for masks, boxes and joints shared: rebuilt from what their files state, and as ONNX."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from trained import fit

from capsule_lightning.cli import main
from capsule_lightning.encoders.deca import DECAEncoder
from capsule_lightning.models.center_capsnet import CenterCapsNet
from capsule_lightning.models.center_net import CenterNet
from capsule_lightning.models.matwo_capsnet import MatwoCapsNet
from capsule_lightning.models.pose_capsnet import PoseCapsNet
from capsule_lightning.models.pose_cnn import PoseCNN
from capsule_lightning.models.segcaps import SegCaps
from capsule_lightning.models.unet import UNet
from capsule_lightning.runs.plain_values import path_of
from capsule_lightning.sharing.export import export, load_network
from capsule_lightning.sharing.network_file import network_from
from capsule_lightning.sharing.onnx import OnnxOutputs, onnx_model

SEGCAPS = {"types": [1, 2, 2], "dims": [4, 4, 4], "kernel_size": 3}
CENTERS = {"stem": 4, "planes": [8, 8], "num_types": 3, "dim": 4, "kernel_size": 3, "presence_dim": 4}
ENCODER = {"channels": [4, 8], "kernel_size": 3, "strides": [2, 2], "paddings": None, "num_types": 2, "dim": 4}
SHARED = {
    "masks": (SegCaps, SEGCAPS),
    "boxes": (CenterCapsNet, {**CENTERS, "deformable": False}),
    "joints": (PoseCapsNet, {"dim": 4, "depth_hidden": [8]}),
}


@pytest.mark.parametrize("kind", SHARED)
def test_a_network_is_rebuilt_from_what_its_file_states(kind: str) -> None:
    cls, options = SHARED[kind]
    made = dict(options)
    if kind == "joints":
        made["encoder"] = partial(DECAEncoder, **ENCODER)
        options = {**options, "encoder": {"class_path": path_of(DECAEncoder), "init_args": ENCODER}}
    net = cls((1, 16, 16), 3, **made).eval()
    slot = {"class_path": path_of(cls), "init_args": options}
    metadata = {"net": json.dumps(slot), "in_shape": "[1, 16, 16]", "num_classes": "3"}
    metadata |= {"class_names": '["background", "a", "b"]', "normalization": '{"kind": "none"}'}
    found = network_from(net.state_dict(), metadata, "net.safetensors")
    images = torch.rand(2, 1, 16, 16)
    names = OnnxOutputs(net).names
    with torch.no_grad():
        ours, theirs = OnnxOutputs(net)(images), OnnxOutputs(found)(images)
    assert len(ours) == len(names)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    said = found.predict((images * 255).to(torch.uint8))
    if kind == "masks":
        assert said.classes.shape == (2, 16, 16)
        assert "background" not in "".join(said.names)
    elif kind == "boxes":
        assert said.boxes.shape == (2, 48, 4)  # 3 classes in 16 cells
        assert ((said.boxes >= 0) & (said.boxes <= 16)).all()
    else:
        assert said.joints.shape == (2, 3, 2)
        assert said.depth.shape == (2, 1, 16, 16)


NETS = {
    "segcaps": lambda: SegCaps((1, 16, 16), 3, **SEGCAPS),
    "unet": lambda: UNet((1, 16, 16), 3, parameters=9000),
    "matwo": lambda: MatwoCapsNet((1, 16, 16), 3, types=(2, 2, 2, 2), iterations=2),
    "center": lambda: CenterNet((1, 32, 32), 3, stem=4, planes=(8, 8), hidden=8),
    "center_capsules": lambda: CenterCapsNet((1, 32, 32), 3, **CENTERS, deformable=False),
    "deformable": lambda: CenterCapsNet((1, 32, 32), 3, **CENTERS),
    "pose": lambda: PoseCapsNet((1, 16, 16), 5, encoder=partial(DECAEncoder, **ENCODER), dim=4, depth_hidden=(8,)),
    "pose_cnn": lambda: PoseCNN((1, 32, 32), 5),
}


@pytest.mark.nightly
@pytest.mark.parametrize("name", NETS)
def test_onnx_computes_what_the_network_does(name: str) -> None:
    torch.manual_seed(0)
    assert onnx_model(NETS[name](), {})  # which runs it, for two sizes of a batch, and refuses other outputs


RUNS = {
    "segmentation": ("--data.scenes=16", "--data.val_scenes=9", "--data.test_scenes=9"),
    "detection": (
        *("--data.scenes=16", "--data.val_scenes=9", "--data.test_scenes=9", "--data.image_size=32"),
        *("--data.min_size=8", "--data.max_size=12"),
    ),
    "pose": ("--data.clips=16", "--data.frames=4", "--data.size=24", "--data.val_size=0.125", "--data.test_size=0.125"),
}


@pytest.mark.nightly
@pytest.mark.parametrize("task", RUNS)
def test_a_shared_file_is_tested_and_predicts_as_its_checkpoint(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = fit(tmp_path, f"--config={task}.yaml", *RUNS[task])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    shared = export(checkpoint, tmp_path / "net.safetensors").path
    images = torch.rand(2, *load_network(shared).in_shape)
    with torch.no_grad():
        pairs = zip(*(OnnxOutputs(load_network(path))(images) for path in (shared, checkpoint)), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    scores = []
    for name, path in (("a", checkpoint), ("b", shared)):
        main(["test", f"--ckpt_path={path}", f"--runs={name}", "--run_id=one", "--trainer.accelerator=cpu"])
        (table,) = (tmp_path / name).glob("*/*/test/metrics.csv")
        rows = [line.split(",") for line in table.read_text().splitlines()]
        scores.append({row[2]: row[3] for row in rows if row[2].startswith("test/")})
    assert len(scores[0]) >= 2
    assert scores[0] == scores[1]
    (tmp_path / "pictures").mkdir()
    from PIL import Image

    Image.new("L", (20, 30), 90).save(tmp_path / "pictures" / "a.png")
    main(["predict", f"--ckpt_path={shared}", "--data.images=pictures", "--run_id=p", "--trainer.accelerator=cpu"])
    assert list(tmp_path.glob("runs/*/p/predict/*"))
