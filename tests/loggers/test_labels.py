"""What a run is called in W&B: readable, its own, and never against what the user says."""

from pathlib import Path

import pytest
from wandb.sdk.artifacts.artifact import Artifact
from wandb.sdk.wandb_settings import Settings

from capsule_lightning.errors import InputError
from capsule_lightning.loggers import wandb as guard
from capsule_lightning.loggers.base import Placement
from capsule_lightning.loggers.labels import LONGEST_ID, Labels, labels, wandb_id
from capsule_lightning.loggers.wandb import GuardedWandbLogger

CONFIG = {
    "experiment": "digits",
    "seed_everything": 4,
    "data": "DigitsDataModule",
    "model.net": "CapsNet",
    "model.net.routing": "EMRouting",
}


@pytest.fixture(autouse=True)
def nobody_says_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("WANDB_RUN_ID", "WANDB_MODE", *guard.LABEL_VARIABLES.values()):
        monkeypatch.delenv(variable, raising=False)


def placed(run: Path, command: str = "fit", **more: object) -> Placement:
    return Placement(run if command == "fit" else run / command, run, command, {**CONFIG, **more})


def begun(run: Path, wandb_run: str) -> None:
    """W&B has files of the run."""
    (run / "wandb" / f"offline-run-20260102_030405-{wandb_run}").mkdir(parents=True)


def given(logger: GuardedWandbLogger, placement: Placement) -> tuple[str, ...]:
    """What `wandb.init` is told: id, name, group, tags and job type."""
    logger.place(placement)
    init = logger.init
    return init["id"], init["name"], init["group"], init["tags"], init["job_type"]


def test_runs_that_differ_in_the_seed_share_a_group_and_nothing_else_does() -> None:
    runs = [
        labels(placed(Path("runs/a") / f"20260102-030405-{n}", seed_everything=seed, **{"model.net.routing": routing}))
        for n, (routing, seed) in enumerate([("EMRouting", 0), ("EMRouting", 1), ("UniformRouting", 0)])
    ]
    assert runs[0] == Labels("EMRouting-seed0", "digits-EMRouting", ["Digits", "CapsNet", "EMRouting"], "fit")
    assert [run.group for run in runs] == ["digits-EMRouting", "digits-EMRouting", "digits-UniformRouting"]
    assert len({run.name for run in runs}) == 3


def test_a_run_of_a_study_is_called_by_its_choice() -> None:
    run = labels(placed(Path("runs/digits/EMRouting-lr0.01-seed4")))
    assert (run.name, run.group) == ("EMRouting-lr0.01-seed4", "digits-EMRouting-lr0.01")
    other_seed = labels(placed(Path("runs/digits/EMRouting-lr0.01-seed4"), seed_everything=1))
    assert other_seed.group == "digits-EMRouting"  # its name says nothing of this seed


@pytest.mark.parametrize(
    ("more", "name", "tags"),
    [
        ({"model.net.routing": None}, "CapsNet-seed4", ["Digits", "CapsNet"]),
        ({"seed_everything": False}, "EMRouting", ["Digits", "CapsNet", "EMRouting"]),
        ({"seed_everything": 0}, "EMRouting-seed0", ["Digits", "CapsNet", "EMRouting"]),
        ({"data": "X" * 100}, "EMRouting-seed4", ["X" * 64, "CapsNet", "EMRouting"]),
    ],
)
def test_what_is_not_there_is_not_named(more: dict, name: str, tags: list[str]) -> None:
    found = labels(placed(Path("runs/digits/one"), **more))
    assert (found.name, found.tags) == (name, tags)


def test_equal_ids_of_two_experiments_are_two_runs_in_wandb(tmp_path: Path) -> None:
    ids = {given(GuardedWandbLogger(), placed(tmp_path / "one", experiment=name))[0] for name in ("a", "b")}
    assert ids == {"a-one", "b-one"}


@pytest.mark.parametrize("name", ["a:b", "a?b", "a/b", "a b ", "ä", "'", "a" * 120, "%#\\,;"])
def test_wandb_takes_every_id(name: str) -> None:
    made = wandb_id(name, "one" * 4)
    assert Settings(run_id=made).run_id == made
    assert Artifact(f"model-{made}", type="model").name == f"model-{made}"
    assert made.isascii()
    assert len(made) <= LONGEST_ID
    assert wandb_id(f"{name}x"[-128:], "one" * 4) != made
    assert "/" not in made


def test_ids_that_look_alike_stay_apart() -> None:
    assert len({wandb_id("e", name) for name in ("a:b", "a;b", "a_b", "a?b", "x" * 200, "x" * 201)}) == 6


def test_an_id_that_wandb_has_given_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "4k2jx9ab")
    assert given(GuardedWandbLogger(), placed(tmp_path / "4k2jx9ab"))[0] == "4k2jx9ab"
    assert given(GuardedWandbLogger(), placed(tmp_path / "other"))[0] == "digits-other"
    monkeypatch.delenv("WANDB_RUN_ID")
    begun(tmp_path / "4k2jx9ab", "4k2jx9ab")  # the run of a sweep, resumed or tested by hand
    for command in ("fit", "test"):
        assert given(GuardedWandbLogger(), placed(tmp_path / "4k2jx9ab", command))[0] == "4k2jx9ab"


def test_a_run_that_goes_on_keeps_the_labels_that_wandb_has(tmp_path: Path) -> None:
    run = tmp_path / "one"
    assert given(GuardedWandbLogger(), placed(run, "test"))[1:] == labels(placed(run, "test"))
    begun(run, "digits-one")
    begun(run, "digits-another")
    for command in ("fit", "test"):
        assert given(GuardedWandbLogger(), placed(run, command)) == ("digits-one", None, None, None, None)
    assert given(GuardedWandbLogger(name="mine"), placed(run))[1] == "mine"


def test_the_user_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = GuardedWandbLogger(name="n", group="g", tags=["t"], job_type="j", save_dir=str(tmp_path / "elsewhere"))
    assert given(said, placed(tmp_path / "one")) == ("digits-one", "n", "g", ["t"], "j")
    assert said.save_dir == str(tmp_path / "elsewhere")
    for key, variable in guard.LABEL_VARIABLES.items():
        monkeypatch.setenv(variable, key)
    assert given(GuardedWandbLogger(), placed(tmp_path / "one")) == ("digits-one", None, None, None, None)


@pytest.mark.parametrize("mode", ["ofline", "", "Online"])
def test_a_mode_that_wandb_does_not_know_is_refused(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", mode)
    with pytest.raises(InputError, match=rf"WANDB_MODE={mode!r}: expected one of online, offline, disabled"):
        GuardedWandbLogger()


@pytest.mark.parametrize("mode", guard.MODES)
def test_the_modes_are_those_of_wandb(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings(mode=mode).mode
    monkeypatch.setenv("WANDB_MODE", mode)
    GuardedWandbLogger()
