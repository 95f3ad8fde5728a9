"""Checkpoints and tables as artifacts in W&B: that they arrive, once, and from within the run's folder."""

import json
import subprocess
from pathlib import Path

import pytest
from forked import run
from program import clean_environment
from tiers import nightly_but
from wandb_log import WANDB, parts, records
from wandb_server import ReceivedArtifact, WandbServer

FIT = (
    *("fit", "--config=digits", "--model.net.encoder.channels=4", "--model.net.encoder.num_types=2"),
    *("--model.net.decoder=null", "--trainer.accelerator=cpu", "--trainer.limit_train_batches=6"),
    *("--trainer.limit_test_batches=1", "--run_id=one"),
)
KEY = {"WANDB_MODE": "online", "WANDB_API_KEY": "k" * 40}


def logging(log_model: str) -> str:
    logger = f"{{class_path: GuardedWandbLogger, init_args: {{log_model: {log_model}, init_timeout: 60}}}}"
    return f"--config={{trainer: {{logger: [{logger}, {{class_path: MetricsFile}}]}}}}"


def models(server: WandbServer) -> list[ReceivedArtifact]:
    found = [artifact for artifact in server.artifacts if artifact.fields["artifactTypeName"] == "model"]
    assert {artifact.name for artifact in found} == {"model-digits-one"}
    assert all(artifact.committed for artifact in found)
    return found


def staged(cwd: Path) -> list[Path]:
    return [path for path in cwd.rglob("staging/*") if path.is_file()]


@pytest.mark.nightly
def test_the_best_and_the_last_state_arrive_at_the_end_and_nothing_arrives_twice(tmp_path: Path) -> None:
    checkpoints = tmp_path / "runs" / "digits" / "one" / "checkpoints"
    with WandbServer() as server:
        online = {**KEY, "WANDB_BASE_URL": server.url}
        assert run(tmp_path, *FIT, logging("true"), "--trainer.max_epochs=3", env=online) == 0
        (best,) = checkpoints.glob("epoch*.ckpt")
        sent = {tuple(sorted(artifact.aliases)): artifact.files["model.ckpt"] for artifact in models(server)}
        assert sent == {("best", "latest"): best.read_bytes(), ("latest",): (checkpoints / "last.ckpt").read_bytes()}

        assert run(tmp_path, "test", f"--ckpt_path={best}", env=online) == 0
        assert len(models(server)) == 2
        assert run(tmp_path, "fit", "--resume=one", "--trainer.max_epochs=4", env=online) == 0
        contents = [artifact.files["model.ckpt"] for artifact in models(server)]
        assert contents[2:] == [
            path.read_bytes() for path in sorted_by_age(checkpoints) if path.read_bytes() not in contents[:2]
        ]
        assert (checkpoints / "last.ckpt").read_bytes() in contents[2:]
        assert server.unknown == []
        (known,) = server.runs.values()
    assert (known.fields["displayName"], known.fields["jobType"]) == ("DynamicRouting-seed0", "fit")
    assert known.fields["tags"] == ["Digits", "CapsNet", "DynamicRouting"]
    assert not any(path.suffix == ".ckpt" or path.stat().st_size > 100_000 for path in staged(tmp_path))
    assert not (tmp_path / ".local").exists()  # where W&B would keep what it stages


def sorted_by_age(checkpoints: Path) -> list[Path]:
    kept = [path for path in checkpoints.glob("*.ckpt") if path.name != "previous.ckpt"]
    return sorted(kept, key=lambda path: path.stat().st_mtime)


@pytest.mark.nightly
def test_every_state_arrives_once_as_it_is_saved(tmp_path: Path) -> None:
    with WandbServer() as server:
        online = {**KEY, "WANDB_BASE_URL": server.url}
        assert run(tmp_path, *FIT, logging("all"), "--trainer.max_epochs=3", env=online) == 0
        sent = models(server)
    names = [original_name(artifact) for artifact in sent]
    assert names.count("last.ckpt") == 3
    assert 1 <= len(names) - 3 <= 3
    assert len({artifact.files["model.ckpt"] for artifact in sent}) == len(sent)


def original_name(artifact: ReceivedArtifact) -> str:
    return str(json.loads(artifact.fields["metadata"])["original_filename"])


@pytest.mark.long(8)
@pytest.mark.parametrize("log_model", nightly_but(["true"], ["true", "all"]))
def test_what_is_logged_offline_lies_in_the_runs_folder_and_can_be_sent_later(log_model: str, tmp_path: Path) -> None:
    offline = {"WANDB_MODE": "offline"}
    assert run(tmp_path, *FIT, logging(log_model), "--trainer.max_epochs=2", env=offline) == 0
    (part,) = parts(tmp_path / "runs" / "digits" / "one")
    recorded = records(part, "artifact")
    entries = [entry for artifact in recorded for entry in artifact["manifest"]["contents"]]
    assert all(Path(entry["local_path"]).is_relative_to(part) for entry in entries)
    assert sum(artifact["type"] == "model" for artifact in recorded) in ((2,) if log_model == "true" else (3, 4))
    assert not (tmp_path / ".local").exists()
    with WandbServer() as server:
        online = {**clean_environment(tmp_path), **KEY, "WANDB_BASE_URL": server.url}
        done = subprocess.run(
            [WANDB, "sync", str(part)], env=online, capture_output=True, text=True, timeout=100, check=False
        )
        assert done.returncode == 0, done.stderr
        last = (tmp_path / "runs" / "digits" / "one" / "checkpoints" / "last.ckpt").read_bytes()
        assert last in [artifact.files["model.ckpt"] for artifact in models(server)]
        (table,) = (artifact for artifact in server.artifacts if artifact.fields["artifactTypeName"] == "run_table")
        assert sum(name.endswith(".png") for name in table.files) == 64
