import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from routings import ROUTINGS

from capsule_lightning import __version__
from capsule_lightning.cli import main
from capsule_lightning.components import SLOTS, class_names
from capsule_lightning.errors import InputError
from capsule_lightning.runs.folders import flat
from capsule_lightning.shipped import CONFIG_DIR, config_names, find_config


def printed_config(capsys: pytest.CaptureFixture[str], *words: str) -> dict:
    with pytest.raises(SystemExit) as stopped:
        main(["fit", *words, "--print_config"])
    assert stopped.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


def test_version_and_help_load_nothing_heavy() -> None:
    for word, expected in (("--version", __version__), ("--help", "predict"), ("configs", "mnist.yaml")):
        code = (
            f"import sys; sys.argv = ['x', '{word}']; from capsule_lightning.cli import main; main(); "
            "assert not {'torch', 'lightning', 'jsonargparse'} & set(sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert expected in done.stdout


def test_help_of_a_command_names_every_class_of_every_slot(capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", "--help"])
    text = capsys.readouterr().out
    assert len(text.splitlines()) < 50
    for slot, (folder, *bases) in SLOTS.items():
        package = "capsule_lightning" + (f".{folder}" if folder else "")
        modules = [*(Path(CONFIG_DIR.parent) / "capsule_lightning" / folder).glob("*.py")]
        found = {
            name
            for module in modules
            if module.stem != "__init__" and module.stem not in ("cli", "parser", "training_cli", "__main__")
            for name, value in vars(importlib.import_module(f"{package}.{module.stem}")).items()
            if inspect.isclass(value)
            and value.__module__ == f"{package}.{module.stem}"
            and {b.__name__ for b in value.__mro__[1:]} & set(bases)
            and not inspect.isabstract(value)
        }
        assert found == set(class_names(slot)), slot
        assert found <= set(text.replace(",", " ").split())


def test_configs_are_found_by_name_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Path(find_config("mnist.yaml")) == CONFIG_DIR / "mnist.yaml"
    assert Path(find_config("routing/uniform")) == CONFIG_DIR / "routing" / "uniform.yaml"
    (tmp_path / "mnist.yaml").write_text("{}")
    assert find_config("mnist.yaml") == "mnist.yaml"


def test_unknown_config_names_the_nearest() -> None:
    with pytest.raises(InputError, match=r"did you mean 'mnist\.yaml'"):
        find_config("mnits.yaml")


def test_every_config_is_listed() -> None:
    shipped = {p.relative_to(CONFIG_DIR).as_posix() for p in CONFIG_DIR.glob("**/*.yaml")}
    assert set(config_names()) == {name for name in shipped if not name.startswith("sweeps/")}


def test_configs_compose_and_the_command_line_wins(capsys: pytest.CaptureFixture[str]) -> None:
    config = printed_config(capsys, "--config", "mnist.yaml", "--config", "schedule/paper", "--data.batch_size", "64")
    assert config["data"]["class_path"].endswith("MNISTDataModule")
    assert config["data"]["init_args"]["batch_size"] == 64
    scheduler = config["model"]["init_args"]["lr_scheduler"]
    assert scheduler["class_path"].endswith("ExponentialDecay")
    assert scheduler["init_args"] == {"decay": 0.96, "steps": 2000, "floor": 1e-6}


def test_routing_is_swapped_by_one_flag(capsys: pytest.CaptureFixture[str]) -> None:
    config = printed_config(capsys, "--config", "mnist.yaml", "--model.net.routing", "UniformRouting")
    routing = config["model"]["init_args"]["net"]["init_args"]["routing"]
    assert routing["class_path"] == "capsule_lightning.routing.uniform.UniformRouting"
    assert routing["init_args"] == {"vote_weights": None}


@pytest.mark.parametrize("words", [("--model.net.decoder", "null"), ("--model.net.init_args.decoder=None",)])
def test_a_part_of_the_network_is_left_out_by_null(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    net = printed_config(capsys, "--config", "mnist.yaml", *words, "--model.net.dim", "8")["model"]["init_args"]["net"]
    assert net["init_args"]["decoder"] is None
    assert net["init_args"]["dim"] == 8
    assert net["init_args"]["encoder"]["init_args"]["channels"] == 256


def defaults(routing: type) -> dict[str, object]:
    """Hyperparameters of a routing, and what they are where nothing is said."""
    parameters = inspect.signature(routing).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def other_than(value: object) -> object:
    """A value of the same kind that is no default."""
    if isinstance(value, bool):
        return not value
    return 1 if value is None else value if isinstance(value, str) else value + 1  # type: ignore[operator]


@pytest.mark.parametrize("before", ROUTINGS, ids=lambda cls: cls.__name__)
def test_a_routing_has_its_own_defaults_whatever_it_replaces(
    before: type, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    chosen = {"class_path": before.__name__, "init_args": {k: other_than(v) for k, v in defaults(before).items()}}
    (tmp_path / "before.yaml").write_text(
        yaml.safe_dump({"model": {"init_args": {"net": {"init_args": {"routing": chosen}}}}})
    )
    words = ("--config", "mnist.yaml", "--config", str(tmp_path / "before.yaml"))
    following = ROUTINGS[(ROUTINGS.index(before) + 1) % len(ROUTINGS)]
    overlay = ("--config", f"routing/{following.__module__.rsplit('.', 1)[1]}.yaml")
    swaps = [(after, ("--model.net.routing", after.__name__)) for after in ROUTINGS if after is not before]
    for after, swap in ((following, overlay), *swaps):
        routing = printed_config(capsys, *words, *swap)["model"]["init_args"]["net"]["init_args"]["routing"]
        assert routing["class_path"] == f"{after.__module__}.{after.__name__}"
        assert routing.get("init_args", {}) == defaults(after)


def test_another_class_begins_with_its_own_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    optimizer = (
        "--model.optimizer.lr",
        "0.5",
        "--model.optimizer",
        "torch.optim.SGD",
        "--model.optimizer.momentum=0.9",
    )
    config = printed_config(
        capsys,
        "--config",
        "mnist.yaml",
        *optimizer,
        "--model.net.encoder",
        "EfficientEncoder",
        "--data",
        "SVHNDataModule",
    )
    task, data = config["model"]["init_args"], config["data"]
    default = inspect.signature(torch.optim.SGD).parameters["lr"].default
    assert (task["optimizer"]["init_args"]["lr"], task["optimizer"]["init_args"]["momentum"]) == (default, 0.9)
    # SabourEncoder has an argument of this name too, 9
    assert task["net"]["init_args"]["encoder"]["init_args"]["primary_kernel_size"] is None
    # every data set has these from the class that all are made of
    assert (data["class_path"].split(".")[-1], data["init_args"]["val_size"]) == ("SVHNDataModule", 5000)


def test_defaults_of_the_task_are_the_papers(capsys: pytest.CaptureFixture[str]) -> None:
    task = printed_config(capsys, "--data", "MNISTDataModule")["model"]["init_args"]
    assert task["net"]["init_args"]["routing"]["init_args"]["iterations"] == 3
    assert task["reconstruction_weight"] == 0.0005
    assert task["lr_scheduler"]["class_path"].endswith("ExponentialDecay")


def test_digits_are_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    config = printed_config(capsys)
    assert config["data"]["class_path"].endswith("DigitsDataModule")
    assert config["experiment"] == "digits"


def test_flat_keys_are_those_of_the_command_line() -> None:
    nested = {
        "data": {"class_path": "p.MNISTDataModule", "init_args": {"batch_size": 8}},
        "trainer": {"max_epochs": 3, "callbacks": [{"class_path": "x.Y"}]},
        "empty": {},
    }
    assert dict(flat(nested)) == {
        "data": "MNISTDataModule",
        "data.batch_size": 8,
        "trainer.max_epochs": 3,
        "trainer.callbacks": [{"class_path": "x.Y"}],
        "empty": {},
    }


def test_parser_noise_is_condensed_to_the_cause() -> None:
    message = """Parser key "model":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'capsule_lightning.tasks.base.Task'>, <class 'NoneType'>]
  Errors:
    - Parser key "net":
        Parser key "routing":

          - Expected a path but DynamicRoutin either not accessible or invalid
          - Expected a dot import path string: DynamicRoutin
    - Expected a <class 'NoneType'>
  Given value type: <class 'str'>"""
    assert one_line(message) == "model.net.routing: no class 'DynamicRoutin'; did you mean 'DynamicRouting'?"
