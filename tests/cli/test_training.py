"""A run from end to end: what a user types, and what lies in the folder afterwards."""

import csv
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from forked import run
from PIL import Image
from program import TINY, Run, metrics

from capsule_lightning.data.digits import DigitsDataModule
from capsule_lightning.tasks.classification import ClassificationTask


@pytest.mark.long(12)  # the first to ask for the run makes it
def test_the_folder_of_a_run(trained: Run) -> None:
    files = {p.relative_to(trained.folder).as_posix() for p in trained.folder.glob("*")}
    assert files >= {"config.yaml", "metrics.csv", "confusion.csv", "checkpoints", "figures", "wandb"}
    assert {p.name for p in (trained.folder / "figures").iterdir()} >= {
        "val_reconstructions.png",
        "test_reconstructions.png",
        "test_confusion.png",
    }
    assert (trained.folder / "checkpoints" / "last.ckpt").is_file()
    values = metrics(trained.folder)
    assert {"train/loss", "train/class_loss", "train/reconstruction_loss", "train/accuracy", "lr"} <= set(values)
    assert len(values["val/accuracy"]) == 2
    assert values["val/accuracy"][-1] > values["val/accuracy"][0]
    assert values["test/accuracy"][0] > 0.6


def test_pictures_are_pictures(trained: Run) -> None:
    for path in (trained.folder / "figures").iterdir():
        with Image.open(path) as image:
            assert min(image.size) > 200
            low, high = image.convert("L").getextrema()
            assert high - low > 200


def test_the_last_lines_of_fit_say_what_came_out_and_what_to_do_next(trained: Run) -> None:
    last = dict(re.findall(r"^([a-z ]+): +(.*)$", trained.output.split("\n\nrun:")[1], re.MULTILINE))
    assert last["accuracy"] == f"{100 * metrics(trained.folder)['test/accuracy'][0]:.2f} % on the test set"
    assert (trained.cwd / last["pictures"]).is_dir()
    assert (trained.cwd / last["checkpoint"]).is_file()
    assert last["report it"] == f"python -m capsule_lightning report --ckpt_path {last['checkpoint']}"
    folder = trained.folder.relative_to(trained.cwd)
    assert last["go on"] == f"python -m capsule_lightning fit --resume {folder} --trainer.max_epochs 4"


def test_the_best_checkpoint_is_the_one_tested(trained: Run) -> None:
    best = max(metrics(trained.folder)["val/accuracy"])
    assert trained.checkpoint.endswith(f"accuracy{best:.4f}.ckpt")


def test_test_of_a_checkpoint_needs_nothing_else(run_main: Callable[..., Path], trained: Run) -> None:
    run_main("test", "--ckpt_path", trained.checkpoint)
    again, before = metrics(trained.folder / "test"), metrics(trained.folder)
    assert again["test/accuracy"] == before["test/accuracy"]
    assert again["test/loss"] == pytest.approx(before["test/loss"], rel=1e-5)  # other numbers of threads


def test_validate_agrees_with_fit(run_main: Callable[..., Path], trained: Run) -> None:
    run_main("validate", "--ckpt_path", trained.checkpoint)
    again = metrics(trained.folder / "validate")["val/accuracy"]
    assert again == [max(metrics(trained.folder)["val/accuracy"])]


def test_predict_writes_a_table_that_agrees_with_test(run_main: Callable[..., Path], trained: Run) -> None:
    run_main("predict", "--ckpt_path", trained.checkpoint)
    with (trained.folder / "predict" / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["image"]) for row in rows] == list(range(360))
    right = sum(row["label"] == row["prediction"] for row in rows) / len(rows)
    assert right == pytest.approx(metrics(trained.folder)["test/accuracy"][0], abs=1e-6)
    for row in rows[:20]:
        lengths = [float(row[f"length_{digit}"]) for digit in range(10)]
        assert float(row["confidence"]) == max(lengths) == lengths[int(row["prediction"])]
        assert 0 < float(row["reconstruction_error"]) < 64
    assert (trained.folder / "predict" / "figures" / "predict_reconstructions.png").is_file()


def test_predict_of_image_files(run_main: Callable[..., Path], trained: Run, tmp_path: Path) -> None:
    data = DigitsDataModule()
    images = data.load("test").images
    (tmp_path / "photos").mkdir()
    for number in range(5):
        Image.fromarray(images[number, 0].numpy()).save(tmp_path / "photos" / f"{number}.png")
    run_main("predict", "--ckpt_path", trained.checkpoint, "--data.images", "photos")
    with (trained.folder / "predict" / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [Path(row["image"]).name for row in rows] == [f"{n}.png" for n in range(5)]
    assert {row["label"] for row in rows} == {""}
    task = ClassificationTask.load_from_checkpoint(trained.checkpoint, map_location="cpu").eval()
    with torch.no_grad():
        expected = task(images[:5].float() / 255).activations.argmax(dim=-1)
    assert [int(row["prediction"]) for row in rows] == expected.tolist()


def test_predict_prints_its_answers_and_writes_where_it_is_told(
    run_main: Callable[..., Path], trained: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, labels = DigitsDataModule().load("test")
    for number in range(4):
        place = tmp_path / "photos" / str(int(labels[number])) / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[number, 0].numpy()).save(place)
    Image.fromarray(255 - images[4, 0].numpy()).save(tmp_path / "paper.png")
    before = {path for path in trained.folder.rglob("*") if path.is_file()}
    words = ("--data.images", "photos", "paper.png", "--output", "t.csv", "--embeddings", "p.npz")
    run_main("predict", trained.folder.name, "--runs", str(trained.cwd / "runs"), *words)
    assert {path for path in trained.folder.rglob("*") if path.is_file()} - before <= {
        trained.folder / "predict" / "figures" / f"predict_{name}.png" for name in ("reconstructions", "wrong")
    }
    said = capsys.readouterr().out
    with (tmp_path / "t.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows[:4]] == sorted(str(int(label)) for label in labels[:4])
    right = sum(row["label"] == row["prediction"] for row in rows[:4])
    assert f"accuracy: {25 * right:.2f} % ({right} of 4)" in said
    assert "1 of 5 images are far brighter than the training images; inverted? --data.invert true" in said
    assert re.search(
        rf"paper\.png +{rows[4]['prediction']} \(0\.\d\d\)\n(.*\n)+5 predictions: t\.csv\nembeddings: p\.npz", said
    )
    with np.load(tmp_path / "p.npz", allow_pickle=False) as found:
        assert found["names"].tolist() == [row["image"] for row in rows]
        assert found["poses"].shape == (5, 10, 16)
        lengths = np.array([[float(row[f"length_{digit}"]) for digit in range(10)] for row in rows])
        np.testing.assert_allclose(np.linalg.norm(found["poses"], axis=-1), lengths, atol=1e-5)
    assert not list(tmp_path.glob("runs/**/wandb"))


def test_a_checkpoint_holds_plain_values_alone(trained: Run) -> None:
    checkpoint = torch.load(trained.checkpoint, weights_only=True)
    model = yaml.safe_load((trained.folder / "config.yaml").read_text())["model"]
    told = {"in_shape": [1, 8, 8], "num_classes": 10}  # by the data
    expected = {"_class_path": model["class_path"], **model["init_args"], **told}
    assert expected["net"]["class_path"] == "capsule_lightning.models.capsnet.CapsNet"
    found = checkpoint["hyper_parameters"]
    assert {name: found[name] for name in expected} == expected


def test_the_command_line_wins_over_the_runs_config(run_main: Callable[..., Path], trained: Run) -> None:
    run_main("test", "--ckpt_path", trained.checkpoint, "--model.net.routing.iterations", "1", "--run_id", "once")
    once = Path("runs/digits/once/test")
    assert metrics(once)["test/loss"] != pytest.approx(metrics(trained.folder)["test/loss"], rel=1e-3)


def test_resumed_training_continues_the_run(run_main: Callable[..., Path]) -> None:
    cwd = run_main("fit", *TINY, "--trainer.max_epochs", "2", "--test_after_fit", "false", "--run_id", "one")
    folder = cwd / "runs" / "digits" / "one"
    before = metrics(folder)["val/loss"]
    run_main("fit", "--ckpt_path", str(folder / "checkpoints" / "last.ckpt"), "--trainer.max_epochs", "3")
    after = metrics(folder)["val/loss"]
    assert after[:2] == before
    assert len(after) == 3
    assert after[2] < after[1]
    assert [p.name for p in folder.parent.iterdir()] == ["one"]


@pytest.mark.nightly  # by day a run in bfloat16 is killed and resumed
@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_mixed_precision_learns(precision: str, run_main: Callable[..., Path]) -> None:
    words = ("--trainer.precision", precision, "--trainer.gradient_clip_val", "1.0", "--trainer.accelerator", "cpu")
    small = (
        "--model.net.encoder.channels",
        "32",
        "--model.net.encoder.num_types",
        "8",
        "--model.net.decoder.hidden=[32]",
    )
    cwd = run_main("fit", "--trainer.max_epochs", "3", "--run_id", "mixed", *words, *small)
    values = metrics(cwd / "runs" / "digits" / "mixed")
    assert values["test/accuracy"][0] > 0.6
    assert all(torch.isfinite(torch.tensor(v)).all() for v in values.values())


def test_training_on_everything_selects_nothing(run_main: Callable[..., Path]) -> None:
    cwd = run_main("fit", *TINY, "--data.val_size", "0", "--trainer.max_epochs", "1", "--run_id", "all")
    folder = cwd / "runs" / "digits" / "all"
    assert [p.name for p in (folder / "checkpoints").iterdir()] == ["last.ckpt"]
    assert "test/accuracy" in metrics(folder)


def test_one_batch_is_one_batch_in_a_process_that_is_forked(tmp_path: Path) -> None:
    limits = ("--trainer.limit_train_batches=1", "--trainer.limit_val_batches=1", "--trainer.limit_test_batches=1")
    assert run(tmp_path, "fit", *TINY, *limits, "--trainer.max_epochs=1", "--data.batch_size=16") == 0
    assert re.search(r"\(\d+ of 16, ", (tmp_path / "output.txt").read_text())  # 1.0 would be all 360


def test_two_runs_in_a_row_have_folders_of_their_own(run_main: Callable[..., Path]) -> None:
    for _ in range(2):
        cwd = run_main("fit", *TINY, "--trainer.max_steps", "1", "--test_after_fit", "false")
    assert len(list((cwd / "runs" / "digits").iterdir())) == 2


def test_the_same_seed_gives_the_same_run(run_main: Callable[..., Path]) -> None:
    runs = {}
    for run_id, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        words = ("--trainer.max_epochs", "1", "--test_after_fit", "false", "--seed_everything", seed)
        cwd = run_main("fit", *TINY, *words, "--run_id", run_id)
        runs[run_id] = metrics(cwd / "runs" / "digits" / run_id)["train/loss"]
    assert runs["a"] == runs["b"] != runs["c"]


def test_wandb_offline_holds_config_history_and_images(trained: Run) -> None:
    (log,) = (trained.folder / "wandb").glob("offline-run-*/run-*.wandb")
    shown = subprocess.run(
        [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--json", str(log)],
        capture_output=True,
        text=True,
        check=True,
    )
    records = [json.loads(line) for line in shown.stdout.splitlines()]

    def of(kind: str) -> list[dict]:
        return [record[kind] for record in records if record["type"] == kind]

    run = of("run")[0]
    assert (run["run_id"], run["project"]) == (f"digits-{trained.folder.name}", "capsule_lightning")
    assert (run["display_name"], run["run_group"]) == ("DynamicRouting-seed0", "digits-DynamicRouting")
    config = {k: v for update in of("config") for k, v in update["update"].items()}
    assert config["model.net.routing"] == "DynamicRouting"
    assert config["model.net.routing.iterations"] == 3
    assert config["trainer.max_epochs"] == 2
    assert not any("init_args" in key for key in config)
    history = [row["item"] for row in of("history")]
    logged = [row["val/accuracy"] for row in history if "val/accuracy" in row]
    assert logged == pytest.approx(metrics(trained.folder)["val/accuracy"])
    images = [row["val/reconstructions.filenames"] for row in history if "val/reconstructions.filenames" in row]
    assert len(images) == 2  # after epochs 1 and 2
    for (path,) in images:
        with Image.open(log.parent / "files" / path) as image:
            assert min(image.size) > 200
    assert [row["exit_code"] for row in of("exit")] == [0]
    (hint,) = re.findall(r"W&B: .*\n.*", trained.output)
    assert "wandb login" in hint
    assert "wandb sync" in hint


def test_the_saved_config_is_the_resolved_one(trained: Run) -> None:
    config = yaml.safe_load((trained.folder / "config.yaml").read_text())
    assert config["model"]["init_args"]["net"]["init_args"]["encoder"]["init_args"]["channels"] == 64
    assert config["trainer"]["default_root_dir"] is None
    assert config["run_id"] is None
