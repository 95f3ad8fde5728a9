"""Kill runs at random moments, resume each to its end, and compare it with the run that nobody disturbed.

    python benchmarks/kills.py --count 100

Eight kinds of run take turns: one process; two by ddp; two by torchrun; accumulated gradients; several checkpoints
kept; validation after every few steps; an average of the weights (EMA); a study. Each is killed by SIGKILL after a
share of the time that it takes, drawn anew for each kill. Afterwards there must be the same weights, optimizer state
and rows of ``metrics.csv``, to the last bit; no partial file; and no process.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers")]

import forked  # noqa: E402
import torch  # noqa: E402
from environment import clean_environment  # noqa: E402
from fork_server import Forked  # noqa: E402
from resumed import NOISY, by_step, leaves  # noqa: E402

FIT = (
    "fit --config digits --config noisy.yaml --run_id one --trainer.accelerator cpu --trainer.max_epochs 3 "
    "--without ReconstructionFigures"  # half of the time of such a run
)
CHECKPOINTS = "--trainer.callbacks+=RunCheckpoint --trainer.callbacks.every_n_steps=4"
DDP = "--trainer.strategy=ddp --trainer.devices=2"
STUDY = """
experiment: kills
fit: --config digits --config noisy.yaml --trainer.accelerator cpu --trainer.max_epochs 2
each: {model.optimizer.lr: [0.001, 0.003]}
seeds: [0]
jobs: 1
"""
PATIENCE = 15.0
"""Seconds that processes have to notice that another one is gone."""
LIMIT = 600.0


class Kind(NamedTuple):
    """A kind of run.

    Attributes:
        words: of the command line.
        again: words that resume it.
        launcher: words before those of the program.
    """

    words: str
    again: str = "--resume"
    launcher: str = ""


KINDS = {
    "one process": Kind(FIT),
    "two by ddp": Kind(f"{FIT} {DDP}"),
    "two by torchrun": Kind(f"{FIT} {DDP}", launcher="-m torch.distributed.run --standalone --nproc_per_node=2"),
    "accumulated gradients": Kind(f"{FIT} --trainer.accumulate_grad_batches 2"),
    "several checkpoints": Kind(f"{FIT} {CHECKPOINTS} --trainer.callbacks.save_top_k=3"),
    "validation by steps": Kind(f"{FIT} --trainer.val_check_interval 3"),
    "average of weights": Kind(f"{FIT} --trainer.callbacks+=EMAWeightAveraging"),
    "study": Kind("compare --config study.yaml", again=""),
}


Started = subprocess.Popen[bytes] | Forked


def start(cwd: Path, kind: Kind, more: str, mark: str) -> Started:
    """Start the program, its output in a file: by its launcher, or else forked from a process that has imported it."""
    if not kind.launcher:
        variables = {"KILLS_MARK": mark}
        return forked.start(cwd, *kind.words.split(), *more.split(), env=variables, first=os.setsid)
    environment = {
        **clean_environment(cwd),
        "WANDB_MODE": "disabled",
        "KILLS_MARK": mark,
        "PYTHONPATH": os.pathsep.join(sys.path[:2]),
    }
    with (cwd / "output.txt").open("ab") as output:
        return subprocess.Popen(
            [sys.executable, *kind.launcher.split(), "-m", "capsule_lightning", *kind.words.split(), *more.split()],
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def prepared(cwd: Path) -> Path:
    """Return a folder with the configs of all kinds."""
    cwd.mkdir(parents=True)
    (cwd / "noisy.yaml").write_text(NOISY)
    (cwd / "study.yaml").write_text(STUDY)
    return cwd


def status_after(process: Started, seconds: float) -> int | None:
    """Wait some seconds for the end of a process, and return its status; None if it has not ended."""
    if isinstance(process, Forked):
        process.join(seconds)
        return process.exitcode
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None


def processes_of(mark: str, leader: int) -> list[int]:
    """Return the processes that were started with a mark in their environment, or are of a leader's session."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if not entry.name.isdigit():
                continue
            state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            marked = f"KILLS_MARK={mark}".encode() in (entry / "environ").read_bytes()
            if state != "Z" and (marked or int(session) == leader):
                found.append(int(entry.name))
        except OSError:  # it has ended meanwhile, or is another user's
            continue
    return found


def left_after(seconds: float, mark: str, leader: int) -> list[int]:
    """Return the processes that are still there after some seconds, or earlier none."""
    end = time.monotonic() + seconds
    while (found := processes_of(mark, leader)) and time.monotonic() < end:
        time.sleep(0.5)
    return found


def differences(killed: Path, whole: Path) -> list[str]:
    """Return in what a resumed folder differs from the one that nobody disturbed."""
    found = [f"partial file {path.relative_to(killed)}" for path in killed.rglob("*.partial")]
    for record in sorted(whole.glob("runs/*/*/config.yaml")):
        run = record.parent.relative_to(whole)
        if not (killed / run / "checkpoints" / "last.ckpt").is_file():
            found.append(f"{run} has no last state")
            continue
        mine, theirs = (
            torch.load(each / run / "checkpoints" / "last.ckpt", weights_only=True) for each in (killed, whole)
        )
        kept = ("state_dict", "optimizer_states", "lr_schedulers", "loops", "current_model_state", "averaging_state")
        values = [{key: value for key, value in leaves(state) if key[0] in kept} for state in (mine, theirs)]
        found += [
            f"{run}: {key}" for key in values[0].keys() | values[1].keys() if not same(*(v.get(key) for v in values))
        ]
        rows = [by_step(each / run) for each in (killed, whole)]
        found += [
            f"{run}: row {key}" for key in rows[0].keys() | rows[1].keys() if rows[0].get(key) != rows[1].get(key)
        ]
    return found


def same(one: object, other: object) -> bool:
    """Return whether two values of a state are equal to the last bit."""
    return one is not None and other is not None and torch.equal(torch.as_tensor(one), torch.as_tensor(other))


def killed_once(name: str, seconds: float, whole: Path, folder: Path) -> list[str]:
    """Kill a run after some seconds, resume it, and return what is wrong afterwards."""
    kind, mark = KINDS[name], uuid.uuid4().hex
    cwd = prepared(folder)
    process = start(cwd, kind, "", mark)
    assert process.pid is not None
    status = status_after(process, seconds)
    if status is None:
        os.kill(process.pid, signal.SIGKILL)
        status = status_after(process, LIMIT)
    left = left_after(PATIENCE, mark, process.pid)
    for number in left:
        os.kill(number, signal.SIGKILL)
    wrong = [f"{len(left)} processes were left behind"] if left else []
    is_done = status == 0
    has_begun = name == "study" or (cwd / "runs/digits/one/config.yaml").is_file()
    if not is_done:
        status = status_after(start(cwd, kind, kind.again if has_begun else "", mark), LIMIT)
    if status and "no more are asked for" in (cwd / "output.txt").read_text():
        status = 0  # it was killed when all was done; torchrun has a status of its own
    wrong += [f"status {status} after the resume"] if status != 0 else []
    return wrong + differences(cwd, whole)


def main() -> None:
    """Kill, resume and compare, and print a line for each kill; status 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=100, help="number of kills")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    parser.add_argument("--kind", choices=KINDS, action="append", help="a kind of run; may be repeated (default: all)")
    options = parser.parse_args()
    moments, names, failed = random.Random(options.seed), options.kind or list(KINDS), 0
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        whole: dict[str, tuple[Path, float]] = {}
        forked.call(Path(folder), time.time)  # what is forked from imports the package before anything is timed
        for number in range(options.count):
            name = names[number % len(names)]
            if name not in whole:
                cwd, begun = prepared(Path(folder, "whole", name)), time.monotonic()
                status = status_after(start(cwd, KINDS[name], "", uuid.uuid4().hex), LIMIT)
                assert status == 0, (cwd / "output.txt").read_text()[-2000:]
                whole[name] = cwd, time.monotonic() - begun
            cwd, took = whole[name]
            moment = moments.uniform(0.05, 0.95) * took
            wrong = killed_once(name, moment, cwd, Path(folder, str(number)))
            failed += bool(wrong)
            said = "; ".join(wrong[:4]) or "as if nothing had happened"
            print(f"{number + 1:>4}  {name:<22} killed after {moment:5.1f} of {took:5.1f} s: {said}", flush=True)
    print(f"{options.count - failed} of {options.count} as if nothing had happened")
    raise SystemExit(int(failed > 0))


if __name__ == "__main__":
    main()
