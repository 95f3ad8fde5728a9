"""The program as a user starts it: what tests fork instead stands for it."""

from pathlib import Path

import pytest
from program import capsule_lightning, metrics, started

FIT = (
    *("fit", "--model.net.encoder.channels=4", "--model.net.encoder.num_types=2", "--model.net.decoder=null"),
    *("--trainer.accelerator=cpu", "--trainer.limit_train_batches=2", "--trainer.limit_test_batches=1"),
    *("--trainer.max_epochs=1", "--run_id=one"),
)


@pytest.mark.nightly
def test_a_training_that_is_started_is_that_which_is_forked(tmp_path: Path) -> None:
    runs = []
    for name, start in (("started", started), ("forked", capsule_lightning)):
        (tmp_path / name).mkdir()
        done = start(tmp_path / name, *FIT)
        assert done.returncode == 0, done.stderr[-3000:]
        folder = tmp_path / name / "runs" / "digits" / "one"
        values = {metric: list(found) for metric, found in metrics(folder).items() if "second" not in metric}
        del values["peak_memory_bytes"]
        files = {path.relative_to(folder).parts[0] for path in folder.rglob("*")}
        runs.append((values, files, done.stdout.splitlines()[-3:], "W&B:" in done.stderr + done.stdout))
    assert runs[0] == runs[1]
    assert runs[0][3]  # nobody has logged in


def test_wrong_input_is_status_2_and_one_line(tmp_path: Path) -> None:
    done = started(tmp_path, "fitt")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("capsule_lightning: error: ")
    assert "'fit'" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
