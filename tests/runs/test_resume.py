"""Nothing is lost: a run that is killed and resumed ends as the one that was not."""

import functools
import random
import signal
from pathlib import Path

import pytest
from forked import run, start, wait_for
from program import metrics
from resumed import FIT, NOISY, assert_same_end, die_while_writing, steps_logged, undisturbed

each_kind = pytest.mark.parametrize(
    ("more", "most"),  # most steps between two kills
    [
        (("--trainer.precision", "32-true"), 12),
        (("--trainer.precision", "bf16-mixed", "--trainer.accumulate_grad_batches", "2"), 5),
    ],
    ids=["float32", "bfloat16, gradients accumulated"],
)


@pytest.fixture
def cwd(tmp_path: Path) -> Path:
    (tmp_path / "noisy.yaml").write_text(NOISY)
    return tmp_path


@pytest.mark.long(20)
@pytest.mark.parametrize(
    ("more", "most"), [(("--trainer.precision", "bf16-mixed", "--trainer.accumulate_grad_batches", "2"), 5)]
)
def test_killed_between_steps_and_in_the_middle_of_writing(
    more: tuple[str, ...], most: int, cwd: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    kill_and_resume(2, (*more, "--trainer.max_epochs", "2"), most, cwd, tmp_path_factory.mktemp("whole"))


@pytest.mark.nightly
@each_kind
def test_killed_ten_times(
    more: tuple[str, ...], most: int, cwd: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    kill_and_resume(10, more, most, cwd, tmp_path_factory.mktemp("whole"))


def kill_and_resume(kills: int, more: tuple[str, ...], most: int, cwd: Path, whole: Path) -> None:
    """Every second time in the middle of writing a checkpoint, else after some steps."""
    words = (*FIT, *more)
    undisturbed(whole, *more)
    moments = random.Random(more[1])
    for kill in range(kills):
        resume = ("--resume",) if kill else ()
        if kill % 2:
            first = functools.partial(die_while_writing, moments.randint(2, 3), moments.random())
            process = start(cwd, *words, *resume, first=first)
        else:
            process = start(cwd, *words, *resume)
            enough = steps_logged(cwd) + moments.randint(1, most)
            wait_for(lambda enough=enough: steps_logged(cwd) >= enough, process)
            process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, (cwd / "output.txt").read_text()[-3000:]
    assert run(cwd, *words, "--resume") == 0, (cwd / "output.txt").read_text()[-3000:]
    assert "going on from" in (cwd / "output.txt").read_text()
    assert_same_end(cwd, whole)
    assert not list((cwd / "runs" / "digits" / "one" / "checkpoints").glob(".*"))
    assert metrics(cwd / "runs" / "digits" / "one")["val/accuracy"]
