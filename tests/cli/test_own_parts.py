"""What every run has: a list of one's own is added to it, and only a word takes a part of it away."""

import shlex
from collections.abc import Callable
from pathlib import Path

import lightning as L
import pytest
from program import metrics

from capsule_lightning.callbacks.checkpoint import RunCheckpoint
from capsule_lightning.cli import own_parts
from capsule_lightning.cli.configs import resolve
from capsule_lightning.errors import InputError

STOP = "{class_path: EarlyStopping, init_args: {monitor: val/loss}}"
SMALL = (
    "fit --model.net.encoder.channels 4 --model.net.encoder.num_types 2 --model.net.decoder null --run_id one "
    "--trainer.max_epochs 1 --trainer.limit_train_batches 2 --trainer.limit_val_batches 1 --trainer.accelerator cpu"
)


class MyCheckpoint(RunCheckpoint):
    """A class of a user that is one of ours."""


class Unlike(L.Callback):
    """A class of a user that is not."""


def callbacks(*words: str) -> list[str]:
    return [each["class_path"].rpartition(".")[2] for each in resolve(["fit", *words])["trainer"]["callbacks"]]


def loggers(*words: str) -> list[str]:
    options, left_out = (config := resolve(["fit", *words]))["trainer"], config["without"]
    return [each["class_path"].rpartition(".")[2] for each in own_parts.loggers(options, left_out)]


OURS = callbacks()


def test_a_list_is_added_to_ours_and_takes_the_place_of_a_list_before_it() -> None:
    mine = f"{{trainer: {{callbacks: [{STOP}]}}}}"
    assert callbacks("--config", "digits", "--config", mine) == [*OURS, "EarlyStopping"]
    other = "{trainer: {callbacks: [{class_path: DeviceStatsMonitor}]}}"
    assert callbacks("--config", "digits", "--config", mine, "--config", other) == [*OURS, "DeviceStatsMonitor"]
    added = "{trainer: {callbacks+: [{class_path: DeviceStatsMonitor}]}}"
    assert callbacks("--config", "digits", "--config", mine, "--config", added)[-2:] == [
        "EarlyStopping",
        "DeviceStatsMonitor",
    ]
    assert callbacks("--trainer.callbacks=null") == callbacks("--trainer.callbacks=[]") == OURS


@pytest.mark.parametrize(
    ("given", "replaced"),
    [
        ("RunCheckpoint", "RunCheckpoint"),
        (f"{__name__}.MyCheckpoint", "RunCheckpoint"),
        ("lightning.pytorch.callbacks.TQDMProgressBar", "RunProgress"),
        ("RichModelSummary", "NetworkSummary"),
        (f"{__name__}.Unlike", None),
        ("lightning.pytorch.callbacks.ModelCheckpoint", None),
    ],
)
@pytest.mark.parametrize("sign", ["=", "+="])
def test_a_class_that_is_or_stands_for_one_of_ours_takes_its_place(given: str, replaced: str, sign: str) -> None:
    expected = [name for name in OURS if name != replaced]
    assert callbacks(f"--trainer.callbacks{sign}{given}") == [*expected, given.rpartition(".")[2]]


def test_its_arguments_follow_it() -> None:
    words = ("--trainer.callbacks=RunCheckpoint", "--trainer.callbacks.every_n_steps=7")
    assert resolve(["fit", *words])["trainer"]["callbacks"][-1]["init_args"]["every_n_steps"] == 7


@pytest.mark.parametrize("words", ["Forecast", "[Forecast,RunCost]", "[Forecast, MetricsFile]"])
def test_a_word_takes_one_away_and_stays_in_the_record(words: str) -> None:
    config = resolve(["fit", "--without", words])
    left = callbacks("--without", words)
    assert set(OURS) - set(left) == {word for word in words.strip("[]").replace(" ", "").split(",") if word in OURS}
    assert resolve(["fit"], config) == config


@pytest.mark.parametrize("words", ["--without Forecast RunCost", "--without=Forecast --without RunCost"])
def test_several_words_each_take_one_away(words: str) -> None:
    assert set(OURS) - set(callbacks(*words.split())) == {"Forecast", "RunCost"}


@pytest.mark.parametrize("word", ["Forecasts", "EarlyStopping", "checkpoint"])
def test_a_word_that_is_not_one_of_ours_is_refused(word: str) -> None:
    with pytest.raises(InputError, match=f"without={word}: .*RunCheckpoint"):
        resolve(["fit", "--without", word])


def test_the_record_stays_beside_other_loggers() -> None:
    assert loggers() == ["GuardedWandbLogger", "MetricsFile"]
    assert loggers("--trainer.logger=CSVLogger") == ["MetricsFile", "CSVLogger"]
    assert loggers("--trainer.logger=false") == loggers("--trainer.logger=null") == ["MetricsFile"]
    assert loggers("--trainer.logger=true") == ["GuardedWandbLogger", "MetricsFile"]
    assert loggers("--trainer.logger=false", "--without=MetricsFile") == []
    assert loggers("--config", "digits", "--config", "trainer/wandb_artifacts") == ["GuardedWandbLogger", "MetricsFile"]


@pytest.mark.parametrize(
    ("switch", "gone"),
    [
        ("enable_checkpointing=false", ["RunCheckpoint"]),
        ("enable_progress_bar=false", ["RunProgress"]),
        ("enable_model_summary=true", ["NetworkSummary"]),
        ("logger=false", []),
        ("barebones=true", own_parts.names()),
    ],
)
def test_the_switches_of_the_trainer(switch: str, gone: list[str]) -> None:
    assert own_parts.switched(resolve(["fit", f"--trainer.{switch}"])["trainer"]) == gone


def test_a_run_with_callbacks_and_loggers_of_its_own_has_all_that_keeps_it_safe(
    run_main: Callable[..., Path],
) -> None:
    mine = f"{{trainer: {{callbacks: [{STOP}], logger: [{{class_path: CSVLogger}}]}}}}"
    cwd = run_main(*shlex.split(SMALL), "--config", "digits", "--config", mine)
    folder = cwd / "runs" / "digits" / "one"
    assert {path.name for path in folder.glob("*")} >= {"config.yaml", "environment.json", "confusion.csv"}
    assert (folder / "checkpoints" / "last.ckpt").is_file()
    assert "test/accuracy" in metrics(folder)
    assert list(folder.glob("lightning_logs/*/metrics.csv"))  # where no place was given
    assert [path.name for path in cwd.iterdir()] == ["runs"]


@pytest.mark.nightly
@pytest.mark.parametrize(
    "switch",
    ["enable_checkpointing false", "enable_progress_bar false", "logger false", "barebones true", "fast_dev_run true"],
)
def test_each_switch_trains(switch: str, run_main: Callable[..., Path]) -> None:
    cwd = run_main(*shlex.split(f"{SMALL} --trainer.{switch}"))
    folder = cwd / "runs" / "digits" / "one"
    bare = switch.split()[0] in ("barebones", "fast_dev_run")
    assert (folder / "metrics.csv").is_file() != bare
    saves = not bare and switch != "enable_checkpointing false"
    assert (folder / "checkpoints" / "last.ckpt").is_file() == saves
