"""Every shipped config, run."""

import inspect
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from capsule_lightning.cli import CONFIG_DIR, config_names

RECIPES = [name for name in config_names() if "/" not in name and name not in ("default.yaml", "early_stopping.yaml")]
OVERLAYS = [name for name in config_names() if name not in RECIPES and name != "default.yaml"]
FEW_STEPS = (
    "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=2",
    "--trainer.limit_val_batches=1",
    "--trainer.limit_test_batches=1",
    "--trainer.accelerator=cpu",
    "--data.batch_size=4",
    "--run_id=trial",
)


@pytest.mark.parametrize("name", RECIPES)
def test_recipe(name: str, run_main: Callable[..., Path], tmp_path: Path) -> None:
    data = ["--data.fake=true"]
    if name == "image_folder.yaml":
        for label in ("cat", "dog"):
            (tmp_path / "photos" / label).mkdir(parents=True)
            for number in range(20):
                Image.new("RGB", (40, 36), (10 * number, 0, 0)).save(tmp_path / "photos" / label / f"{number}.webp")
        data = ["--data.root=photos"]
    if name != "digits.yaml":
        data.append("--data.val_size=0.2")
    cwd = run_main("fit", "--config", name, *FEW_STEPS, *data)
    folder = cwd / "runs" / name.removesuffix(".yaml") / "trial"
    assert "test/accuracy" in (folder / "metrics.csv").read_text()
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert all(torch.isfinite(value).all() for value in checkpoint["state_dict"].values())


@pytest.mark.parametrize("name", OVERLAYS)
def test_overlay(name: str, run_main: Callable[..., Path]) -> None:
    # a machine without a GPU stands in for one; two processes are tested in test_distributed
    instead = ("--trainer.devices=1", "--trainer.strategy=auto") if name.startswith("trainer/") else ()
    # networks are written for the images of their paper
    base, data = ("mnist", ("--data.fake=true", "--data.val_size=0.2")) if name.startswith("model/") else ("digits", ())
    cwd = run_main("fit", "--config", f"{base}.yaml", "--config", name, *FEW_STEPS, *data, *instead)
    if name != "trainer/debug.yaml":
        assert "test/accuracy" in (cwd / "runs" / base / "trial" / "metrics.csv").read_text()


@pytest.mark.parametrize("path", sorted(CONFIG_DIR.glob("routing/*.yaml")), ids=lambda path: path.stem)
def test_routing_overlay_states_every_hyperparameter(path: Path) -> None:
    routing = yaml.safe_load(path.read_text())["model"]["init_args"]["net"]["init_args"]["routing"]
    module = import_module(f"capsule_lightning.routing.{path.stem}")
    parameters = inspect.signature(getattr(module, routing["class_path"])).parameters.values()
    expected = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    assert routing.get("init_args", {}) == expected


def test_every_routing_has_an_overlay() -> None:
    modules = {path.stem for path in Path(import_module("capsule_lightning.routing").__path__[0]).glob("*.py")}
    assert modules - {"__init__", "base"} == {path.stem for path in CONFIG_DIR.glob("routing/*.yaml")}
