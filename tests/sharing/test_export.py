"""A trained network shared: what is in the file, what it answers, and what is refused."""

import json
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from program import clean_environment
from routings import ROUTINGS
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from tiers import nightly_but
from trained import FAKE_MNIST, fit

from capsule_lightning import __version__
from capsule_lightning.cli import main
from capsule_lightning.components.build import build_part
from capsule_lightning.data.base import ImageDataModule
from capsule_lightning.data.cifar import CIFAR10DataModule
from capsule_lightning.data.digits import DigitsDataModule
from capsule_lightning.data.loader import StoredBatch
from capsule_lightning.data.mnist import MNISTDataModule
from capsule_lightning.data.smallnorb import SmallNORBDataModule
from capsule_lightning.decoders.dense import DenseDecoder
from capsule_lightning.encoders.sabour import SabourEncoder
from capsule_lightning.errors import InputError
from capsule_lightning.models.capsnet import CapsNet
from capsule_lightning.models.kim_cnn import KimCNN
from capsule_lightning.models.relation_capsnet import RelationCapsNet
from capsule_lightning.models.text_capsnet import TextCapsNet
from capsule_lightning.routing.dynamic import DynamicRouting
from capsule_lightning.routing.inverted_dot_product import InvertedDotProductRouting
from capsule_lightning.routing.self_attention import SelfAttentionRouting
from capsule_lightning.sharing import export as export_module
from capsule_lightning.sharing.export import (
    export,
    load_network,
    read_metadata,
    what_images_need,
    write_whole,
)
from capsule_lightning.sharing.network_file import PRETRAINED
from capsule_lightning.sharing.onnx import OnnxOutputs, onnx_model, require_onnx, require_same_outputs
from capsule_lightning.shipped import CONFIG_DIR
from capsule_lightning.tasks.classification import ClassificationTask

NETWORKS = {
    "capsnet": ("--config", "digits.yaml"),
    "efficient": (*FAKE_MNIST, "--config", "model/efficient_capsnet.yaml"),
    "em": (*FAKE_MNIST, "--config", "model/matrix_capsules_small.yaml", "--model.net.encoder.normalize", "true"),
}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a network for the embedded digits, with its run's configuration."""
    return fit(tmp_path_factory.mktemp("digits"), *NETWORKS["capsnet"])


@pytest.fixture
def alone(digits: Path, tmp_path: Path) -> Path:
    """The same checkpoint in a folder of its own, without the rest of its run."""
    (tmp_path / "alone").mkdir()
    copy = tmp_path / "alone" / "last.ckpt"
    copy.write_bytes(digits.read_bytes())
    return copy


@pytest.fixture
def change(alone: Path) -> Callable[[Callable[[dict], None]], Path]:
    """Changes the checkpoint."""

    def changed(edit: Callable[[dict], None]) -> Path:
        checkpoint = torch.load(alone, weights_only=True)
        edit(checkpoint)
        torch.save(checkpoint, alone)
        return alone

    return changed


def images_for(net: torch.nn.Module, count: int = 3) -> torch.Tensor:
    return torch.rand(count, *net.in_shape)


@pytest.mark.parametrize("name", nightly_but(["capsnet"], NETWORKS))
def test_a_shared_network_answers_as_its_checkpoint_bit_for_bit(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = fit(tmp_path, *NETWORKS[name])
    capsys.readouterr()
    main(["export", "--ckpt_path", str(checkpoint)])
    path = checkpoint.with_suffix(".safetensors")
    out, err = capsys.readouterr()
    assert err == ""

    net = load_network(path)
    task = ClassificationTask.load_from_checkpoint(checkpoint, map_location="cpu").eval()
    parameters = sum(p.numel() for p in task.net.parameters())
    assert out == f"wrote {path}: {parameters:,} parameters, {path.stat().st_size / 1e6:.1f} MB\n"
    assert not any(module.training for module in net.modules())
    images = images_for(net)
    with torch.no_grad():
        ours, theirs = net(images), task(images)
        labels = theirs.activations.argmax(dim=-1)
        pictures = net.reconstruct(ours, labels), task.net.reconstruct(theirs, labels)
    assert torch.equal(ours.poses, theirs.poses)
    assert torch.equal(ours.activations, theirs.activations)
    assert pictures == (None, None) if name == "em" else torch.equal(*pictures)

    stored, state = load_file(path), task.net.state_dict()  # no optimizer's state, no name of the task
    assert stored.keys() == state.keys()
    assert (name == "em") == ("encoder.pose_norm.running_var" in stored)
    assert all(torch.equal(stored[key], state[key]) for key in state)


def test_the_file_says_what_rebuilds_the_network_and_what_its_images_need(digits: Path, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    assert export(digits, path).unknown is None
    said, config = read_metadata(path), yaml.safe_load((digits.parents[1] / "config.yaml").read_text())
    assert json.loads(said["net"]) == config["model"]["init_args"]["net"]
    assert json.loads(said["in_shape"]) == [1, 8, 8]
    assert (said["num_classes"], said["step"], said["capsule_lightning"]) == ("10", "2", __version__)
    assert said["epoch"] == "0"
    assert json.loads(said["class_names"]) == list("0123456789")
    assert json.loads(said["normalization"]) == {"kind": "none"}
    assert said["input"] == "images (batch, 1, 8, 8) float32, pixels from 0 to 1"
    assert str(digits.parent) not in "".join(said.values())


def test_a_checkpoint_without_its_run_is_shared_with_all_that_its_run_states(alone: Path, digits: Path) -> None:
    one, other = export(alone), export(digits, alone.with_name("other.safetensors"))
    assert one.unknown is None
    assert read_metadata(one.path) == read_metadata(other.path)
    assert json.loads(read_metadata(one.path)["data"])["class_path"].endswith("DigitsDataModule")


def test_a_checkpoint_of_before_without_its_run_is_shared_and_what_is_unknown_is_said(
    alone: Path, change: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    change(lambda checkpoint: checkpoint.pop("trained_on"))
    main(["export", "--ckpt_path", str(alone)])
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == len(err.splitlines()) == 1
    assert "does not state its class names and normalization" in err
    assert "class_names" not in read_metadata(alone.with_suffix(".safetensors"))
    assert load_network(alone.with_suffix(".safetensors")).num_classes == 10


def test_views_of_one_memory_are_stored_each_by_itself(change: Callable[..., Path], digits: Path) -> None:
    before = torch.load(digits, weights_only=True)["state_dict"]

    def entangle(checkpoint: dict) -> None:
        weights = checkpoint["state_dict"]
        shared = torch.cat([tensor.flatten() for tensor in weights.values()])
        parts = shared.split([tensor.numel() for tensor in weights.values()])
        for (name, tensor), part in zip(weights.items(), parts, strict=True):
            weights[name] = part.view(tensor.shape)
        name = "net.encoder.primary.weight"
        weights[name] = weights[name].contiguous(memory_format=torch.channels_last)

    path = change(entangle)
    state = torch.load(path, weights_only=True)["state_dict"]
    assert not state["net.encoder.primary.weight"].is_contiguous()
    assert len({t.untyped_storage().data_ptr() for t in state.values()}) == 2
    export(path)
    after = load_network(path.with_suffix(".safetensors")).state_dict()
    assert all(torch.equal(after[name.removeprefix("net.")], tensor) for name, tensor in before.items())


def test_half_the_size(alone: Path) -> None:
    full, half = export(alone, alone.with_name("full.safetensors")), export(alone, half=True)
    assert half.size < 0.52 * full.size
    one, other = load_network(full.path), load_network(half.path)
    for name, value in one.state_dict().items():
        assert torch.equal(other.state_dict()[name], value.half().float())
    with pytest.raises(InputError, match=r"--half is for \.safetensors"):
        export(alone, alone.with_name("net.onnx"), half=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_of_any_precision(dtype: torch.dtype, change: Callable[..., Path]) -> None:
    def cast(checkpoint: dict) -> None:
        checkpoint["state_dict"] = {name: tensor.to(dtype) for name, tensor in checkpoint["state_dict"].items()}

    path = change(cast).with_suffix(".safetensors")
    export(path.with_suffix(".ckpt"))
    stored = load_file(path)
    assert {tensor.dtype for tensor in stored.values()} == {dtype}
    net = load_network(path)
    widest = torch.promote_types(dtype, torch.float32)
    assert {parameter.dtype for parameter in net.parameters()} == {widest}
    assert all(torch.equal(parameter, stored[name].to(widest)) for name, parameter in net.named_parameters())
    assert net(images_for(net).to(widest)).activations.dtype == widest


def run_of(folder: Path, data: type, **arguments: object) -> tuple[Path, dict]:
    """A place for a checkpoint in a run of this data, and the slot of its configuration."""
    slot = {"class_path": f"{data.__module__}.{data.__name__}", "init_args": arguments}
    (folder / "config.yaml").write_text(yaml.safe_dump({"data": slot}))
    return folder / "checkpoints" / "last.ckpt", slot


@pytest.mark.parametrize(
    ("data", "arguments"),
    [
        (MNISTDataModule, {"normalization": "channel"}),
        (DigitsDataModule, {"normalization": "per_image"}),
        (DigitsDataModule, {"normalization": "channel"}),
    ],
)
def test_images_prepared_as_the_file_says_are_those_of_training(data: type, arguments: dict, tmp_path: Path) -> None:
    place, slot = run_of(tmp_path, data, **arguments)
    said, unknown = what_images_need(place)
    assert unknown is None
    module = build_part(slot, ImageDataModule)
    pixels = torch.randint(0, 256, (5, *module.stored_shape), dtype=torch.uint8)
    if module.normalization == "channel" and module.statistics is None:
        module.setup("fit")
    batch = StoredBatch(pixels, torch.zeros(5).long(), torch.arange(5), None)
    expected = module.on_after_batch_transfer(batch, 0).images
    given = json.loads(said["normalization"])
    for image, wanted in zip(pixels.double().numpy() / 255, expected.double().numpy(), strict=True):
        if given["kind"] == "per_image":
            found = (image - image.mean()) / image.std()
        else:
            found = np.stack([(c - m) / d for c, m, d in zip(image, given["mean"], given["deviation"], strict=True)])
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_statistics_that_training_measured_are_measured_again(tmp_path: Path) -> None:
    place, _ = run_of(tmp_path, DigitsDataModule, normalization="channel")
    given = json.loads(what_images_need(place)[0]["normalization"])
    pixels = DigitsDataModule().load("train").images.double().numpy() / 255
    assert len(pixels) < len(load_digits().images)  # the test images are not among them
    np.testing.assert_allclose(given["mean"], [pixels.mean()], rtol=1e-9)
    np.testing.assert_allclose(given["deviation"], [pixels.std()], rtol=1e-9)


@pytest.mark.parametrize(
    ("given", "everything", "kept"), [({"seed": None}, 7, 7), ({"seed": 3}, 7, 3), ({"seed": None}, None, 0)]
)
def test_the_seed_that_chose_the_validation_images_is_kept(
    given: dict, everything: int | None, kept: int, tmp_path: Path
) -> None:
    place, slot = run_of(tmp_path, DigitsDataModule, **given)
    config = {"seed_everything": everything, "data": slot}
    (place.parents[1] / "config.yaml").write_text(yaml.safe_dump(config))
    assert json.loads(what_images_need(place)[0]["data"])["init_args"]["seed"] == kept


def test_statistics_that_cannot_be_measured_are_said_to_be_unknown(tmp_path: Path) -> None:
    place, _ = run_of(tmp_path, SmallNORBDataModule, normalization="channel", root=str(tmp_path), download=False)
    said, unknown = what_images_need(place)
    assert json.loads(said["normalization"]) == {"kind": "channel"}
    assert json.loads(said["class_names"])[0] == "animal"
    assert unknown is not None
    assert "mean and deviation" in unknown
    assert "\n" not in unknown


def test_what_brings_images_to_another_shape_is_said(tmp_path: Path) -> None:
    crop = {"class_path": "capsule_lightning.augmentations.base.RandomPatch", "init_args": {"size": 24}}
    place, _ = run_of(tmp_path, CIFAR10DataModule, augmentation=crop)
    sentence = what_images_need(place)[0]["input"]
    assert "(batch, 3, 24, 24)" in sentence
    assert "brought from (3, 32, 32) to this shape as RandomPatch does" in sentence


def test_a_configuration_that_cannot_be_used_does_not_stop_the_export(alone: Path, change: Callable[..., Path]) -> None:
    change(lambda checkpoint: checkpoint.pop("trained_on"))
    (alone.parent / "config.yaml").write_text("data: {class_path: no.such.Data}")
    done = export(alone)
    assert "class names" in str(done.unknown)
    assert "no" in str(done.unknown)
    assert load_network(done.path).in_shape == (1, 8, 8)


# what is refused


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line that the command prints; its status is 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(["export", *words])
    assert stopped.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    return err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("last", "--ckpt_path", "x.ckpt"), ["are two networks"]),
        (("--ckpt_pth", "x"), ["'--ckpt_pth'", "did you mean '--ckpt_path'"]),
        (("x.ckpt",), ["x.ckpt", "no such checkpoint"]),
        (("--ckpt_path",), ["--ckpt_path", "expected one argument"]),
        (("--ckpt_path", "none.ckpt"), ["none.ckpt", "no such checkpoint"]),
        (("--ckpt_path", "none.ckpt", "--output", "net.pt"), ["net.pt", ".safetensors or .onnx"]),
    ],
)
def test_wrong_words(words: tuple[str, ...], expected: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    line = refusal(capsys, *words)
    assert all(word in line for word in expected), line


def test_an_output_that_cannot_be_written(
    alone: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--ckpt_path", str(alone), "--output")
    line = refusal(capsys, *words, str(alone.parent / "no" / "net.safetensors"))
    assert f"{alone.parent / 'no'}: no such folder" in line
    place = alone.parent / "net.safetensors"
    place.write_text("mine")
    line = refusal(capsys, *words, str(place))
    assert f"{place} exists" in line
    assert "--overwrite" in line

    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        assert "No space left on device" in refusal(capsys, *words, str(place), "--overwrite")
    assert place.read_text() == "mine"
    assert {path.name for path in alone.parent.iterdir()} == {"last.ckpt", "net.safetensors"}
    with pytest.raises(InputError, match="exists"):  # one that has come into being meanwhile
        write_whole(place, b"another", overwrite=False)
    assert place.read_text() == "mine"
    main(["export", *words, str(place), "--overwrite"])
    assert load_network(place).num_classes == 10


def test_a_checkpoint_of_something_else(change: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    path = change(lambda checkpoint: checkpoint.pop("hyper_parameters"))
    assert "does not state how its network was built" in refusal(capsys, "--ckpt_path", str(path))
    path.write_bytes(path.read_bytes()[:1000])
    assert "cannot be read as a checkpoint" in refusal(capsys, "--ckpt_path", str(path))
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]


def test_help_is_short_and_loads_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; from capsule_lightning.cli import main\n"
        "try: main(['export', '--help'])\n"
        "except SystemExit as end: assert not end.code\n"
        "assert not {'torch', 'lightning', 'jsonargparse', 'safetensors'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=clean_environment(tmp_path), capture_output=True, text=True, check=True
    )
    assert {"--ckpt_path", "--output", "--overwrite"} <= set(done.stdout.split())
    assert "load_network" in done.stdout
    assert len(done.stdout.splitlines()) < 25


# ONNX

# float32 sums in another order: up to 3e-6 of the largest number of an output was seen, over all routings
CLOSE = 1e-5
# EM and variational Bayes cut the batch into blocks, whose number torch fixes; ONNX has no digamma besides
REFUSED = {"EMRouting", "VariationalBayesRouting"}
BY_DAY = {"EMRouting"}  # dynamic routing is among those with a fast path
ONNX = pytest.mark.xdist_group("ONNX")  # the exporter is imported by one worker


def small(routing: Callable) -> CapsNet:
    """A network of two kinds of capsules with a decoder, for evaluation."""
    encoder = partial(SabourEncoder, channels=4, kernel_size=5, num_types=2, dim=4, primary_kernel_size=5)
    decoder = partial(DenseDecoder, hidden=(8,))
    return CapsNet((1, 12, 12), 3, encoder=encoder, routing=routing, decoder=decoder, dim=6).eval()


@torch.no_grad()
def assert_same_outputs(content: bytes, net: CapsNet) -> None:
    """Of another program, by the names of the outputs."""
    session = pytest.importorskip("onnxruntime").InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    assert names == ["poses", "activations", "reconstruction"]
    for count in (1, 64):
        images = images_for(net, count)
        capsules = net(images)
        pictures = net.reconstruct(capsules, capsules.activations.argmax(dim=-1))
        found = session.run(names, {"images": images.numpy()})
        for name, ours, theirs in zip(names, (*capsules, pictures), found, strict=True):
            wanted = ours.numpy()
            np.testing.assert_allclose(theirs, wanted, rtol=0, atol=CLOSE * np.abs(wanted).max(), err_msg=name)


@pytest.mark.parametrize(
    "routing",
    [
        pytest.param(cls, id=cls.__name__, marks=[] if cls.__name__ in BY_DAY else [pytest.mark.nightly])
        for cls in ROUTINGS
    ],
)
def test_every_routing_as_onnx(routing: type, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    net = small(routing)
    if routing.__name__ in REFUSED:
        with pytest.raises(InputError, match=r"share it as \.safetensors") as refused:
            onnx_model(net, {})
        assert "\n" not in str(refused.value)
        assert capfd.readouterr().err == ""
    else:
        assert_same_outputs(onnx_model(net, {}), net)


@pytest.fixture(
    params=[
        pytest.param(partial(DynamicRouting, vote_weights=2, bias=True, leaky=True), marks=ONNX),
        pytest.param(SelfAttentionRouting, marks=pytest.mark.nightly),
        pytest.param(partial(InvertedDotProductRouting, pose="vector"), marks=pytest.mark.nightly),
    ],
    scope="module",
)
def with_fast_path(request: pytest.FixtureRequest) -> tuple[bytes, CapsNet]:
    pytest.importorskip("onnxruntime")
    net = small(partial(request.param, backend="blocked"))
    content = onnx_model(net, {})
    net.routing.backend = "blocked"
    return content, net


def test_a_fast_path_is_no_part_of_onnx(with_fast_path: tuple[bytes, CapsNet]) -> None:
    assert_same_outputs(*with_fast_path)


def test_onnx_that_answers_otherwise_is_refused(with_fast_path: tuple[bytes, CapsNet]) -> None:
    content, net = with_fast_path
    images, other = images_for(net), deepcopy(net)
    require_same_outputs(content, OnnxOutputs(net), [{"images": images}])
    with torch.no_grad():
        for parameter in other.routing.parameters():
            parameter.add_(0.1)
    with pytest.raises(InputError, match=r"computes another poses"):
        require_same_outputs(content, OnnxOutputs(other), [{"images": images}])


READERS = {
    "capsules": partial(TextCapsNet, (30, 17), 3, filters=5, types=3, dim=4, dim_words=6),
    "control": partial(KimCNN, (30, 17), 3, filters=5, dim_words=6),
    "relations": partial(RelationCapsNet, (30, 12, 9), 3, encoder="cnn", hidden=6, dim_words=5, types=2, dim=3),
}


@pytest.mark.nightly
@pytest.mark.parametrize("name", READERS)
def test_networks_that_read_as_onnx(name: str) -> None:
    runtime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    net = READERS[name]().eval()
    session = runtime.InferenceSession(onnx_model(net, {}), providers=["CPUExecutionProvider"])
    (tokens,) = session.get_inputs()
    text = net.example_inputs(5)[..., :6]  # shorter than the longest: padding has no say
    padded = torch.nn.functional.pad(text, (0, tokens.shape[-1] - 6))
    assert (tokens.name, tokens.shape) == ("tokens", ["batch", *padded.shape[1:]])
    found = session.run(["poses", "activations"], {"tokens": padded.numpy()})
    with torch.no_grad():
        for ours, theirs in zip(net(text), found, strict=True):
            np.testing.assert_allclose(theirs, ours.numpy(), rtol=0, atol=CLOSE)


@pytest.mark.nightly
def test_an_lstm_is_refused_in_one_line() -> None:
    pytest.importorskip("onnxruntime")
    net = RelationCapsNet((30, 12, 9), 3, encoder="lstm", hidden=6, dim_words=5, types=2, dim=3).eval()
    with pytest.raises(InputError, match=r"share it as \.safetensors") as refused:
        onnx_model(net, {})
    assert "\n" not in str(refused.value)


def test_onnx_is_made_of_the_weights_and_words_of_a_checkpoint_and_of_a_shared_file(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[dict[str, torch.Tensor], dict[str, str]]] = []

    def model(net: torch.nn.Module, metadata: dict[str, str]) -> bytes:
        given.append((net.state_dict(), metadata))
        return b"a model"

    monkeypatch.setattr(export_module, "onnx_model", model)
    monkeypatch.setattr(export_module, "require_onnx", lambda: None)
    shared = export(digits, tmp_path / "net.safetensors").path
    for source in (digits, shared):
        assert export(source, tmp_path / f"{source.stem}.onnx").path.read_bytes() == b"a model"
    (weights, words), (same_weights, same_words) = given
    torch.testing.assert_close(weights, same_weights, rtol=0, atol=0)
    assert words["class_names"] == same_words["class_names"]
    torn = tmp_path / "torn.ckpt"
    torn.write_bytes(digits.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"torn\.ckpt: cannot be read as a checkpoint"):
        export(torn, tmp_path / "torn.onnx")
    assert not (tmp_path / "torn.onnx").exists()


@pytest.mark.nightly
@ONNX
def test_onnx_of_a_checkpoint(digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx = pytest.importorskip("onnx")
    path = tmp_path / "net.onnx"
    main(["export", "--ckpt_path", str(digits), "--output", str(path)])
    assert capsys.readouterr().out.startswith(f"wrote {path}: 829,760 parameters")
    assert_same_outputs(path.read_bytes(), ClassificationTask.load_from_checkpoint(digits, map_location="cpu").net)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    for value, sizes in ((model.graph.input[0], [1, 8, 8]), (model.graph.output[0], [10, 16])):
        batch, *rest = value.type.tensor_type.shape.dim
        assert (batch.dim_param, [n.dim_value for n in rest]) == ("batch", sizes)
    said = {entry.key: entry.value for entry in model.metadata_props}
    assert said["input"] == "images (batch, 1, 8, 8) float32, pixels from 0 to 1"
    assert json.loads(said["class_names"]) == list("0123456789")
    assert str(CONFIG_DIR.parent).encode() not in path.read_bytes()


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_onnx_without_its_packages(
    package: str, alone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    require_onnx()
    monkeypatch.setitem(sys.modules, package, None)
    line = refusal(capsys, "--ckpt_path", str(alone), "--output", str(alone.parent / "net.onnx"))
    assert package in line
    assert 'pip install "capsule_lightning[onnx]"' in line
    assert [file.name for file in alone.parent.iterdir()] == ["last.ckpt"]


def test_the_shipped_network_reads_digits_of_another_source() -> None:
    net = load_network("efficient_capsnet_mnist")
    images, labels = DigitsDataModule().load("test")
    # 8x8 pixels of other writers, as large as MNIST's strokes in its frame
    images = torch.nn.functional.interpolate(images.float() / 255, size=(20, 20), mode="bicubic").clamp(0, 1)
    with torch.no_grad():
        capsules = net(torch.nn.functional.pad(images, (4, 4, 4, 4)))
        pictures = net.reconstruct(capsules, labels)
    assert (capsules.activations.argmax(dim=-1) == labels).float().mean() > 0.8
    assert pictures is not None
    assert pictures.shape == (len(labels), 1, 28, 28)
    assert (PRETRAINED / "efficient_capsnet_mnist.safetensors").stat().st_size < 1_000_000
