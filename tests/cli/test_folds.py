"""`fit --folds`: what is asked for, what is refused, and runs that are trained once and put together."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from capsule_lightning.cli.folds import is_done, read_plan, refusal, words_of_one
from capsule_lightning.comparison import Run
from capsule_lightning.comparison.folds import fold_table
from capsule_lightning.errors import InputError

SMALL = (  # noqa: SIM905
    "fit --config image_folder.yaml --config model/cnn.yaml --data.root photos --data.image_size [8,8] "
    "--data.batch_size 4 --data.val_size 2 --model.net.channels [2] --model.net.hidden [4] --trainer.max_epochs 1 "
    "--trainer.logger MetricsFile --trainer.accelerator cpu --experiment cv"
).split()


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two classes of six pictures."""
    random = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(6):
            pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--fold 1", "--fold 1: one of how many folds\\? Give --folds N too"),
        ("--folds 1", "folds=1: expected a whole number from 2"),
        ("--folds many", "folds='many': expected a whole number"),
        ("--folds 3 --fold 3", "fold=3: expected 0 to 2, as folds=3"),
        ("--folds 3 --fold -1", "fold=-1: expected 0 to 2"),
        ("--folds 3 --fold one", "fold='one': expected a whole number from 0 to 2"),
        ("--folds 3 --data.fold 1", "--data.fold: is what --folds sets"),
        ("--folds 3 --run_id mine", "--run_id with --folds: names a single run.*--experiment"),
        ("--folds 3 --ckpt_path last", "--ckpt_path with --folds"),
        ("--folds 3 --resume runs/x", "--resume runs/x with --folds: each fold goes on by itself"),
        ("--folds 3 --seed_everything true", "seed_everything=true with --folds: expected a whole number"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_imported(words: str, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        read_plan(["fit", *words.split()])


def test_the_folds_are_the_runs_of_a_study(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("{experiment: mine, seed_everything: 7}")
    plan = read_plan(["fit", "--config", str(tmp_path / "mine.yaml"), "--folds", "3", "--resume", "--runs", "all"])
    assert (plan.folds, plan.fold, plan.root) == (3, None, Path("all"))
    trials = plan.study.trials()
    assert [trial.run_id for trial in trials] == ["fold0-seed7", "fold1-seed7", "fold2-seed7"]
    assert "--data.folds=3 --data.fold 1 --seed_everything 7 --experiment mine" in trials[1].command
    one = read_plan(["fit", "--config", str(tmp_path / "mine.yaml"), "--folds=3", "--fold=1"])
    assert one.folder == Path("runs/mine/fold1-seed7")
    assert one.study.trials() == trials  # so that one fold may be trained first, and the others with it later
    assert words_of_one(one) == [*trials[1].words, "--runs", "runs", "--resume"]
    assert not is_done(one)


def test_data_that_cannot_be_divided_are_refused(photos: Path) -> None:
    digits = read_plan(["fit", "--folds", "3"])
    said = refusal([trial.words for trial in digits.study.trials()])
    assert said is not None
    assert "DigitsDataModule cannot be divided" in said
    assert "--config table.yaml" in said
    many = read_plan([*SMALL, "--folds", "7"])
    said = refusal([trial.words for trial in many.study.trials()])
    assert said is not None
    assert "the class cat has only 6 examples" in said
    good = read_plan([*SMALL, "--folds", "3"])
    assert refusal([trial.words for trial in good.study.trials()]) is None


def test_the_table_has_each_fold_and_their_mean() -> None:
    def run(fold: int, accuracy: float) -> Run:
        history = {"test/accuracy": {3: accuracy}, "test/sensitivity/cat": {3: 1.0}, "val/loss": {3: 1.0}}
        config = {"data.folds": 2, "data.fold": fold, "seed_everything": 0}
        return Run(f"fold{fold}", config, history, None, 9, True)

    shown = io.StringIO()
    Console(file=shown, width=200).print(fold_table([run(1, 0.5), run(0, 0.75)]))
    heads, row, *rest = [line.split() for line in shown.getvalue().splitlines()]
    assert heads[:4] == ["fold", "0", "fold", "1"]
    assert row == ["test/accuracy", "75.00", "%", "50.00", "%", "62.50", "±", "17.68", "%"]
    assert not rest


@pytest.mark.nightly
def test_one_fold_first_and_the_others_later_none_twice(photos: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from program import capsule_lightning

    one = capsule_lightning(photos, *SMALL, "--folds", "2", "--fold", "1")
    assert one.returncode == 0, one.stderr
    checkpoint = photos / "runs" / "cv" / "fold1-seed0" / "checkpoints" / "last.ckpt"
    made = checkpoint.stat().st_mtime_ns
    again = capsule_lightning(photos, *SMALL, "--folds", "2", "--fold", "1")
    assert "fold 1 of 2 is done, in runs/cv/fold1-seed0: test/accuracy" in again.stdout
    both = capsule_lightning(photos, *SMALL, "--folds", "2")
    assert both.returncode == 0, both.stdout + both.stderr
    assert "2 runs in runs/cv, 1 of them done" in both.stdout
    assert "mean ± deviation" in both.stdout
    assert checkpoint.stat().st_mtime_ns == made
    assert (photos / "runs" / "cv" / "comparison" / "comparison.csv").is_file()
    other = capsule_lightning(photos, *SMALL, "--folds", "2", "--trainer.max_epochs", "2")
    assert other.returncode == 2
    assert "was made by" in other.stderr
    refused = capsule_lightning(photos, *SMALL, "--experiment", "few", "--folds", "7", "--fold", "0")
    assert refused.returncode == 2
    assert not (photos / "runs" / "few").exists()
