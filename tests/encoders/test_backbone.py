"""Networks of timm as encoders: what is frozen stays, weights of files, gray images, tokens, refusals."""

import pickle
from functools import partial
from importlib import import_module
from pathlib import Path

import lightning as L
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.testing import assert_close
from trained import LEAN

from capsule_lightning.capsules import Capsules
from capsule_lightning.encoders import backbone
from capsule_lightning.encoders.backbone import BackboneEncoder
from capsule_lightning.encoders.base import MapEncoder
from capsule_lightning.errors import InputError
from capsule_lightning.layers.squash import squash
from capsule_lightning.models.capsnet import CapsNet
from capsule_lightning.schedules import OneCycle
from capsule_lightning.sharing.network_file import load_network
from capsule_lightning.tasks.classification import ClassificationTask

SMALL = {"num_types": 3, "dim": 4}
IN_SHAPE = (3, 64, 48)


@pytest.fixture(scope="module", autouse=True)
def timm():
    """Imported outside the budget of any test."""
    return import_module("timm")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def make(in_shape=IN_SHAPE, name="test_resnet", **options):
    return BackboneEncoder(in_shape, name=name, **{**SMALL, **options})


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(before, module):
    """Names of the tensors that differ in a single bit."""
    return {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}


def train(encoder, steps=2):
    """Steps of an optimizer with weight decay, given what a task would give it."""
    encoder.train()
    optimizer = torch.optim.AdamW([p for p in encoder.parameters() if p.requires_grad], weight_decay=0.1)
    for _ in range(steps):
        capsules = encoder(torch.rand(2, *encoder.in_shape))
        optimizer.zero_grad()
        (capsules.poses.pow(3).sum() + capsules.activations.sum()).backward()
        optimizer.step()


@pytest.mark.parametrize(
    ("name", "in_shape", "options", "size"),
    [
        ("test_resnet", (3, 64, 48), {}, (2, 2)),
        ("test_resnet", (1, 28, 28), {"size": (64, 96)}, (2, 3)),
        ("test_resnet", (5, 33, 64), {}, (2, 2)),
        ("test_efficientnet", (1, 64, 64), {}, (2, 2)),
        ("test_vit", (3, 64, 48), {}, (4, 3)),
        ("test_vit", (1, 28, 28), {"size": (32, 48)}, (2, 3)),
        ("test_vit3", (1, 32, 32), {}, (2, 2)),
        ("test_convnext", (3, 64, 64), {}, (2, 2)),
    ],
)
def test_every_kind_of_network_gives_the_capsules_that_were_promised(name, in_shape, options, size):
    encoder = make(in_shape, name, **options)
    images = torch.rand(2, *in_shape)
    assert isinstance(encoder, MapEncoder)
    assert (encoder.size, encoder.num_capsules) == (size, 3 * size[0] * size[1])
    maps, capsules = encoder.eval().maps(images), encoder(images)
    assert maps.poses.shape == (2, *size, 3, 4)
    assert_close(capsules.poses, maps.poses.flatten(1, 3))
    assert_close(capsules.activations, maps.poses.flatten(1, 3).norm(dim=-1))
    assert (capsules.activations < 1).all()


def test_capsules_are_squashed_groups_of_channels_of_a_linear_map():
    encoder = make().eval()
    images = torch.rand(2, *IN_SHAPE)
    features = backbone.feature_map(encoder.backbone, (images - 0.5) / 0.5)  # as this network was trained
    linear, bias = encoder.primary.weight[:, :, 0, 0], encoder.primary.bias
    poses = encoder.maps(images).poses
    for row, column, kind in [(0, 0, 0), (1, 0, 2), (0, 1, 1)]:
        expected = features[:, :, row, column] @ linear[4 * kind : 4 * kind + 4].T + bias[4 * kind : 4 * kind + 4]
        assert_close(poses[:, row, column, kind], squash(expected))


def test_the_map_of_a_transformer_is_its_normalized_tokens_in_their_places():
    encoder = make(name="test_vit", normalization=False).eval()
    images = torch.rand(2, *IN_SHAPE)
    tokens = encoder.backbone.forward_features(images)  # the class token and 4x3 patches
    assert tokens.shape == (2, 1 + 12, 64)
    maps = backbone.feature_map(encoder.backbone, images)
    for row in range(4):
        for column in range(3):
            assert_close(maps[:, :, row, column], tokens[:, 1 + 3 * row + column])


def test_channels_last_become_channels_first():
    last = nn.Module()
    last.forward = lambda images: [images.movedim(1, -1)]
    last.output_fmt = import_module("timm.layers").Format("NHWC")
    images = torch.rand(2, 3, 4, 5)
    assert torch.equal(backbone.feature_map(last, images), images)


@pytest.mark.parametrize(("name", "channels"), [("test_resnet", 3), ("test_efficientnet", 3), ("test_resnet", 1)])
def test_pictures_are_normalized_as_the_backbone_was_trained(timm, name, channels):
    trained = timm.get_pretrained_cfg(name)
    mean, deviation = (
        torch.tensor(values if channels == 3 else [sum(values) / 3]).view(-1, 1, 1)
        for values in (trained.mean, trained.std)
    )
    images = torch.rand(2, channels, 64, 64)
    with_it = make((channels, 64, 64), name).eval()
    without = make((channels, 64, 64), name, normalization=False).eval()
    without.load_state_dict(with_it.state_dict())  # which holds no statistics
    assert_close(with_it(images).poses, without((images - mean) / deviation).poses)
    assert not torch.allclose(with_it(images).poses, without(images).poses)


def test_images_are_scaled_bilinearly():
    encoder, plain = make((3, 32, 24), size=(64, 48)).eval(), make((3, 64, 48)).eval()
    plain.load_state_dict(encoder.state_dict())
    images = torch.rand(2, 3, 32, 24)
    scaled = nn.functional.interpolate(images, (64, 48), mode="bilinear")
    assert_close(encoder(images).poses, plain(scaled).poses)


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_vit"])
def test_what_is_frozen_stays_to_the_last_bit_while_the_head_learns(name):
    encoder = make((3, 64, 64), name, frozen=True)
    before = state(encoder)
    train(encoder)
    assert changed(before, encoder) == {"primary.weight", "primary.bias"}
    assert any("running_mean" in key for key in before) or name == "test_vit"


def test_what_is_not_frozen_learns_with_its_statistics():
    encoder = make()
    before = state(encoder)
    train(encoder)
    assert changed(before, encoder) == set(before)


@pytest.mark.parametrize(
    ("name", "stages", "frozen", "free"),
    [
        ("test_resnet", 1, ("conv1", "bn1"), ("layer1", "layer2", "layer3", "layer4")),
        ("test_resnet", 3, ("conv1", "bn1", "layer1", "layer2"), ("layer3", "layer4")),
        ("test_efficientnet", 2, ("conv_stem", "bn1", "blocks.0", "blocks.1"), ("blocks.2", "blocks.3", "blocks.4")),
        ("test_vit", 2, ("cls_token", "pos_embed", "patch_embed", "blocks.0", "blocks.1"), ("blocks.2", "norm")),
        ("test_vit", 0, (), ("cls_token", "pos_embed", "patch_embed", "blocks.0", "norm")),
    ],
)
def test_the_first_stages_alone_may_be_frozen(name, stages, frozen, free):
    encoder = make((3, 64, 64), name, frozen=stages)
    before = state(encoder)
    train(encoder)
    learned = changed(before, encoder)
    for part, keeps in [*((part, True) for part in frozen), *((part, False) for part in free)]:
        tensors = {key for key in before if f"{key}.".startswith(f"backbone.{part}.")}
        assert tensors
        assert not tensors & learned if keeps else tensors & learned, part


def test_frozen_dropout_and_normalization_are_as_in_evaluation():
    encoder = make(frozen=True)
    encoder.backbone.layer1.append(nn.Dropout(0.5))
    encoder.eval().train()
    assert encoder.training
    assert encoder.primary.training
    assert not any(module.training for module in encoder.backbone.modules())
    images = torch.rand(2, *IN_SHAPE)
    assert torch.equal(encoder(images).poses, encoder(images).poses)


def test_every_parameter_that_learns_has_a_gradient():
    for name, options in [
        ("test_resnet", {}),
        ("test_vit", {}),
        ("test_vit", {"frozen": 3}),
        ("test_efficientnet", {}),
    ]:
        encoder = make((3, 64, 64), name, **options)
        capsules = encoder(torch.rand(2, 3, 64, 64))
        (capsules.poses.pow(3).sum() + capsules.activations.sum()).backward()
        assert [key for key, p in encoder.named_parameters() if p.requires_grad and p.grad is None] == []


def test_what_the_map_does_not_depend_on_is_left_out_of_training(monkeypatch):
    made = backbone.create

    def with_one_more(kind, **options):
        network = made(kind, **options)
        network.register_parameter("unread", nn.Parameter(torch.zeros(1)))
        return network

    monkeypatch.setattr(backbone, "create", with_one_more)
    still = {key for key, parameter in make().named_parameters() if not parameter.requires_grad}
    assert still == {"backbone.unread"}


def test_the_optimizer_of_a_task_has_what_learns_alone():
    def encoder(in_shape):
        return make(in_shape, frozen=True)

    def net(in_shape, num_classes):
        return CapsNet(in_shape, num_classes, encoder=encoder, decoder=None)

    task = ClassificationTask((3, 64, 48), 3, net, lr_scheduler=None)
    optimizer = task.configure_optimizers()
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for key, p in task.named_parameters() if "backbone" not in key}


def decayed(schedule=None, **options):
    """A task whose backbone of five stages learns at half the rate from stage to stage."""

    def encoder(in_shape):
        return make(in_shape, layer_decay=0.5, **options)

    def net(in_shape, num_classes):
        return CapsNet(in_shape, num_classes, encoder=encoder, decoder=None)

    made = partial(torch.optim.AdamW, lr=0.08)
    return ClassificationTask((3, 64, 64), 3, net, optimizer=made, lr_scheduler=schedule)


def rates(task, optimizer):
    """The learning rate of each parameter, by what follows the encoder in its name."""
    names = {id(p): key.removeprefix("net.encoder.") for key, p in task.named_parameters()}
    return {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("test_resnet", {"conv1": 5, "bn1": 5, "layer1": 4, "layer2": 3, "layer3": 2, "layer4": 1}),
        (
            "test_vit",
            {"cls_token": 6, "pos_embed": 6, "patch_embed": 6, "blocks.0": 6, "blocks.1": 5, "blocks.5": 1, "norm": 0},
        ),
    ],
)
def test_each_stage_learns_at_its_own_rate(name, expected):
    task = decayed(name=name)
    found = rates(task, task.configure_optimizers())
    assert set(found) == {key.removeprefix("net.encoder.") for key, p in task.named_parameters() if p.requires_grad}
    for part, power in expected.items():
        of_part = {rate for key, rate in found.items() if f"{key}.".startswith(f"backbone.{part}.")}
        assert of_part == {0.08 * 0.5**power}, part
    assert {rate for key, rate in found.items() if not key.startswith("backbone.")} == {0.08}


def test_rates_of_stages_keep_their_ratio_under_a_schedule_and_a_tuner(monkeypatch):
    monkeypatch.setattr(ClassificationTask, "total_steps", lambda self: 10)
    task = decayed(OneCycle, frozen=2)
    task.lr = 0.02
    made = task.configure_optimizers()
    optimizer, schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
    assert [group["initial_lr"] for group in optimizer.param_groups] == [0.02, 0.01, 0.005, 0.0025]  # two are frozen
    for step in range(4):
        factor = schedule.factor(step, 0.02)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(
            [factor * rate for rate in (0.02, 0.01, 0.005, 0.0025)]
        )
        optimizer.step()
        schedule.step()
    resumed = task.configure_optimizers()
    resumed["optimizer"].load_state_dict(optimizer.state_dict())
    resumed["lr_scheduler"]["scheduler"].load_state_dict(schedule.state_dict())
    for each in (made, resumed):
        each["optimizer"].step()
        each["lr_scheduler"]["scheduler"].step()
    now = [[group["lr"] for group in each["optimizer"].param_groups] for each in (made, resumed)]
    assert now[0] == now[1]


def test_without_a_decay_there_is_one_rate():
    assert make().rate_factors() == {}
    assert len(ClassificationTask((3, 64, 48), 3, partial(CapsNet, encoder=make)).groups_by_rate()) == 1


def test_the_same_seed_gives_the_same_network():
    torch.manual_seed(3)
    first = state(make(name="test_vit"))
    torch.manual_seed(3)
    assert changed(first, make(name="test_vit")) == set()


def saved(timm, folder, suffix, name="test_resnet", **options):
    """Save a network of timm, its classifier included, and return it with its file."""
    network = timm.create_model(name, **options)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean)
    path = folder / f"net{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(network.state_dict(), path)
    return network, path


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_of_a_file_are_the_backbones(timm, tmp_path, suffix):
    network, path = saved(timm, tmp_path, suffix)
    torch.manual_seed(1)
    encoder = make(weights=str(path), frozen=True)
    held = encoder.backbone.state_dict()
    assert held.keys() < network.state_dict().keys()
    for name, value in held.items():
        assert torch.equal(value, network.state_dict()[name]), name
    images = torch.rand(2, *IN_SHAPE)
    expected = network.eval().forward_features((images - 0.5) / 0.5)
    assert_close(backbone.feature_map(encoder.eval().backbone, (images - 0.5) / 0.5), expected)
    assert not any(getattr(module, "pretrained_cfg", {}).get("state_dict") for module in encoder.modules())


def test_weights_of_color_images_serve_for_gray_ones(timm, tmp_path):
    network, path = saved(timm, tmp_path, ".safetensors")
    encoder = make((1, 64, 48), weights=str(path), normalization=False).eval()
    gray = torch.rand(2, 1, 64, 48)
    assert encoder.backbone.conv1[0].weight.shape[1] == 1
    color = network.eval().forward_features(gray.expand(-1, 3, -1, -1))
    assert_close(backbone.feature_map(encoder.backbone, gray), color)


def test_trained_positions_are_interpolated_for_other_sizes(timm, tmp_path):
    network, path = saved(timm, tmp_path, ".safetensors", "test_vit")
    encoder = make((3, 64, 48), "test_vit", weights=str(path))
    assert encoder.backbone.pos_embed.shape != network.pos_embed.shape
    assert torch.equal(encoder.backbone.norm.weight, network.norm.weight)
    assert torch.equal(encoder.backbone.blocks[3].attn.qkv.weight, network.blocks[3].attn.qkv.weight)


def test_nothing_is_loaded_where_shapes_alone_are_counted(tmp_path):
    with torch.device("meta"):
        encoder = make(weights=str(tmp_path / "missing.safetensors"))
    assert all(parameter.is_meta for parameter in encoder.parameters())


def test_a_trained_network_is_loaded_without_the_file_that_its_weights_began_with(timm, tmp_path):
    _, path = saved(timm, tmp_path, ".safetensors")
    net = partial(CapsNet, encoder=partial(BackboneEncoder, name="test_resnet", weights=str(path)), decoder=None)
    task = ClassificationTask(IN_SHAPE, 3, net)
    trainer = L.Trainer(logger=False, accelerator="cpu", enable_model_summary=False)
    trainer.strategy.connect(task)
    task.trainer = trainer
    trainer.save_checkpoint(tmp_path / "net.ckpt")
    path.unlink()
    loaded = load_network(tmp_path / "net.ckpt")
    assert changed(state(task.net), loaded) == set()


@pytest.mark.nightly
def test_a_run_goes_on_and_predicts_without_the_file_that_its_weights_began_with(timm, tmp_path, run_main):
    _, path = saved(timm, tmp_path, ".safetensors")
    net = ("--model.net.encoder=BackboneEncoder", "--model.net.encoder.name=test_resnet", "--model.net.decoder=null")
    start = (*net, f"--model.net.encoder.weights={path}", "--model.net.encoder.size=[32,32]")
    few = ("--trainer.limit_train_batches=2", "--test_after_fit=false", LEAN)
    cwd = run_main("fit", *start, *few, "--trainer.max_epochs=1", "--run_id=one")
    path.unlink()
    run = cwd / "runs" / "digits" / "one"
    run_main("fit", "--resume", str(run), "--trainer.max_epochs=2")
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 4
    assert str(path) in (run / "config.yaml").read_text()  # which says what the run began with
    run_main("predict", "--ckpt_path", str(run / "checkpoints" / "last.ckpt"))
    assert (run / "predict" / "predictions.csv").is_file()
    with pytest.raises(SystemExit):
        run_main("fit", "--config", str(run / "config.yaml"), *few, "--run_id=two")  # another run begins with them


class Harm:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_strangers_pickle_is_refused_before_it_runs(tmp_path):
    harmed, path = tmp_path / "harmed", tmp_path / "net.pth"
    torch.save({"conv1.weight": Harm(harmed)}, path)
    with pytest.raises(InputError, match=r"cannot be read as tensors alone.*safetensors"):
        make(weights=str(path))
    assert not harmed.exists()
    pickle.loads(pickle.dumps(Harm(harmed)))
    assert harmed.exists()


def test_weights_that_are_not_the_backbones_are_refused(timm, tmp_path):
    _, other = saved(timm, tmp_path, ".safetensors", "test_efficientnet")
    with pytest.raises(InputError, match=r"lacks conv1.*test_resnet"):
        make(weights=str(other))
    network, path = saved(timm, tmp_path, ".pth")
    wrong = {
        name: value[:1] if name == "layer1.0.conv1.weight" else value for name, value in network.state_dict().items()
    }
    torch.save(wrong, path)
    with pytest.raises(InputError, match=r"cannot be loaded"):
        make(weights=str(path))
    torch.save({"state_dict": network.state_dict()}, path)
    with pytest.raises(InputError, match="more than tensors by name"):
        make(weights=str(path))
    (tmp_path / "net.safetensors").write_bytes(b"none")
    with pytest.raises(InputError, match="cannot be read"):
        make(weights=str(tmp_path / "net.safetensors"))


def test_a_hub_that_cannot_be_reached_is_told(monkeypatch):
    def unreachable(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(import_module("timm.models._builder"), "load_pretrained", unreachable)
    with pytest.raises(InputError, match=r"weights='hub' of test_resnet.*no route to host.*null for none"):
        make(weights="hub")


def test_a_missing_timm_is_told_with_its_remedy(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(backbone, "import_module", missing)
    with pytest.raises(InputError, match=r'pip install "capsule_lightning\[backbones\]"'):
        make()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "resnt18"}, r"name='resnt18': expected .*resnet18"),
        ({"name": "resnet18.none_in1k"}, r"resnet18\.none_in1k.*resnet18\.a1_in1k"),
        ({"name": "hf-hub:timm/resnet18"}, "expected a network"),
        ({"num_types": 0}, "num_types=0: expected at least 1"),
        ({"dim": 0}, "dim=0: expected at least 1"),
        ({"size": (0, 8)}, r"size=\(0, 8\)"),
        ({"frozen": 6}, "frozen=6: .*0 to 5"),
        ({"frozen": -1}, "frozen=-1"),
        ({"weights": "none.safetensors"}, "no such file"),
        ({"weights": __file__}, r"no such file of \.safetensors, \.pth"),
        ({"name": "vgg11", "size": (16, 16)}, r"images of 16x16 are too small for vgg11 .*\[32, 32\]"),
        ({"name": "test_vit", "size": (8, 40)}, r"images of 8x40 are too small .*\[64, 64\]"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        make(**options)


def test_capsules_are_float32_under_autocast():
    encoder, images = make().eval(), torch.rand(2, *IN_SHAPE)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        capsules = encoder(images)
    assert isinstance(capsules, Capsules)
    assert capsules.poses.dtype == capsules.activations.dtype == torch.float32
    assert_close(capsules.activations, encoder(images).activations, rtol=0, atol=0.05)
