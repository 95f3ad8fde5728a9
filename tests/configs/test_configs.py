"""Every shipped config, run."""

import inspect
import json
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from lightning.fabric.utilities import move_data_to_device
from lightning_utilities.core.apply_func import apply_to_collection
from PIL import Image
from tiers import nightly_but
from torch import Tensor
from torch.testing import assert_close

from capsule_lightning.cli.configs import resolve
from capsule_lightning.components.build import build
from capsule_lightning.models.base import CapsuleNet
from capsule_lightning.models.detector import Detector
from capsule_lightning.shipped import CONFIG_DIR, config_names
from capsule_lightning.tasks.base import Task

RECIPES = [name for name in config_names() if "/" not in name and name not in ("default.yaml", "early_stopping.yaml")]
NO_OVERLAYS = ("default.yaml", "studies/", "sweeps/")  # `fit` takes neither: test_study and test_sweeps run those
OVERLAYS = [name for name in config_names() if name not in RECIPES and not name.startswith(NO_OVERLAYS)]
#: They answer with masks of the scenes of segmentation.yaml.
OF_PIXELS = ("model/segcaps.yaml", "model/matwo_capsnet.yaml", "model/unet.yaml", "model/unet_small.yaml")
#: They find boxes in the scenes of detection.yaml.
DETECTORS = ("model/center_capsnet.yaml", "model/center_net.yaml", "loss/center_margin.yaml")
#: They find joints.
POSES = ("pose.yaml", "model/pose_cnn.yaml")
#: They name the relation of two entities.
OF_RELATIONS = ("relations.yaml", "model/relation_linear.yaml")
#: They read texts.
OF_TEXTS = (*(f"model/capsule_{name}.yaml" for name in ("a", "b", "b_mean", "b_mean_uniform")), "model/kim_cnn.yaml")
#: Verses to translate come with the package.
FEW_WORDS = ("--data.vocabulary_size=300", "--model.net.dim=32", "--model.net.hidden=32", "--model.beam=1")
FEW_SCENES = ("--data.scenes=16", "--data.val_scenes=8", "--data.test_scenes=8")
#: By day these are run from the command to the figures; of the others the network is built, and one batch learned from.
WHOLE = ("image_folder.yaml", "mnist_efficient.yaml")
WHOLE_OVERLAYS = ("routing/em.yaml", "trainer/debug.yaml")
HEADS = ("", "_cappronet", "_hidden", "_linear", "_linear_ordinal", "_mlp", "_mlp_ordinal")
#: Networks of millions of weights, or of a large library, which take seconds and memory to make.
LARGE = (
    *("affnist.yaml", "cifar10.yaml", "cifar100.yaml", "cifar10_deepcaps.yaml", "cifar100_inverted_attention.yaml"),
    *("multimnist.yaml", "model/cnn.yaml", "model/deepcaps.yaml", "model/matwo_capsnet.yaml"),
    "model/segcaps.yaml",
    *(f"model/backbone{head}.yaml" for head in HEADS),
)
ON_ANY_DEVICE = (
    "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=2",
    "--trainer.limit_val_batches=1",
    "--trainer.limit_test_batches=1",
    "--data.batch_size=4",
    "--run_id=trial",
)
FEW_STEPS = (*ON_ANY_DEVICE, "--trainer.accelerator=cpu")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


def words_for(name: str, folder: Path) -> list[str]:
    """Options of ``fit`` for a recipe or an overlay, with data that need no download; photos are put into a folder."""
    if name in POSES:
        overlay = [] if name == "pose.yaml" else ["--config", name]
        return ["--config", "pose.yaml", *overlay, "--data.clips=12", "--data.frames=2"]
    if name in OVERLAYS:  # networks are written for the images of their paper
        base = ["mnist.yaml", "--data.fake=true"] if name.startswith("model/") else ["digits.yaml"]
        base = ["detection.yaml", *FEW_SCENES] if name in DETECTORS else base
        base = ["segmentation.yaml", *FEW_SCENES] if name in OF_PIXELS else base
        base = ["relations.yaml"] if name in OF_RELATIONS else base
        base = ["text.yaml"] if name in OF_TEXTS else base
        if name == "model/kim_cnn_multilabel.yaml":
            return [*words_for("text_transfer.yaml", folder), "--config", name]
        return ["--config", base[0], "--config", name, *base[1:]]
    if name in ("text.yaml", "relations.yaml"):
        return ["--config", name]
    if name == "nyt.yaml":
        rows = [
            {"text": f"a{n % 9} is b{n % 5}", "relation": ("NA", "of", "by")[n % 3], "h": {"id": f"{n}", "pos": [0, 2]}}
            | {"t": {"id": "b", "pos": [6, 8]}}
            for n in range(60)
        ]
        (folder / "train.txt").write_text("\n".join(map(json.dumps, rows)))
        return ["--config", name, f"--data.path={folder / 'train.txt'}", "--model.net.hidden=8", "--model.net.types=2"]
    if name == "text_transfer.yaml":
        rows = [f"word{n} text,{chr(97 + n % 2)}" for n in range(40)] + ["both words,a|b"] * 4
        (folder / "labels.csv").write_text("\n".join(["text,label", *rows]))
        return ["--config", name, f"--data.table={folder / 'labels.csv'}"]
    if name == "translation.yaml":
        pytest.importorskip("tokenizers")
        pytest.importorskip("sacrebleu")
        return ["--config", name, *FEW_WORDS]
    if name in ("detection.yaml", "segmentation.yaml"):
        return ["--config", name, *FEW_SCENES]
    if name == "arrays.yaml":
        pixels = np.random.default_rng(0).integers(0, 256, (40, 28, 28), dtype=np.uint8)
        np.savez(folder / "pictures.npz", images=pixels, labels=np.arange(40) % 2)
        return ["--config", name, f"--data.path={folder / 'pictures.npz'}"]
    if name == "features.yaml":
        vectors = np.random.default_rng(0).normal(size=(40, 6))
        np.savez(folder / "vectors.npz", features=vectors, labels=np.arange(40) % 2)
        return ["--config", name, f"--data.path={folder / 'vectors.npz'}"]
    if name == "huggingface.yaml":
        datasets = pytest.importorskip("datasets")
        pixels = [Image.new("RGB", (40, 36), (10 * number, 0, 0)) for number in range(20)]
        columns = {"image": pixels * 2, "label": ["cat", "dog"] * 20}
        features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
        datasets.Dataset.from_dict(columns, features=features).to_parquet(folder / "photos" / "train.parquet")
        return ["--config", name, f"--data.path={folder / 'photos'}"]
    if name not in ("image_folder.yaml", "table.yaml", "table_multilabel.yaml"):
        return ["--config", name, "--data.fake=true"]
    photos, rows = folder / "photos", ["path,label"]
    for label in ("cat", "dog"):
        (photos / label).mkdir(parents=True)
        for number in range(20):
            Image.new("RGB", (40, 36), (10 * number, 0, 0)).save(photos / label / f"{number}.webp")
            rows.append(f"{label}/{number}.webp,{label}")
    (photos / "labels.csv").write_text("\n".join(rows))
    source = f"root={photos}" if name == "image_folder.yaml" else f"table={photos / 'labels.csv'}"
    return ["--config", name, f"--data.{source}"]


def measured_by(name: str) -> str:
    """What a test logs."""
    if name in POSES:
        return "test/pck20_torso"
    if name == "translation.yaml":
        return "test/bleu"
    if name in ("segmentation.yaml", *OF_PIXELS):
        return "test/dice"
    return "test/map_50" if name in ("detection.yaml", *DETECTORS) else "test/accuracy"


@pytest.mark.parametrize(
    "name", nightly_but([name for name in (*RECIPES, *OVERLAYS) if name not in LARGE], [*RECIPES, *OVERLAYS])
)
def test_network_and_loss_are_made_and_learn_from_a_batch(name: str, tmp_path: Path) -> None:
    task = build(resolve(["fit", *words_for(name, tmp_path)])).task
    loss, gradients = loss_and_gradients(task.train(), task.example_batch(2))
    assert loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert any(gradient.any() for gradient in gradients)


def loss_and_gradients(task: Task, batch: Any) -> tuple[Tensor, list[Tensor]]:
    """The loss of a batch, and its gradients of the parameters that have one."""
    loss = task.losses(task.output(batch), batch)["loss"]
    loss.backward()
    return loss.detach(), [p.grad for p in task.parameters() if p.grad is not None]


@needs_gpu
@pytest.mark.nightly
@pytest.mark.parametrize("name", [name for name in (*RECIPES, *OVERLAYS) if not name.startswith("trainer/")])
def test_gpu_computes_what_the_processor_does(name: str, tmp_path: Path) -> None:
    task = build(resolve(["fit", *words_for(name, tmp_path)])).task.double().eval()
    for module in task.modules():
        module.train(isinstance(module, torch.nn.RNNBase))  # cuDNN has no gradient of one that evaluates
    batch = apply_to_collection(task.example_batch(2), Tensor, lambda x: x.double() if x.is_floating_point() else x)
    expected = loss_and_gradients(task, batch)
    task.zero_grad()
    loss, gradients = loss_and_gradients(task.to("cuda"), move_data_to_device(batch, torch.device("cuda")))
    found = loss.cpu(), [gradient.cpu() for gradient in gradients]
    assert_close(found, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.long(6)
@pytest.mark.parametrize("name", nightly_but(WHOLE, RECIPES))
def test_recipe(name: str, run_main: Callable[..., Path], tmp_path: Path) -> None:
    assert_complete(run_main("fit", *words_for(name, tmp_path), *FEW_STEPS, *held_out(name)), name)


@needs_gpu
@pytest.mark.nightly
@pytest.mark.parametrize(
    ("name", "overlay"), [*((name, "trainer/gpu.yaml") for name in RECIPES), ("mnist.yaml", "trainer/gpu_graphs.yaml")]
)
def test_recipe_on_a_gpu(name: str, overlay: str, tmp_path: Path) -> None:
    # in a process of its own: one that has used a GPU cannot be forked
    words = [*words_for(name, tmp_path), f"--config={overlay}", *ON_ANY_DEVICE, *held_out(name)]
    done = subprocess.run(
        [sys.executable, "-m", "capsule_lightning", "fit", *words],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert_complete(tmp_path, name)


def held_out(name: str) -> list[str]:
    """Options that hold validation images out, of a recipe that may not."""
    return [] if name == "digits.yaml" else ["--data.val_size=0.2"]


def assert_complete(cwd: Path, name: str) -> None:
    """A recipe's run has measured what it should, and kept finite weights."""
    folder = cwd / "runs" / name.removesuffix(".yaml") / "trial"
    assert measured_by(name) in (folder / "metrics.csv").read_text()
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert all(torch.isfinite(value).all() for value in checkpoint["state_dict"].values())


@pytest.mark.long(6)
@pytest.mark.parametrize("name", nightly_but(WHOLE_OVERLAYS, OVERLAYS))
def test_overlay(name: str, run_main: Callable[..., Path], tmp_path: Path) -> None:
    # a machine without a GPU stands in for one; two processes are tested in test_distributed
    instead = ("--trainer.devices=1", "--trainer.strategy=auto") if name.startswith("trainer/") else ()
    base, data = ("mnist", ("--data.val_size=0.2",)) if name.startswith("model/") else ("digits", ())
    base, data = ("detection", ()) if name in DETECTORS else (base, data)
    base, data = ("segmentation", ()) if name in OF_PIXELS else (base, data)
    base, data = ("relations", ()) if name in OF_RELATIONS else (base, data)
    base, data = ("text", ()) if name in OF_TEXTS else (base, data)
    base, data = ("text_transfer", ()) if name == "model/kim_cnn_multilabel.yaml" else (base, data)
    base = "pose" if name in POSES else base
    cwd = run_main("fit", *words_for(name, tmp_path), *FEW_STEPS, *data, *instead)
    if name != "trainer/debug.yaml":
        assert measured_by(name) in (cwd / "runs" / base / "trial" / "metrics.csv").read_text()


@pytest.mark.parametrize("path", sorted(CONFIG_DIR.glob("routing/*.yaml")), ids=lambda path: path.stem)
def test_routing_overlay_states_every_hyperparameter(path: Path) -> None:
    routing = yaml.safe_load(path.read_text())["model"]["init_args"]["net"]["init_args"]["routing"]
    module = import_module(f"capsule_lightning.routing.{path.stem}")
    parameters = inspect.signature(getattr(module, routing["class_path"])).parameters.values()
    expected = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    given = routing.get("init_args", {})
    steps = {name for name, value in given.items() if isinstance(value, dict)}  # routings of their own
    assert given == expected | {name: given[name] for name in steps}
    for name in steps & {name for name, default in expected.items() if inspect.isclass(default)}:
        assert given[name]["class_path"] == expected[name].__name__


@pytest.mark.parametrize("path", sorted(CONFIG_DIR.glob("model/*.yaml")), ids=lambda path: path.stem)
def test_model_overlay_states_every_hyperparameter_of_the_network(path: Path) -> None:
    net = yaml.safe_load(path.read_text())["model"]["init_args"]["net"]
    (cls,) = (c for c in networks(CapsuleNet) | networks(Detector) if c.__name__ == net["class_path"])
    assert {p.name for p in inspect.signature(cls).parameters.values() if p.kind is p.KEYWORD_ONLY} == set(
        net["init_args"]
    )


def networks(base: type) -> set[type]:
    """Every class below ``base`` that the package defines."""
    for path in Path(import_module("capsule_lightning.models").__path__[0]).glob("*.py"):
        import_module(f"capsule_lightning.models.{path.stem}")
    return {found for child in base.__subclasses__() for found in {child, *networks(child)}}


PARAMETERS = {  # as the papers have them, without decoder
    "mnist": 6_804_224,
    "multimnist": 11_361_808 - 1_936_144,
    "affnist": 11_227_904,
    "mnist_efficient": 161_824,
    "smallnorb_efficient": 151_664,
    "smallnorb_matrix_capsules": 317_194,
    "smallnorb_variational_bayes": 68_714,
    "cifar10_inverted_attention": 1_828_817,
    "cifar100_inverted_attention": 2_799_629,
    "cifar10_self_routing": 3_190_288,  # 3.2M
    "cifar10_deepcaps": 13_359_424,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_of_the_papers_networks(name: str) -> None:
    with torch.device("meta"):  # only counted
        net = build(resolve(["fit", "--config", f"{name}.yaml"])).task.net
    net.decoder = None
    assert sum(p.numel() for p in net.parameters()) == PARAMETERS[name]


def test_every_routing_has_an_overlay() -> None:
    modules = {path.stem for path in Path(import_module("capsule_lightning.routing").__path__[0]).glob("*.py")}
    assert modules - {"__init__", "base"} == {path.stem for path in CONFIG_DIR.glob("routing/*.yaml")}
