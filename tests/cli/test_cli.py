import contextlib
import gc
import importlib
import inspect
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from capsule_lightning import __version__, cli
from capsule_lightning.cli import list_configs, main
from capsule_lightning.cli.configs import resolve
from capsule_lightning.components.names import ABSTRACT, SLOTS, class_names
from capsule_lightning.errors import InputError
from capsule_lightning.runs.folders import flat
from capsule_lightning.runs.signals import Interrupted
from capsule_lightning.shipped import CONFIG_DIR, config_names, find_config


def test_version_and_help_load_nothing_heavy() -> None:
    for word, expected in (("--version", __version__), ("--help", "predict"), ("configs", "mnist.yaml")):
        code = (
            f"import sys; sys.argv = ['x', '{word}']; from capsule_lightning.cli import main; main(); "
            "assert not {'torch', 'lightning', 'jsonargparse'} & set(sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert expected in done.stdout


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["fit", "--config", "minst.yaml"], "did you mean 'mnist.yaml'"),
        (["test", "--trainer.devices"], "expected a value"),
        (["fit", "mnist"], "unrecognized arguments"),
    ],
)
def test_wrong_words_are_answered_before_anything_heavy_is_imported(words: list[str], expected: str) -> None:
    code = (
        "import sys\nfrom capsule_lightning.cli import main\n"
        f"try:\n    main({words})\nexcept SystemExit as left:\n    assert left.code == 2\n"
        "assert not {'torch', 'lightning', 'jsonargparse'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert expected in done.stderr


def test_help_of_a_command_names_every_class_of_every_slot(capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", "--help"])
    text = capsys.readouterr().out
    assert len(text.splitlines()) <= 66  # a printed page
    for slot, (folder, *bases) in SLOTS.items():
        package = "capsule_lightning" + (f".{folder}" if folder else "")
        modules = [*(Path(CONFIG_DIR.parent) / "capsule_lightning" / folder).glob("*.py")]
        found = {
            name
            for module in modules
            if module.stem not in ("__init__", "__main__", *ABSTRACT)
            for name, value in vars(importlib.import_module(f"{package}.{module.stem}")).items()
            if inspect.isclass(value)
            and value.__module__ == f"{package}.{module.stem}"
            and {b.__name__ for b in value.__mro__[1:]} & set(bases)
            and not inspect.isabstract(value)
        }
        assert found == set(class_names(slot)), slot
        assert found <= set(text.replace(",", " ").split())


@pytest.mark.parametrize("looks", [True, False])
def test_the_garbage_collector_is_left_as_it_was(looks: bool, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        (gc.enable if looks else gc.disable)()
        main(["configs"])
        assert gc.isenabled() == looks
    finally:
        gc.enable()


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


def test_print_config_shows_what_would_be_run(capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", "--config", "mnist.yaml", "--model.net.routing", "EMRouting", "--print_config"])
    assert yaml.safe_load(capsys.readouterr().out) == resolve(
        ["fit", "--config", "mnist.yaml", "--model.net.routing", "EMRouting"]
    )


def test_help_of_a_slot_lists_the_arguments_of_a_class(capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", "--model.net.routing.help", "EMRouting"])
    assert "--model.net.routing.final_lambda" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--help_all"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert "--trainer.max_epochs" in text
    assert "--test_after_fit" in text
    assert not re.search(
        r"^ *--(optimizer|lr_scheduler)\b", text, re.M
    )  # they belong to the model, and have no other name


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ["--model.net.routing.help", "DynamicRouting"],
            ["--model.net.routing.iterations", "(default: 3)", "passes of"],
        ),
        (["--model.loss.help", "MarginLoss"], ["--model.loss.m_plus", "length above which a present class"]),
        (["--data.help", "MNISTDataModule"], ["--data.root", "--data.val_size", "folder of the data"]),
        (["--model.net.encoder.help"], ["SabourEncoder", "EfficientEncoder"]),
        (["--trainer.strategy.help", "DDPStrategy"], ["--trainer.strategy.timeout"]),
    ],
)
def test_help_of_a_class_names_its_options_as_one_types_them(
    words: list[str], expected: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main(["fit", *words])
    said = capsys.readouterr().out
    assert all(part in said for part in expected), said
    assert ".num_in" not in said  # the layer gives the sizes
    assert max(map(len, said.splitlines())) <= 120


@pytest.mark.parametrize("key", ["trainer.max_epochs", "data.root", "experiment"])
def test_help_of_what_is_no_class_says_so(key: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["fit", f"--{key}.help"])
    assert stopped.value.code == 2


def test_the_help_of_each_command_is_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    said = {}
    for command in ("fit", "test", "validate", "predict", "configs", "compare", "report", "export", "prepare"):
        with contextlib.suppress(SystemExit):
            main([command, "--help"])
        said[command] = capsys.readouterr().out
        assert command in said[command]
    assert len(set(said.values())) == len(said)
    assert "max_epochs" not in said["test"] + said["predict"]
    assert all(word in said["fit"] for word in ("callbacks", "logger", "optimizer", "reconstruction_weight", "run_id"))
    listed = re.search(r"^( *--model.net.routing +)ConstantRouting.*\n( +)[A-Z]", said["fit"], re.M)
    assert listed is not None
    assert len(listed[1]) == len(listed[2])  # names go on below each other
    main(["help"])
    assert "commands:" in capsys.readouterr().out


def test_configs_are_listed_with_what_they_are_and_printed_to_be_copied(capsys: pytest.CaptureFixture[str]) -> None:
    main(["configs"])
    listed = capsys.readouterr().out
    assert re.search(r"^  mnist.yaml +Sabour, Frosst & Hinton", listed, re.M)
    assert re.search(r"^  cluster/slurm.sh +Runs a command on the GPUs", listed, re.M)
    assert "sweeps/routings.yaml" in listed
    for name in ("mnist.yaml", "mnist", "cluster/slurm.sh"):
        main(["configs", name])
        shipped = CONFIG_DIR / (name if "." in name else f"{name}.yaml")
        assert capsys.readouterr().out == shipped.read_text()
    with pytest.raises(SystemExit):
        main(["configs", "mnst.yaml"])
    assert "did you mean 'mnist.yaml'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("number", "requeued", "status"),
    [(signal.SIGUSR1, False, 128 + signal.SIGUSR1), (signal.SIGUSR1, True, None), (signal.SIGTERM, False, None)],
)
def test_a_job_whose_time_is_up_says_so_unless_it_is_queued_again(
    number: signal.Signals, requeued: bool, status: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave(words: list[str]) -> None:
        raise Interrupted(number)

    monkeypatch.setattr(list_configs, "run", leave)
    monkeypatch.setattr(cli, "requeue", lambda: requeued)
    with pytest.raises(SystemExit) as left:
        main(["configs"])
    assert isinstance(left.value, Interrupted) == (status is None)
    assert status is None or left.value.code == status
