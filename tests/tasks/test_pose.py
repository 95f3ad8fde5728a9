"""The pose task: what it measures and minimizes, which data it refuses, and runs that are cut off and go on."""

from functools import partial

import lightning as L
import pytest
import torch

from capsule_lightning.capsules import Capsules
from capsule_lightning.data.digits import DigitsDataModule
from capsule_lightning.data.figures import FiguresDataModule
from capsule_lightning.encoders.deca import DECAEncoder
from capsule_lightning.errors import InputError
from capsule_lightning.losses.joints import joint_loss
from capsule_lightning.models.capsnet import CapsNet
from capsule_lightning.models.deca import DECANet
from capsule_lightning.models.pose import Places
from capsule_lightning.models.pose_capsnet import PoseCapsNet
from capsule_lightning.routing.uniform import UniformRouting
from capsule_lightning.tasks.classification import ClassificationTask
from capsule_lightning.tasks.pose import PoseOutput, PoseTask

ENCODER = partial(DECAEncoder, channels=(4, 8), kernel_size=3, strides=(2, 2), paddings=None, num_types=2, dim=4)
NET = partial(PoseCapsNet, encoder=ENCODER, routing=UniformRouting, dim=4)
SHAPE = (1, 16, 16)
FIGURES = {"clips": 10, "frames": 2, "size": 16, "batch_size": 4, "test_size": 0.2}


def task_of(net=NET, joints=15, **options):
    return PoseTask(SHAPE, joints, net=net, lr_scheduler=None, **options)


def trainer(folder, **options):
    plain = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return L.Trainer(default_root_dir=folder, **{**plain, "enable_checkpointing": False, **options})


def test_pixels_are_measured_on_the_scale_of_the_image() -> None:
    task = task_of(beta=0.5)
    batch = task.example_batch(3)
    output = task.output(batch)
    losses = task.losses(output, batch)
    assert tuple(losses) == task.loss_names == ("loss", "joint_loss")
    expected = joint_loss(output.places.joints / 16, batch.joints / 16, 0.5)
    assert losses["loss"].item() == pytest.approx(expected.item())


def test_depth_and_visibility_are_parts_with_their_weights() -> None:
    task = task_of(partial(NET, depth_hidden=(8,)), visibility_weight=2.0, reconstruction_weight=3.0)
    batch = task.example_batch(3)
    batch = batch._replace(visible=torch.rand(3, 15) < 0.5)
    output = task.output(batch)
    losses = task.losses(output, batch)
    assert tuple(losses) == task.loss_names == ("loss", "joint_loss", "visibility_loss", "depth_loss")
    depth = (output.places.depth - batch.depth).square().mean()
    assert losses["depth_loss"].item() == pytest.approx(depth.item(), rel=1e-5)
    sure = output.capsules.activations.double().clamp(1e-4, 1 - 1e-4)
    entropy = -torch.where(batch.visible, sure.log(), (1 - sure).log()).mean()
    assert losses["visibility_loss"].item() == pytest.approx(entropy.item(), rel=1e-5)
    total = losses["joint_loss"] + 2 * losses["visibility_loss"] + 3 * losses["depth_loss"]
    assert losses["loss"].item() == pytest.approx(total.item(), rel=1e-5)


def test_decas_losses_are_weighted_by_what_is_learned() -> None:
    net = partial(DECANet, encoder=partial(ENCODER, dim=16), types=(3,), strides=(1,), hidden=(8, 8), dropout=0.0)
    task = task_of(net, weighting="learned", orthogonality_weight=1 / 3000)
    assert task.noise.numel() == 4
    batch = task.example_batch(3)
    losses = task.losses(task.output(batch), batch)
    parts = [losses["joint_loss"], losses["position_loss"], 0.1 * losses["depth_loss"]]
    parts.append(losses["orthogonality_loss"] / 3000)
    expected = sum(0.5 * torch.exp(torch.tensor(-1.0)) * part + 0.5 for part in parts)
    assert losses["loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    losses["loss"].backward()
    assert (task.noise.grad != 0).all()


def test_what_is_known_of_a_body_is_measured() -> None:
    task = task_of()
    assert [*task.metrics("val")] == ["pck20_torso", "pck20_box", "oks_ap", "pixel_error"]
    assert task.selected_by == ("pck20_torso", "max")
    assert [*task_of(joints=4, reference="box").metrics("val")] == ["pck20_box", "pixel_error"]
    solid = task_of(partial(NET, dims=3))
    assert [*solid.metrics("val")] == ["mpjpe_mm", "pa_mpjpe_mm", "pck_100mm"]
    assert solid.selected_by == ("mpjpe_mm", "min")
    assert "pck5_box" in task_of(alpha=0.05).metrics("val")


def test_distances_are_of_labeled_joints_alone() -> None:
    task = task_of(joints=3, reference="box")
    batch = task.example_batch(2)
    joints = batch.joints.clone()
    joints[0, 1] = torch.nan
    joints[1] = torch.nan
    moved = batch.joints + torch.tensor([3.0, 4.0])
    output = PoseOutput(Capsules.from_vectors(torch.zeros(2, 3, 4)), Places(moved))
    found = task.prediction(output, batch._replace(joints=joints)).distances
    assert found[0].item() == pytest.approx(5.0, rel=1e-5)
    assert found[1].isnan()


@pytest.mark.parametrize(
    ("data", "task", "told"),
    [
        (lambda: FiguresDataModule(**FIGURES, dims=3), task_of, r"dims=3 of the data.*--data\.dims 2"),
        (DigitsDataModule, task_of, "PoseTask needs joints, and DigitsDataModule has classes"),
        (
            lambda: FiguresDataModule(**FIGURES),
            lambda: ClassificationTask(SHAPE, 15, net=partial(CapsNet, encoder=ENCODER, decoder=None)),
            "ClassificationTask needs classes, and FiguresDataModule has none: give --model PoseTask",
        ),
    ],
)
def test_data_without_its_joints_are_refused(data, task, told, tmp_path) -> None:
    with pytest.raises(InputError, match=told):
        trainer(tmp_path, max_epochs=1).fit(task(), datamodule=data())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"beta": 0.0}, "beta=0"),
        ({"alpha": 0.0}, "alpha=0"),
        ({"reference": "head"}, "reference='head': expected one of torso, box"),
        ({"weighting": "mean"}, "weighting='mean'"),
        ({"reconstruction_weight": -1.0}, "reconstruction_weight=-1"),
        ({"orthogonality_weight": 1.0}, "PoseCapsNet: says nothing of the orthogonality"),
        ({"net": partial(CapsNet, encoder=ENCODER)}, r"CapsNet names classes; give --model\.net PoseCapsNet"),
    ],
)
def test_values_that_cannot_be_are_refused(options, told) -> None:
    with pytest.raises(InputError, match=told):
        task_of(**options)


def test_a_task_without_a_torso_says_so(tmp_path) -> None:
    class Three(FiguresDataModule):
        class_names = ("a", "b", "c")

    with pytest.raises(InputError, match=r"reference=torso.*--model\.reference box"):
        trainer(tmp_path, max_epochs=1).fit(task_of(joints=3), datamodule=Three(**FIGURES))


def test_it_learns_where_the_joints_of_a_batch_are() -> None:
    torch.manual_seed(0)
    task, data = task_of(), FiguresDataModule(**FIGURES)
    data.setup("fit")
    batch = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    optimizer = torch.optim.Adam(task.parameters(), lr=0.02)
    losses = []
    for _ in range(30):
        losses.append(task.losses(task.output(batch), batch)["loss"])
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0] / 4


def test_a_run_is_measured_and_goes_on_where_it_was_cut_off(tmp_path) -> None:
    """The weights of two epochs at a stretch, noise of the pictures and all, are those of two runs of one."""
    weights = {}
    for name, ends in (("whole", [2]), ("parted", [1, 2])):
        torch.manual_seed(0)
        task, data = task_of(), FiguresDataModule(**FIGURES, seed=3)
        path = None
        for end in ends:
            run = trainer(tmp_path, max_epochs=end)
            run.fit(task, datamodule=data, ckpt_path=path, weights_only=True if path else None)
            path = str(tmp_path / f"{name}.ckpt")
            run.save_checkpoint(path)
            task, data = (task, data) if end == 2 else (task_of(), FiguresDataModule(**FIGURES, seed=3))
        weights[name] = task.state_dict()
    assert all(torch.equal(value, weights["parted"][key]) for key, value in weights["whole"].items())
    (found,) = run.test(task, datamodule=data, verbose=False)
    assert 0 <= found["test/pck20_torso"] <= found["test/pck20_box"] <= 1
    assert found["test/pixel_error"] > 0
