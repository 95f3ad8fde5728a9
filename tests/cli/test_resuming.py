"""What a resumed run is asked to do in another way is refused, or done and said; its record says what was done."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from program import TINY
from torch.optim.lr_scheduler import StepLR

from capsule_lightning.callbacks.checkpoint import RunCheckpoint, complete_logs
from capsule_lightning.cli.changes import Change, change_rate, find_changes, require_possible, trained_with
from capsule_lightning.cli.resuming import is_trained, require_end_missing
from capsule_lightning.errors import InputError
from capsule_lightning.loggers.metrics_file import MetricsFile
from capsule_lightning.runs.checkpoint_files import misfit, require_state, within_epoch
from capsule_lightning.runs.starts import ENVIRONMENT_NAME, starts_of
from capsule_lightning.schedules import OneCycle

SMALL = (
    *TINY,
    "--trainer.limit_train_batches=2",
    "--trainer.limit_val_batches=1",
    "--test_after_fit=false",
)
RUN = "runs/digits/one"
LAST = f"{RUN}/checkpoints/last.ckpt"


def state(ready: int = 3, last: bool = False, step: int = 3, epochs: int = 0, **more: object) -> dict:
    """A checkpoint as the checks see it."""
    loops = {
        "epoch_loop.batch_progress": {"current": {"ready": ready}, "is_last_batch": last},
        "epoch_progress": {"current": {"processed": epochs}},
    }
    return {
        "state_dict": {},
        "optimizer_states": [{"state": {}, "param_groups": [{"params": []}]}],
        "loops": {"fit_loop": loops},
        "global_step": step,
        **more,
    }


@pytest.mark.parametrize(
    "change",
    [
        Change("seed_everything", 0, 7),
        Change("data.seed", None, 1),
        Change("data.val_size", 0.1, 0.2),
        Change("data.fold", 0, 1),
        Change("model.net.encoder.layer_decay", 0.5, 0.75),
        Change("model.net.encoder.frozen", True, 2),
        Change("data", "DigitsDataModule", "MNISTDataModule"),
        Change("model.optimizer", "Adam", "SGD"),
        Change("model.optimizer", "Adam", "AdamW"),
        Change("model.optimizer.amsgrad", False, True),
        Change("data.batch_size", 64, 32),
        Change("model.lr_scheduler", "OneCycle", "StepLR"),
        Change("model.lr_scheduler", None, "OneCycle"),
        Change("model.lr_scheduler.gamma", 0.1, 0.2),
    ],
    ids=str,
)
def test_what_a_state_within_an_epoch_does_not_allow_is_refused(change: Change) -> None:
    with pytest.raises(InputError, match=rf"{change.key}={change.now}: last.ckpt .*{change.before}.*new run"):
        require_possible([change], "last.ckpt", state(), "StepLR")


@pytest.mark.parametrize(
    "change",
    [
        Change("model.optimizer.lr", 0.1, 0.2),
        Change("model.optimizer.fused", False, True),
        Change("trainer.max_epochs", 1, 2),
        Change("data.root", "a", "b"),
        Change("model.lr_scheduler", "OneCycle", "StepDecay"),
        Change("model.lr_scheduler", "OneCycle", None),
        Change("model.lr_scheduler.rise", 0.1, 0.2),
    ],
    ids=str,
)
def test_what_can_be_done_is_not_refused(change: Change) -> None:
    require_possible([change], "last.ckpt", state(), "OneCycle")


def test_another_batch_size_begins_with_an_epoch() -> None:
    require_possible([Change("data.batch_size", 64, 32)], "last.ckpt", state(ready=20, last=True))
    assert within_epoch(state(ready=20))
    assert not within_epoch(state(ready=0))


def test_a_checkpoint_knows_its_configuration_better_than_its_run(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed_everything: 1\n")
    path = tmp_path / "checkpoints" / "last.ckpt"
    assert trained_with(path, state())["seed_everything"] == 1
    kept = {"RunRecord": {"config": {"seed_everything": 2}}}
    assert trained_with(path, state(callbacks=kept))["seed_everything"] == 2
    assert trained_with(tmp_path.parent / "last.ckpt", state()) == {}


def test_lists_and_options_of_one_start_are_no_news() -> None:
    before = {"runs": "a", "trainer": {"callbacks": [{"class_path": "A"}] * 4}, "model": {"lr": 0.1}}
    now = {"runs": "b", "trainer": {"callbacks": [{"class_path": "B"}] * 4}, "model": {"lr": 0.1, "new": 1}}
    (change,) = find_changes(before, now)
    assert str(change) == "another trainer.callbacks"


@pytest.mark.parametrize("kind", ["ours", "torch's", "none"])
def test_another_rate_is_that_of_the_next_step_and_of_all_that_follow(kind: str) -> None:
    def made(rate: float) -> tuple[torch.optim.Optimizer, list]:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)
        make = {"ours": lambda: OneCycle(optimizer, 10), "torch's": lambda: StepLR(optimizer, 2), "none": lambda: None}
        return optimizer, [s for s in [make[kind]()] if s is not None]

    def rates(optimizer: torch.optim.Optimizer, schedules: list, steps: int) -> list[float]:
        found = []
        for _ in range(steps):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            for schedule in schedules:
                schedule.step()
        return found

    old, old_schedules = made(0.1)
    rates(old, old_schedules, 3)
    new, new_schedules = made(0.2)
    new.load_state_dict(old.state_dict())
    for mine, theirs in zip(new_schedules, old_schedules, strict=True):
        mine.load_state_dict(theirs.state_dict())
    change_rate(
        SimpleNamespace(optimizers=[new], lr_scheduler_configs=[SimpleNamespace(scheduler=s) for s in new_schedules]),
        0.1,
        0.2,
    )
    assert rates(new, new_schedules, 6) == pytest.approx(rates(*made(0.2), 9)[3:])


@pytest.mark.parametrize(
    ("harm", "named"),
    [
        ({"loops": {"a": 1}}, "loops.fit_loop"),
        ({"loops": [1]}, "loops is list"),
        ({"loops": {"fit_loop": {"epoch_progress": 3, "state_dict": {}}}}, "epoch_progress"),
        ({"global_step": "many"}, "global_step is str"),
        ({"optimizer_states": [3]}, "state of an optimizer"),
        ({"optimizer_states": [{"state": {}, "param_groups": []}]}, "state of an optimizer"),
        ({"lr_schedulers": {}}, "lr_schedulers is dict"),
        ({"callbacks": 1}, "callbacks is int"),
        ({"pytorch-lightning_version": 2}, "pytorch-lightning_version is int"),
    ],
    ids=str,
)
def test_a_state_of_another_form_is_refused(harm: dict, named: str) -> None:
    form = {"epoch_progress": {"current": {"processed": 0}}, "state_dict": {}}
    with pytest.raises(InputError, match=rf"last.ckpt: .*{named}.*previous.ckpt"):
        require_state("last.ckpt", {**state(), **harm}, form)
    good = state()
    good["loops"]["fit_loop"]["state_dict"] = {"anything": 1}
    require_state("last.ckpt", good, form)
    assert misfit({"a": None}, {"a": 3}, "loops") is None


def trainer(epochs: int = 2, steps: int = -1) -> SimpleNamespace:
    return SimpleNamespace(max_epochs=epochs, max_steps=steps)


def test_a_finished_run_is_not_trained_for_no_steps(tmp_path: Path) -> None:
    assert is_trained(state(epochs=2), trainer())
    assert is_trained(state(step=5), trainer(-1, 5))
    assert not is_trained(state(epochs=1), trainer())
    assert not is_trained(state(step=4), trainer(-1, 5))
    require_end_missing("last.ckpt", trainer(), True, tmp_path)  # the closing test is missing
    for wanted in (False, True):
        MetricsFile(str(tmp_path)).log_metrics({"test/accuracy": 1.0}, 40)
        with pytest.raises(InputError, match=r"trained for 2 epochs.*--trainer\.max_epochs more than 2"):
            require_end_missing("last.ckpt", trainer(), wanted, tmp_path)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "previous.ckpt").touch()  # killed before its end: that drops it
    require_end_missing("last.ckpt", trainer(), True, tmp_path)


def test_the_row_that_a_kill_has_cut_off_is_written_once(tmp_path: Path) -> None:
    logger = MetricsFile(str(tmp_path))
    logger.log_metrics({"train/loss": 0.5}, 8)
    with logger.path.open("a") as file:
        file.write("1,9,train/lo")  # half a row of a process that was killed
    row = {"step": 9, "metrics": {"train/loss": 0.25, "train/accuracy": 1.0}}
    for _ in range(2):
        complete_logs(SimpleNamespace(loggers=[logger]), row)
    complete_logs(SimpleNamespace(loggers=[logger]), {})
    lines = logger.path.read_text().splitlines()
    assert [line.split(",")[1:] for line in lines if line.count(",") == 3] == [
        ["step", "metric", "value"],
        ["8", "train/loss", "0.5"],
        ["9", "train/loss", "0.25"],
        ["9", "train/accuracy", "1.0"],
    ]


def test_a_checkpoint_holds_what_is_logged_after_it() -> None:
    checkpoint = RunCheckpoint()
    stale, fresh = torch.tensor(1.0), torch.tensor(1.0)
    checkpoint._logged = {"train/agreement": stale, "train/loss": torch.tensor(1.0)}
    logged = SimpleNamespace(global_step=10, logged_metrics={"train/agreement": stale, "train/loss": fresh})
    assert checkpoint._to_be_logged(logged) == {"step": 9, "metrics": {"train/loss": 1.0}}


@pytest.fixture
def trained(run_main: Callable[..., Path]) -> Path:
    return run_main("fit", *SMALL, "--trainer.max_epochs=1", "--run_id=one")


@pytest.mark.nightly
def test_another_rate_is_done_said_and_recorded_and_a_refusal_changes_nothing(
    trained: Path,
    run_main: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    record = (trained / RUN / "config.yaml").read_bytes()
    for refused in (("--seed_everything=7",), ("--model.optimizer=AdamW",), ("--trainer.max_epochs=1",)):
        shutil.copytree(trained / RUN, trained / "before")
        with pytest.raises(SystemExit) as stopped:
            run_main("fit", "--resume", RUN, "--trainer.max_epochs=2", *refused)
        assert stopped.value.code == 2
        assert refused[0].split("=")[0][2:] in capsys.readouterr().err
        for path in (trained / "before").rglob("*.*"):
            if path.is_file() and path.name != ".held":
                assert (trained / RUN / path.relative_to(trained / "before")).read_bytes() == path.read_bytes()
        shutil.rmtree(trained / "before")
    assert (trained / RUN / "config.yaml").read_bytes() == record
    run_main("fit", "--resume", RUN, "--trainer.max_epochs=2", "--model.optimizer.lr=0.5", "--model.lr_scheduler=null")
    assert "model.optimizer.lr=0.5 (was 0.003)" in caplog.text
    found = torch.load(LAST, weights_only=True)
    assert found["optimizer_states"][0]["param_groups"][0]["lr"] == 0.5
    config = yaml.safe_load((trained / RUN / "config.yaml").read_text())
    assert config["model"]["init_args"]["optimizer"]["init_args"]["lr"] == 0.5


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"starts": 5}', '{"starts": [NaN]}', "[" * 100_000, "\x00"])
def test_a_record_of_starts_that_cannot_be_read_is_begun_anew(text: str, tmp_path: Path) -> None:
    (tmp_path / ENVIRONMENT_NAME).write_text(text)
    assert starts_of(tmp_path) == []
