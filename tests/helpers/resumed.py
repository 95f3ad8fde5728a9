"""A run to be killed and resumed, and how it is compared with one that was not."""

import os
import signal
from pathlib import Path

import torch
from forked import run

#: Chance in the images and in the network, validations within the epochs, and a state every few steps.
NOISY = """
data: {class_path: DigitsDataModule, init_args: {augmentation: {class_path: Shift, init_args: {pixels: 1}}}}
model:
  init_args:
    net:
      class_path: noisy.NoisyCapsNet
      init_args:
        encoder:
          class_path: SabourEncoder
          init_args: {channels: 8, kernel_size: 3, num_types: 4, primary_kernel_size: 3}
        decoder: {class_path: DenseDecoder, init_args: {hidden: [32]}}
    lr_scheduler: OneCycle
trainer:
  max_epochs: 5
  log_every_n_steps: 1
  val_check_interval: 0.45
  callbacks:
    - {class_path: RunCheckpoint, init_args: {every_n_steps: 4}}
"""
FIT = ("fit", "--config", "digits", "--config", "noisy.yaml", "--run_id", "one", "--test_after_fit", "false")
FIT += ("--without", "ReconstructionFigures")  # half the processor time of such a run


def undisturbed(cwd: Path, *more: str) -> None:
    """Train the run from its beginning to its end."""
    (cwd / "noisy.yaml").write_text(NOISY)
    assert run(cwd, *FIT, *more) == 0, (cwd / "output.txt").read_text()[-3000:]


def last(cwd: Path) -> dict:
    path = cwd / "runs" / "digits" / "one" / "checkpoints" / "last.ckpt"
    return torch.load(path, weights_only=True)


def assert_same_end(killed: Path, whole: Path) -> None:
    """Weights, the optimizer's state, schedule and place in the data are equal to the last bit, and so are the logs."""
    a, b = last(killed), last(whole)
    assert a["global_step"] == b["global_step"] > 0
    for name, value in b["state_dict"].items():
        torch.testing.assert_close(a["state_dict"][name], value, rtol=0, atol=0, msg=name)
    for part in ("optimizer_states", "lr_schedulers", "loops"):
        mine, theirs = dict(leaves(a[part])), dict(leaves(b[part]))
        assert mine.keys() == theirs.keys()
        for key, value in theirs.items():
            assert torch.equal(torch.as_tensor(mine[key]), torch.as_tensor(value)), (part, *key)
    assert set(best(whole)) <= set(best(killed))  # a kill before the old best one was removed leaves that as well
    one, other = (by_step(folder / "runs" / "digits" / "one") for folder in (killed, whole))
    assert one == other


def best(cwd: Path) -> list[str]:
    """The best checkpoints, whose names state epoch and accuracy."""
    return sorted(path.name for path in (cwd / "runs" / "digits" / "one" / "checkpoints").glob("epoch*"))


def leaves(value: object, key: tuple = ()) -> list:
    """Every number of a nested state with its place."""
    if isinstance(value, dict):
        return [leaf for k, v in value.items() for leaf in leaves(v, (*key, k))]
    if isinstance(value, list | tuple):
        return [leaf for k, v in enumerate(value) for leaf in leaves(v, (*key, k))]
    return [(key, value)] if isinstance(value, int | float | torch.Tensor) else []


def by_step(folder: Path) -> dict[tuple[str, str], str]:
    """What was logged of each metric at each step but its cost; a step that was repeated has repeated its values."""
    rows: dict[tuple[str, str], str] = {}
    for line in (folder / "metrics.csv").read_text().splitlines()[1:]:
        _, step, name, value = line.split(",")
        if name.startswith(("parameters", "images_per_second", "peak_memory")):  # of each start, and of the machine
            continue
        assert rows.setdefault((step, name), value) == value, (step, name)
    return rows


def steps_logged(cwd: Path) -> int:
    path = cwd / "runs" / "digits" / "one" / "metrics.csv"
    return path.read_text().count(",train/loss,") if path.is_file() else 0


def die_while_writing(number: int, share: float) -> None:
    """Kill this process in the middle of its ``number``-th checkpoint."""
    save, calls = torch.save, []

    def save_and_die(checkpoint: object, file: object) -> None:
        save(checkpoint, file)
        calls.append(None)
        if len(calls) == number:
            file.truncate(int(share * file.tell()))
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)

    torch.save = save_and_die
