"""The table of `choice`: which run a command is about, from its options and the environment alone."""

import os
from pathlib import Path

import pytest

from capsule_lightning.errors import InputError
from capsule_lightning.runs.choice import choose, require_new, restarted, run_below
from capsule_lightning.runs.folders import NEWEST

ID, AGAIN = {"CAPSULE_LIGHTNING_RUN_ID": "one"}, {"SLURM_RESTART_COUNT": "1"}
NAMELESS = {"TORCHELASTIC_RUN_ID": "none", "GROUP_WORLD_SIZE": "2"}
"""Torchrun on two nodes, which could not agree on a name for a new run."""


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two runs of one experiment, of which ``two`` is the newer."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("one", "two")):
        checkpoint = tmp_path / "runs" / "digits" / name / "checkpoints" / "last.ckpt"
        checkpoint.parent.mkdir(parents=True)
        (checkpoint.parents[1] / "config.yaml").write_text("{}")
        checkpoint.touch()
        os.utime(checkpoint, (number, number))
    return tmp_path / "runs" / "digits"


def options(**given: str) -> dict:
    return {"experiment": "digits", "runs": "runs", "run_id": None, "ckpt_path": None, "resume": None, **given}


FILE = "runs/digits/one/checkpoints/last.ckpt"


@pytest.mark.parametrize(
    ("given", "environment", "name", "begins", "seeks", "checkpoint"),
    [
        ({"run_id": "new"}, {}, "new", True, False, None),
        ({}, ID, "one", True, False, None),
        ({}, ID | AGAIN, "one", False, True, None),
        ({"resume": "one"}, {}, "one", False, True, None),
        ({"resume": "one"}, NAMELESS, "one", False, True, None),
        ({"resume": NEWEST}, ID, "one", False, True, None),
        ({"resume": NEWEST, "run_id": "one"}, {}, "one", False, True, None),
        ({"resume": NEWEST}, {}, "two", False, True, None),
        ({"ckpt_path": FILE}, {}, "one", False, False, FILE),
        ({"ckpt_path": FILE}, NAMELESS, "one", False, False, FILE),
        ({"ckpt_path": FILE}, AGAIN, "one", False, True, FILE),
        ({"ckpt_path": FILE, "run_id": "new"}, {}, "new", False, False, FILE),
    ],
)
def test_each_row_of_the_table(
    given: dict, environment: dict, name: str, begins: bool, seeks: bool, checkpoint: str | None, runs: Path
) -> None:
    found = choose("fit", options(**given), environment)
    assert found.folder.absolute() == runs / name
    assert found[1:] == (begins, seeks, checkpoint)


def test_a_run_without_a_name_has_a_new_one(runs: Path) -> None:
    found = choose("fit", options(), {})
    assert found.begins
    assert found.folder.parent == Path("runs/digits")
    assert found.folder.name not in ("one", "two")


def test_a_command_that_measures_starts_from_nothing_but_its_checkpoint(runs: Path) -> None:
    found = choose("test", {**options(ckpt_path=FILE)}, NAMELESS | AGAIN)
    assert found == (runs / "one", False, False, FILE)


@pytest.mark.parametrize(
    ("given", "environment", "expected"),
    [
        ({"resume": "one", "ckpt_path": FILE}, {}, "give one of the two"),
        ({"resume": "one", "run_id": "two"}, {}, "are two runs"),
        ({"resume": "nowhere"}, {}, "no run 'nowhere'"),
        ({"run_id": "a/b"}, {}, "name of one folder"),
        ({}, NAMELESS, "--run_id NAME"),
    ],
)
def test_what_names_no_run_or_two_is_refused(given: dict, environment: dict, expected: str, runs: Path) -> None:
    with pytest.raises(InputError, match=expected):
        choose("fit", options(**given), environment)


def test_a_new_run_does_not_begin_in_the_folder_of_another(runs: Path) -> None:
    with pytest.raises(InputError, match=r"exists; resume it with --resume .*one"):
        require_new(choose("fit", options(), ID), runs / "one" / "checkpoints", ID)
    require_new(choose("fit", options(), ID | AGAIN), runs / "one" / "checkpoints", ID | AGAIN)
    require_new(choose("fit", options(ckpt_path=FILE), {}), runs / "one" / "checkpoints", {})
    with pytest.raises(InputError, match="two exists"):
        require_new(choose("fit", options(ckpt_path=FILE, run_id="two"), {}), runs / "two" / "checkpoints", {})


def test_the_configuration_below_the_words_is_that_of_the_run(runs: Path) -> None:
    assert run_below({"ckpt_path": FILE}, True, {}) == runs / "one"
    assert run_below({"resume": "one"}, True, {}) == runs / "one"
    assert run_below({"resume": NEWEST}, False, {}) == runs / "two"
    assert run_below({"resume": NEWEST}, False, ID) == Path("runs/digits/one")
    assert run_below({"resume": NEWEST}, True, ID) is None  # a job that is queued again says all it said
    assert run_below({}, False, ID) is None
    assert restarted(AGAIN)
    assert not restarted({})


@pytest.mark.parametrize("runs", [None, "elsewhere"])
def test_there_must_be_a_run_to_resume_unless_the_words_say_what_to_train(
    runs: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"no run in .* leave --resume out"):
        run_below({"resume": "newest", "runs": runs}, False, {})
    assert run_below({"resume": "newest", "runs": runs}, True, {}) is None
    assert run_below({"resume": "newest", "runs": runs}, False, {"WANDB_RUN_ID": "a"}) is None  # a job's first start
