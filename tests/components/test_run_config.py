"""What a run of somebody else may name: nothing that runs their code, fetches an address or writes elsewhere."""

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from capsule_lightning.cli.configs import resolve
from capsule_lightning.components.run_config import (
    read_resumed_config,
    read_run_config,
    require_harmless_config,
    require_own_module,
    trust_what_is_unusual,
)
from capsule_lightning.errors import InputError
from capsule_lightning.runs.plain_yaml import dump_yaml
from capsule_lightning.shipped import config_names

Change = Callable[[dict[str, Any]], object]

POPEN = {"class_path": "subprocess.Popen", "init_args": {"args": "touch harm", "shell": True}}
HOOK = "torch.hub.load_state_dict_from_url"


@pytest.fixture(scope="module")
def digits() -> dict[str, Any]:
    return resolve(["fit"])


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty run's folder below the working folder, and a home without trust."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / "runs" / "digits" / "one"
    (folder / "checkpoints").mkdir(parents=True)
    return folder


def slot(place: str, value: object) -> Change:
    """Put a value at a dotted place, through classes and their arguments."""

    def change(config: dict[str, Any]) -> None:
        node: Any = config
        *inner, last = place.split(".")
        for part in inner:
            node = node[part]
            node = node["init_args"] if "class_path" in node else node
        node[last] = value

    return change


def strategy(**arguments: object) -> Change:
    return slot("trainer.strategy", {"class_path": "lightning.pytorch.strategies.DDPStrategy", "init_args": arguments})


def callback(name: str, **arguments: object) -> Change:
    return slot("trainer.callbacks", [{"class_path": name, "init_args": arguments}])


HARM = {
    "a class for an open argument": strategy(ddp_comm_state=POPEN),
    "one inside a list": strategy(ddp_comm_state=[1, [POPEN]]),
    "a function for an open argument": strategy(ddp_comm_hook=HOOK),
    "a class of Python's own": callback("subprocess.Popen", args="touch harm"),
    "a class of the libraries that does not fit": callback("torch.nn.Linear", in_features=2, out_features=2),
    "keywords beside the arguments": slot(
        "trainer.callbacks", [{"class_path": "lightning.pytorch.callbacks.Timer", "dict_kwargs": {"a": POPEN}}]
    ),
    "a module in the run": slot("model.net.routing", "runs.digits.one.own.Mine"),
    "a module of Python that acts when it is imported": slot("model.loss", {"class_path": "antigravity.x"}),
    "a callback in the run": callback("runs.digits.one.own.Mine"),
    "a word for a slot": slot("data.augmentation", "payload"),
    "an address of data": slot("data.root", "https://example.org/data"),
    "an address of a checkpoint": slot("ckpt_path", "s3://bucket/last.ckpt"),
    "a file elsewhere": slot("trainer.default_root_dir", "victim"),
    "checkpoints elsewhere": callback("lightning.pytorch.callbacks.ModelCheckpoint", dirpath="/victim"),
    "a profile above the run": slot(
        "trainer.profiler", {"class_path": "lightning.pytorch.profilers.SimpleProfiler", "init_args": {"dirpath": ".."}}
    ),
    "a text for arguments": slot("model.net.routing", {"class_path": "EMRouting", "init_args": "x"}),
    "a class path that is no text": slot("data.augmentation", {"class_path": 5}),
}


@pytest.mark.parametrize("change", HARM.values(), ids=HARM)
def test_harm_is_refused_before_it_is_made_or_imported(change: Change, run: Path, digits: dict[str, Any]) -> None:
    (run / "own.py").write_text("raise SystemExit('imported')\nclass Mine: ...\n")
    config = copy.deepcopy(digits)
    change(config)
    (run / "config.yaml").write_text(dump_yaml(config))
    before = set(sys.modules)
    with pytest.raises(InputError) as refused:
        read_resumed_config(run, trusts=False)
    assert str(run / "config.yaml") in str(refused.value)
    assert str(refused.value).endswith("add --trust_run once")
    assert str(refused.value).isprintable()
    assert not {name for name in set(sys.modules) - before if name.startswith(("runs", "antigravity"))}
    assert read_resumed_config(run, trusts=True)["experiment"] == "digits"
    assert read_resumed_config(run, trusts=False)["experiment"] == "digits"  # it was asked once
    (run / "config.yaml").write_text(dump_yaml(config) + "# one byte more\n")
    with pytest.raises(InputError):
        read_resumed_config(run, trusts=False)


@pytest.mark.parametrize("change", HARM.values(), ids=HARM)
def test_a_command_that_looks_takes_nothing_of_the_trainer(change: Change, run: Path, digits: dict[str, Any]) -> None:
    config = copy.deepcopy(digits)
    change(config)
    (run / "config.yaml").write_text(dump_yaml(config))
    if all(config[key] == digits[key] for key in ("data", "model")):
        assert set(read_run_config(run)) == {"experiment", "seed_everything", "data", "model"}
    else:
        with pytest.raises(InputError):
            read_run_config(run)


@pytest.mark.parametrize("name", [name for name in config_names() if "/" not in name and name != "early_stopping.yaml"])
def test_the_runs_of_every_recipe_are_harmless(name: str, run: Path) -> None:
    words = ["fit", "--config", name] if name != "default.yaml" else ["fit"]
    more = {"image_folder.yaml": ["--data.root", "photos"], "arrays.yaml": ["--data.path", "a.npz"]}.get(name, [])
    require_harmless_config({**resolve([*words, *more]), "ckpt_path": None}, run)


def test_classes_of_the_users_own_are_taken_from_outside_any_run(run: Path, digits: dict[str, Any]) -> None:
    (run.parents[2] / "my_routing_of_test.py").write_text(
        "from capsule_lightning.routing.dynamic import DynamicRouting\nclass Mine(DynamicRouting): ...\n"
    )
    config = copy.deepcopy(digits)
    slot("model.net.routing", {"class_path": "my_routing_of_test.Mine", "init_args": {"iterations": 2}})(config)
    (run / "config.yaml").write_text(dump_yaml(config))
    read_run_config(run)
    assert sys.modules.pop("my_routing_of_test")


@pytest.mark.parametrize("place", ["package/__init__.py", "package/inner.py", "single.py"])
def test_a_module_is_placed_without_importing_it(place: str, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run / "config.yaml").write_text("{}")
    path = run / place
    path.parent.mkdir(exist_ok=True)
    path.write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(run)
    name = place.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    with pytest.raises(InputError, match="whose code lies in the run"):
        require_own_module(f"{name}.Thing", "model.net")


def test_what_the_user_has_trained_unusually_is_resumed_without_a_question(run: Path, digits: dict[str, Any]) -> None:
    config = copy.deepcopy(digits)
    slot("trainer.default_root_dir", "elsewhere")(config)
    (run / "config.yaml").write_text(dump_yaml(config))
    trust_what_is_unusual(run)
    assert read_resumed_config(run, trusts=False)["trainer"]["default_root_dir"] == "elsewhere"


def test_without_a_home_nothing_is_noted_and_nothing_fails(
    run: Path, digits: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (run.parent / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(run.parent / "file"))
    (run / "config.yaml").write_text(dump_yaml({**digits, "ckpt_path": "https://example.org/x"}))
    trust_what_is_unusual(run)
    assert read_resumed_config(run, trusts=True)["experiment"] == "digits"
    with pytest.raises(InputError):
        read_resumed_config(run, trusts=False)


@pytest.mark.parametrize(("root", "downloads"), [(None, True), ("data", True), ("/elsewhere", False), ("../x", False)])
def test_data_are_downloaded_into_the_working_folder_alone(root: str | None, downloads: bool, run: Path) -> None:
    config = resolve(["fit", "--config", "mnist.yaml"])
    slot("data.root", root)(config)
    (run / "config.yaml").write_text(dump_yaml(config))
    assert read_run_config(run)["data"]["init_args"]["download"] is downloads
