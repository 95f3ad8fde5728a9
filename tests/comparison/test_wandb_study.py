"""A study by someone without an account: W&B's files on disk say all that makes its runs comparable."""

import csv
import itertools
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image
from program import capsule_lightning, clean_environment, metrics
from wandb_log import WANDB, config, history, images, labels, parts, table
from wandb_server import WandbServer

STUDY = {
    "experiment": "tiny",
    "fit": "--config digits.yaml --model.net.encoder.channels 4 --model.net.encoder.num_types 2 "
    "--model.net.decoder.hidden [16] --trainer.accelerator cpu --trainer.max_epochs 1",
    "each": {"model.net.routing": ["UniformRouting", "DynamicRouting"]},
    "seeds": [0, 1],
}
# by day, `test_training` reads what W&B has written of one run; one worker makes the study for all
pytestmark = [pytest.mark.nightly, pytest.mark.xdist_group("study in W&B")]
CHOICES = [(routing, seed) for routing in STUDY["each"]["model.net.routing"] for seed in STUDY["seeds"]]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of its runs."""
    cwd = tmp_path_factory.mktemp("study")
    (cwd / "study.yaml").write_text(yaml.safe_dump(STUDY))
    done = capsule_lightning(cwd, "compare", "--config", "study.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    return cwd / "runs" / "tiny"


def part_of(folder: Path) -> Path:
    (part,) = parts(folder)
    assert part.name.startswith("offline-run-")
    return part


@pytest.mark.parametrize(("routing", "seed"), CHOICES)
def test_a_run_is_found_again_in_what_wandb_has_written(routing: str, seed: int, study: Path) -> None:
    name = f"{routing}-seed{seed}"
    part, measured = part_of(study / name), metrics(study / name)
    assert labels(part) == {
        "id": f"tiny-{name}",
        "name": name,
        "group": f"tiny-{routing}",
        "job_type": "fit",
        "tags": ["Digits", "CapsNet", routing],
        "project": "capsule_lightning",
    }

    known = config(part)
    assert {key: known[key] for key in ("model.net.routing", "seed_everything", "data", "experiment")} == {
        "model.net.routing": routing,
        "seed_everything": seed,
        "data": "DigitsDataModule",
        "experiment": "tiny",
    }
    assert known["model.net.encoder.channels"] == 4
    nested = [key for key, value in known.items() if isinstance(value, dict) and value]
    assert nested == []

    rows = history(part)
    for metric in ("val/accuracy", "test/accuracy", "test/loss"):
        logged = [row[metric] for row in rows if metric in row]
        assert logged == pytest.approx(measured[metric], rel=1e-6)
    for key in ("val/reconstructions", "test/reconstructions", "test/confusion"):
        (path,) = images(part, key)
        with Image.open(path) as picture:
            assert min(picture.size) > 100


def test_tables_of_one_data_set_lie_side_by_side(study: Path) -> None:
    chosen, labels_of = [], {}
    for routing, seed in CHOICES:
        rows = table(part_of(study / f"{routing}-seed{seed}"), "test/samples")
        assert len(rows) == len({row["image"] for row in rows}) == 64
        for row in rows:
            assert row["chosen as"] in ("wrong", "unsure", "chance")
            assert 0 <= row["confidence"] <= 1
            if row["chosen as"] != "chance":
                assert (row["label"] != row["prediction"]) == (row["chosen as"] == "wrong")
            assert labels_of.setdefault(row["image"], row["label"]) == row["label"]
            for column in ("picture", "reconstruction"):
                assert row[column].is_relative_to(study)
                with Image.open(row[column]) as picture:
                    assert (picture.size, picture.mode) == ((64, 64), "L")
        chosen.append({row["image"] for row in rows if row["chosen as"] == "chance"})
    assert len(set.intersection(*chosen)) >= 8  # but for those that are wrong or unsure in one of them


def test_the_table_of_two_processes_is_that_of_one(study: Path) -> None:
    folder = study / "DynamicRouting-seed0"
    words = ("test", "--ckpt_path", str(folder / "checkpoints" / "last.ckpt"))
    ddp = ("--trainer.strategy=ddp", "--trainer.devices=2")
    tables = []
    for more in ((), ddp):
        done = capsule_lightning(study.parents[1], *words, *more)
        assert done.returncode == 0, done.stderr
        part = parts(folder / "test")[-1]
        made = {"name": None, "group": None, "job_type": None, "tags": None}  # an evaluation leaves them alone
        assert labels(part) == {"id": "tiny-DynamicRouting-seed0", "project": "capsule_lightning", **made}
        tables.append([with_bytes(row) for row in table(part, "test/samples")])
    assert tables[0] == tables[1]


def test_what_is_sent_later_is_compared_and_published(study: Path, tmp_path: Path) -> None:
    pytest.importorskip("wandb_workspaces")
    with WandbServer() as server:
        account = {"WANDB_API_KEY": "k" * 40, "WANDB_BASE_URL": server.url}

        def run(*words: str) -> str:
            environment = clean_environment(tmp_path) | account
            done = subprocess.run(
                words,
                cwd=tmp_path,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=200,
                check=False,
            )
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout

        folders = [study / f"{routing}-seed{seed}" for routing, seed in CHOICES]
        run(WANDB, "sync", *(str(part_of(folder)) for folder in folders))
        program = (sys.executable, "-m", "capsule_lightning")
        said = run(*program, "compare", "--wandb", "lab/p", "--by", "routing", "--csv", "table.csv", "--publish")
        assert server.unknown == []
        report, _ = server.views
    assert f"report:    {server.url}/lab/p/reports/" in said
    (grid,) = (block for block in report["spec"]["blocks"] if block["type"] == "panel-grid")
    for runset in grid["metadata"]["runSets"]:
        routing = runset["name"].removesuffix(" (2)")
        assert sorted(runset["filters"]["filters"][0]["value"]) == [f"tiny-{routing}-seed{seed}" for seed in (0, 1)]
    there, here = (
        {row["model.net.routing"]: row for row in csv.DictReader(path.open())}
        for path in (tmp_path / "table.csv", study / "comparison" / "comparison.csv")
    )
    assert set(there) == set(here) == set(STUDY["each"]["model.net.routing"])
    for routing, column in itertools.product(there, ("runs", "test/accuracy", "deviation", "parameters")):
        assert float(there[routing][column]) == pytest.approx(float(here[routing][column]), rel=1e-6)


def with_bytes(row: dict) -> dict:
    """A row with the bytes of its pictures in place of their files."""
    shown = {column: row[column].read_bytes() for column in ("picture", "reconstruction")}
    return {**row, **shown, "confidence": round(row["confidence"], 5)}
