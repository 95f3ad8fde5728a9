"""A network that names any number of classes: the same answers from Python, from the command, and in every file."""

import csv
import json
from functools import partial
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image

from capsule_lightning.callbacks.predictions import PredictionTable
from capsule_lightning.cli import main
from capsule_lightning.data.image_table import ImageTableDataModule
from capsule_lightning.encoders.sabour import SabourEncoder
from capsule_lightning.errors import InputError
from capsule_lightning.losses.cross_entropy import BinaryCrossEntropyLoss
from capsule_lightning.losses.margin import MarginLoss
from capsule_lightning.losses.sliding_margin import SlidingMarginLoss
from capsule_lightning.models.capsnet import CapsNet
from capsule_lightning.models.cnn import BaselineCNN
from capsule_lightning.sharing.export import export, load_network, read_metadata
from capsule_lightning.sharing.network_file import network_from
from capsule_lightning.tasks.label_sets import LabelSetTask
from capsule_lightning.tasks.multilabel import MultiLabelTask

NAMES = ["cat", "dog", "emu"]
CAPSULES = partial(
    CapsNet,
    encoder=partial(SabourEncoder, channels=4, kernel_size=3, num_types=2, primary_kernel_size=3),
    decoder=None,
)
WAYS = {
    "lengths": (CAPSULES, MarginLoss, 0.02),
    "boundary": (CAPSULES, partial(SlidingMarginLoss, boundary=0.9), 0.5),
    "logits": (partial(BaselineCNN, channels=(4,), hidden=(8,)), BinaryCrossEntropyLoss, 0.52),
}
"""Networks and losses, and thresholds that some capsules of an untrained network reach."""
QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty images of noise in a table of classes."""
    folder, random = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    rows = ["path,label"]
    for number in range(60):
        pixels = random.integers(0, 256, (8, 8), dtype=np.uint8) // (1 + number % 4)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        rows.append(f"{number}.png,{'|'.join(name for n, name in enumerate(NAMES) if number >> n & 1)}")
    (folder / "labels.csv").write_text("\n".join(rows))
    return folder


def data_of(photos: Path, **options: object) -> ImageTableDataModule:
    return ImageTableDataModule(
        str(photos / "labels.csv"), label_separator="|", channels=1, batch_size=8, val_size=12, **options
    )


def trained(way: str, photos: Path, folder: Path) -> tuple[LabelSetTask, Path]:
    """A network after a step, and its checkpoint."""
    net, loss, threshold = WAYS[way]
    data = data_of(photos)
    L.seed_everything(1)
    task = LabelSetTask(data.in_shape, 3, net, loss, threshold)
    trainer = L.Trainer(**QUIET, default_root_dir=folder, max_steps=1, limit_val_batches=0, enable_checkpointing=False)
    trainer.fit(task, data)
    if way == "boundary":  # as if it had been trained for long: half of the lengths are beyond it
        torch.nn.init.constant_(task.loss.boundary, float(task.eval()(torch.rand(20, 1, 8, 8)).activations.median()))
    trainer.save_checkpoint(folder / "last.ckpt")
    return task.eval(), folder / "last.ckpt"


def expected(task: LabelSetTask, files: list[Path]) -> tuple[list[list[str]], torch.Tensor]:
    """The names of each image and the scores of all classes, from the network and the definitions alone."""
    pixels = np.stack([np.asarray(Image.open(file)) for file in files])[:, None] / 255
    mean, deviation = (each[0] for each in task.trained_on.statistics)
    with torch.no_grad():
        poses, lengths = task.net(torch.tensor((pixels - mean) / deviation, dtype=torch.float32))
    if isinstance(task.loss, BinaryCrossEntropyLoss):
        lengths = torch.sigmoid(poses[..., 0])
    if isinstance(task.loss, SlidingMarginLoss):  # 1/2 at the boundary, straight from there to 0 and to 1
        lengths = torch.from_numpy(np.interp(lengths, [0, task.loss.boundary.item(), 1], [0, 0.5, 1]))
    return [said_by(row, task.threshold) for row in lengths.tolist()], lengths.float()


def said_by(scores: list[float], threshold: float) -> list[str]:
    return [name for name, score in zip(NAMES, scores, strict=True) if score >= threshold]


def named(classes: list[list[int]]) -> list[list[str]]:
    return [[NAMES[n] for n in row if n >= 0] for row in classes]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.filterwarnings("ignore")
def test_every_file_of_a_network_names_the_classes_that_reach_its_threshold(
    way: str, photos: Path, tmp_path: Path
) -> None:
    task, checkpoint = trained(way, photos, tmp_path)
    files = sorted(photos.glob("*.png"))
    names, scores = expected(task, files)
    assert len({len(each) for each in names}) > 1
    shared = export(checkpoint).path
    for path in (checkpoint, shared):
        found = load_network(path).predict(files)
        assert found.names == names
        assert named(found.classes.tolist()) == names
        torch.testing.assert_close(found.lengths, scores, atol=1e-6, rtol=1e-4)
    assert float(read_metadata(shared)["threshold"]) == task.threshold

    table = PredictionTable(str(tmp_path / "t.csv"), embeddings=str(tmp_path / "e.npz"))
    trainer = L.Trainer(**QUIET, callbacks=[table], default_root_dir=tmp_path)
    trainer.predict(task, data_of(photos, images=str(photos)), return_predictions=False)
    assert_written(tmp_path, [str(file) for file in files], names, scores, task.threshold)


def assert_written(
    folder: Path, files: list[str], names: list[list[str]], scores: torch.Tensor, threshold: float
) -> None:
    """Read back what has been written, which says of each class what its column of lengths says."""
    with (folder / "t.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == files
    lengths = [[float(row[f"length_{name}"]) for name in NAMES] for row in rows]
    for row, said, own, score in zip(rows, names, lengths, scores.tolist(), strict=True):
        assert row["prediction"] == ", ".join(said)
        assert said_by(own, threshold) == said
        assert own == pytest.approx(score, abs=1e-6)
        least = min((length for name, length in zip(NAMES, own, strict=True) if name in said), default=1 - max(own))
        assert float(row["confidence"]) == pytest.approx(least)
    with np.load(folder / "e.npz") as found:
        assert named(found["classes"].tolist()) == names
        assert found["lengths"].tolist() == pytest.approx(np.array(lengths), abs=1e-6)
        assert found["names"].tolist() == files
        assert found["poses"].shape[:2] == (len(files), 3)


@pytest.mark.nightly
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.filterwarnings("ignore")
def test_the_command_and_onnx_say_the_same(
    way: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = pytest.importorskip("onnxruntime")
    task, checkpoint = trained(way, photos, tmp_path)
    files = sorted(photos.glob("*.png"))
    names, scores = expected(task, files)
    shared, onnx = export(checkpoint).path, export(checkpoint, tmp_path / "net.onnx").path
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["capsule_lightning"])
    for path in (checkpoint, shared):
        places = ("--output=t.csv", "--embeddings=e.npz", "--overwrite", "--trainer.accelerator=cpu")
        main(["predict", f"--ckpt_path={path}", f"--data.images={photos}", *places])
        assert_written(tmp_path, [str(file) for file in files], names, scores, task.threshold)
    session = runtime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    said = session.get_modelmeta().custom_metadata_map
    images = load_network(checkpoint).reader(files).numpy()
    (presence,) = session.run(["presence"], {"images": images})
    assert presence == pytest.approx(scores.numpy(), abs=1e-5)
    assert [said_by(row, json.loads(said["threshold"])) for row in presence.tolist()] == names


def test_a_network_of_several_objects_names_as_many() -> None:
    task = MultiLabelTask((1, 8, 8), 3, CAPSULES, num_labels=2)
    images = torch.rand(4, 1, 8, 8)
    state = {"num_labels": "2", "class_names": json.dumps(NAMES), "normalization": '{"kind": "none"}'}
    slot = {"class_path": "capsule_lightning.models.capsnet.CapsNet", "init_args": {"decoder": None}}
    slot["init_args"]["encoder"] = {
        "class_path": "capsule_lightning.encoders.sabour.SabourEncoder",
        "init_args": {"channels": 4, "kernel_size": 3, "num_types": 2, "primary_kernel_size": 3},
    }
    told = {"net": json.dumps(slot), "in_shape": "[1, 8, 8]", "num_classes": "3", **state}
    net = network_from(task.net.state_dict(), told, "net.safetensors")
    found = net.predict(images)
    assert torch.equal(found.classes, found.lengths.topk(2).indices)
    assert found.names == named(found.classes.tolist())
    assert torch.equal(found.classes, task.net.predict(images).classes)
    for wrong in ({"num_labels": "4"}, {"num_labels": "0", "threshold": "1.5"}, {"num_labels": "0", "threshold": "{}"}):
        with pytest.raises(InputError, match=r"net\.safetensors: the classes that it names cannot be told"):
            network_from(task.net.state_dict(), {**told, **wrong}, "net.safetensors")
