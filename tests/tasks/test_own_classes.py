"""Routing, encoder, decoder, loss and task in a file of one's own, outside the package, named by their class paths."""

import csv
import math
import sys
from pathlib import Path

import pytest
import torch
from trained import LEAN

from capsule_lightning.analysis.class_routing import child_map
from capsule_lightning.encoders.base import CapsuleMap
from capsule_lightning.report.panel import decoder_layers, is_chain
from capsule_lightning.report.pictures import coupling_pictures
from capsule_lightning.report.trained_network import load_from_run

CLASSES = '''
import torch
from torch import nn

from capsule_lightning.capsules import Capsules
from capsule_lightning.decoders.base import Decoder, mask
from capsule_lightning.encoders.base import CapsuleMap, Encoder
from capsule_lightning.layers.squash import squash
from capsule_lightning.layers.votes import vote, vote_weight
from capsule_lightning.losses.base import ClassificationLoss, multi_hot
from capsule_lightning.routing.base import Routing


class NormRouting(Routing):
    """Couples each child to the parents by the lengths of its votes."""

    def __init__(self, num_in: int, dim_in: int, num_out: int, dim_out: int, *, sharpness: float = 1.0) -> None:
        super().__init__(num_in, dim_in, num_out, dim_out)
        self.sharpness = sharpness
        self.weight = vote_weight(num_in, num_out, dim_out, dim_in)

    def forward(self, capsules: Capsules) -> Capsules:
        couplings, votes = self.couplings(capsules), vote(capsules.poses, self.weight)
        return Capsules.from_vectors(squash((couplings.unsqueeze(-1) * votes).sum(dim=-3)))

    def couplings(self, capsules: Capsules) -> torch.Tensor:
        return (self.sharpness * vote(capsules.poses, self.weight).norm(dim=-1)).softmax(dim=-1)


class PatchEncoder(Encoder):
    """One capsule of each type for every patch of the image."""

    def __init__(self, in_shape: tuple[int, ...], *, patch: int = 2, types: int = 4) -> None:
        super().__init__()
        self.in_shape, self.types, self.dim = in_shape, types, 8
        self.rows, self.columns = in_shape[1] // patch, in_shape[2] // patch
        self.num_capsules = self.rows * self.columns * types
        self.conv = nn.Conv2d(in_shape[0], types * 8, patch, patch)

    def forward(self, images: torch.Tensor) -> Capsules:
        maps = self.conv(images).unflatten(1, (self.types, 8))
        return Capsules.from_vectors(squash(maps.permute(0, 3, 4, 1, 2).flatten(1, 3)))

    def capsule_map(self) -> CapsuleMap:
        return CapsuleMap(self.types, self.rows, self.columns)


class LineDecoder(Decoder):
    """A single layer."""

    def __init__(self, num_classes: int, dim: int, out_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.out_shape, self.layer = out_shape, nn.Linear(num_classes * dim, torch.Size(out_shape).numel())

    def forward(self, poses: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return self.layer(mask(poses, labels).flatten(1)).sigmoid().reshape(-1, *self.out_shape)

    def steps(self) -> list[nn.Module]:
        return [self.layer, nn.Sigmoid()]


class BrierLoss(ClassificationLoss):
    """Squared distance of the lengths from 1 and 0."""

    def forward(self, capsules: Capsules, targets: torch.Tensor) -> torch.Tensor:
        lengths = capsules.activations
        return (lengths - multi_hot(targets, lengths)).square().sum(dim=-1).mean()
'''

TASK = '''
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch.nn.functional import affine_grid, grid_sample
from torchmetrics import MeanAbsoluteError

from capsule_lightning.data.base import ImageBatch
from capsule_lightning.models.base import CapsuleNet
from capsule_lightning.models.capsnet import CapsNet
from capsule_lightning.tasks.base import ScheduleCallable, Task


class Angles(NamedTuple):
    """Of each image, by how much it was turned and what the network says, in radians."""

    true: torch.Tensor
    said: torch.Tensor


class RotationTask(Task):
    """Tell by how much an image was turned: a regression, which needs no labels."""

    def __init__(
        self,
        in_shape: tuple[int, ...],
        num_classes: int,
        net: Callable[[tuple[int, ...], int], CapsuleNet] = CapsNet,
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_scheduler: ScheduleCallable | None = None,
    ) -> None:
        super().__init__(optimizer, lr_scheduler)
        self.net = net(in_shape, 2)  # one capsule for the sine and one for the cosine

    def output(self, batch: ImageBatch) -> Angles:
        true = math.pi * (batch.indices * 0.618 % 1 - 0.5)  # of each image always the same
        turn = torch.stack([true.cos(), -true.sin(), 0 * true, true.sin(), true.cos(), 0 * true], dim=1).view(-1, 2, 3)
        images = grid_sample(batch.images, affine_grid(turn, list(batch.images.shape), align_corners=False))
        sine, cosine = self.net(images).poses.sum(dim=-1).unbind(dim=-1)
        return Angles(true, torch.atan2(sine, cosine))

    def losses(self, output: Angles, batch: ImageBatch) -> dict[str, torch.Tensor]:
        return {"loss": (1 - (output.true - output.said).cos()).mean()}

    def prediction(self, output: Angles, batch: ImageBatch) -> Angles:
        return output

    def metrics(self, stage: str) -> dict[str, MeanAbsoluteError]:
        return {"error": MeanAbsoluteError()}

    def compared(self, output: Angles, batch: ImageBatch) -> Angles:
        return output
'''

FIT = (
    "fit",
    "--data",
    "DigitsDataModule",
    "--data.batch_size",
    "128",
    "--trainer.accelerator",
    "cpu",
    "--run_id",
    "own",
)
NET = ("--model.net.encoder", "my_classes.PatchEncoder", "--model.net.decoder", "my_classes.LineDecoder")
pytestmark = pytest.mark.filterwarnings("ignore")  # of the trainer and of torch: few workers, corners of grids


@pytest.fixture
def run_own(run_main, tmp_path, monkeypatch):
    """The program, in a folder with files of one's own; gives back the folder of the run ``own``."""
    monkeypatch.syspath_prepend(tmp_path)
    for name, text in (("my_classes", CLASSES), ("my_task", TASK)):
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)

    def run(*words: str) -> Path:
        run_main(*words)
        (folder,) = (tmp_path / "runs").glob("*/own")
        return folder

    yield run
    for name in ("my_classes", "my_task"):
        sys.modules.pop(name, None)


def curve(folder: Path, metric: str) -> list[float]:
    with (folder / "metrics.csv").open() as file:
        return [float(row["value"]) for row in csv.DictReader(file) if row["metric"] == metric]


def test_a_routing_an_encoder_a_decoder_and_a_loss_train_and_report(run_own):
    words = ("--model.net.routing", "my_classes.NormRouting", "--model.net.routing.sharpness", "2")
    words = (*FIT, *NET, *words, "--model.loss", "my_classes.BrierLoss", "--model.optimizer.lr", "0.01")
    lean = (
        LEAN,
        "--trainer.callbacks+",
        "RoutingMonitor",
        "--test_after_fit",
        "false",
    )
    folder = run_own(*words, *lean, "--trainer.max_epochs", "4")
    accuracies = curve(folder, "val/accuracy")
    assert len(accuracies) == 4
    assert accuracies[-1] > 0.8
    assert len(curve(folder, "train/coupling_entropy")) == len(curve(folder, "train/agreement")) == 4
    weights = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert weights["net.routing.weight"].shape == (64, 10, 16, 8)
    assert weights["net.decoder.layer.weight"].shape == (64, 160)
    (best,) = folder.glob("checkpoints/epoch*.ckpt")
    trained = load_from_run(best)
    assert child_map(trained.net) == CapsuleMap(types=4, rows=4, columns=4)
    assert len(list(coupling_pictures(trained))) == 1  # the encoder has told where its capsules lie
    assert [layer["kind"] for layer in decoder_layers(trained.net.decoder)] == ["dense", "sigmoid"]
    with torch.no_grad():
        assert is_chain(trained.net.decoder, trained.net(trained.pictures[:3]).poses)  # so there are sliders


def test_a_task_of_another_kind_trains_is_selected_tests_and_predicts(run_own):
    assert len(TASK.strip().splitlines()) < 60
    folder = run_own(*FIT, "--model", "my_task.RotationTask", *NET[:2], "--trainer.max_epochs", "6")
    errors, losses = curve(folder, "val/error"), curve(folder, "val/loss")
    assert len(errors) == len(losses) == 6
    assert errors[-1] < 0.7 * math.pi / 4  # which is the mean error of always saying 0
    (best,) = folder.glob("checkpoints/epoch*.ckpt")
    assert f"loss{min(losses):.4f}" in best.name
    (tested,) = curve(folder, "test/error")
    assert tested == pytest.approx(errors[-1], abs=0.15)
    run_own("predict", "--ckpt_path", str(best))
    assert not list(folder.rglob("predictions.csv"))  # of classes, which there are none of
    assert not list(folder.rglob("*.png"))
