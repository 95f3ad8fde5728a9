"""The last state and the one before it: a torn file never takes the place of a good one."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from capsule_lightning.callbacks.checkpoint import RunCheckpoint
from capsule_lightning.runs.checkpoint_files import AtomicCheckpoints, require_checkpoint


def state(step: int) -> dict:
    return {
        "global_step": step,
        "state_dict": {"weight": torch.full((5,), float(step))},
        "optimizer_states": [],
        "loops": {},
    }


def steps_of(folder: Path) -> dict[str, int]:
    return {path.name: require_checkpoint(path)["global_step"] for path in folder.glob("*.ckpt")}


@pytest.mark.parametrize("torn", [False, True])
def test_a_resumed_run_keeps_the_state_before_if_it_can_be_read(torn: bool, tmp_path: Path) -> None:
    files = AtomicCheckpoints()
    files.save_checkpoint(state(10), tmp_path / "previous.ckpt")
    files.save_checkpoint(state(20), tmp_path / "last.ckpt")
    if torn:
        content = (tmp_path / "last.ckpt").read_bytes()
        (tmp_path / "last.ckpt").write_bytes(content[: len(content) // 2])
    trainer = SimpleNamespace(is_global_zero=True, loggers=[])
    checkpoint = RunCheckpoint(dirpath=str(tmp_path))
    for step in (30, 40):
        trainer.save_checkpoint = lambda path, weights_only, step=step: files.save_checkpoint(state(step), path)
        checkpoint.save_last_state(trainer)
        if step == 30:
            assert steps_of(tmp_path) == {"last.ckpt": 30, "previous.ckpt": 10 if torn else 20}
    assert steps_of(tmp_path) == {"last.ckpt": 40, "previous.ckpt": 30}
