"""What a run prints while it trains: on a real terminal, and into a file."""

import io
import re
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from program import TINY, capsule_lightning
from rich.console import Console
from terminal import CTRL_C, Terminal

from capsule_lightning.callbacks import progress as module
from capsule_lightning.callbacks.progress import RunProgress, epoch_of, in_short
from capsule_lightning.errors import InputError

SMALL = (
    *TINY,
    "--trainer.logger=[{class_path: MetricsFile}]",
    "--run_id=one",
)
ROW = re.compile(r"^(\d+/\d+) +([\d.]+) +([\d.]+)% +([\d.]+) +([\d.]+)% +([\d.]+) +(\d:\d\d:\d\d|-)$", re.MULTILINE)
BAR = re.compile(r"^epoch \d+/\d+ .* \d+/20 loss [\d.]+ accuracy [\d.]+% .*\d:\d\d:\d\d left$", re.MULTILINE)


@pytest.mark.long(20)
def test_ctrl_c_leaves_its_two_sentences_and_a_command_on_the_terminal(tmp_path):
    terminal = Terminal(tmp_path, "fit", *SMALL, "--trainer.max_epochs=1000")
    terminal.wait_until(lambda text: len(ROW.findall(text)) > 1 and BAR.search(text))
    terminal.press(CTRL_C)
    assert terminal.end() == 130
    text = terminal.text
    assert "\nstopping after this step, with a checkpoint; Ctrl-C again stops at once\n" in text
    *_, told, command = text.splitlines()
    assert re.fullmatch(r"SIGINT: stopped after \d+ steps; the state is saved\. Resume with:", told)
    assert command == "  python -m capsule_lightning fit --resume runs/digits/one"
    assert len(ROW.findall(text)) > 1  # the lines of the epochs are still there

    steps = int(re.search(r"after (\d+) steps", told)[1])
    _, _, *words = command.split()
    resumed = capsule_lightning(tmp_path, *words[1:], f"--trainer.max_epochs={steps // 20 + 1}")
    assert resumed.returncode == 0, resumed.stderr
    assert f"{steps // 20 + 1}/{steps // 20 + 1} " in resumed.stdout


@pytest.mark.nightly
def test_a_terminal_keeps_a_line_for_each_epoch_and_no_bar(tmp_path):
    terminal = Terminal(tmp_path, "fit", *SMALL, "--trainer.max_epochs=3", "--test_after_fit=false")
    assert terminal.end() == 0
    assert [row[0] for row in ROW.findall(terminal.text)] == ["1/3", "2/3", "3/3"]
    assert "━" not in terminal.text
    assert "v_num" not in terminal.text
    assert max(map(len, terminal.lines)) <= 80


def test_a_file_gets_one_line_for_each_epoch_with_what_was_logged(run_main, capsys):
    folder = run_main("fit", *SMALL, "--trainer.max_epochs=2", "--test_after_fit=false") / "runs/digits/one"
    output = capsys.readouterr().out
    assert output.count("epoch ") == 1  # the heading
    first, second = ROW.findall(output)
    assert (first[0], second[0], second[-1]) == ("1/2", "2/2", "0:00:00")
    assert "\x1b" not in output
    logged = {}
    for line in (folder / "metrics.csv").read_text().splitlines()[1:]:
        _, step, metric, value = line.split(",")
        logged[metric, int(step)] = float(value)
    assert float(second[3]) == pytest.approx(logged["val/loss", 39], abs=1e-4)
    assert float(second[4]) == pytest.approx(100 * logged["val/accuracy", 39], abs=0.06)


def trainer(step=0, epoch=0, metrics=(), max_epochs=2, steps=8):
    """As much of a trainer as the lines look at."""
    return SimpleNamespace(
        global_step=step,
        current_epoch=epoch,
        max_epochs=max_epochs,
        max_steps=-1,
        estimated_stepping_batches=steps,
        num_training_batches=4,
        progress_bar_metrics=dict(metrics),
        callback_metrics=dict(metrics),
        is_global_zero=True,
    )


def test_the_metrics_of_training_are_means_of_one_epoch(capsys, monkeypatch):
    now = 0.0
    monkeypatch.setattr("capsule_lightning.callbacks.progress.time", SimpleNamespace(perf_counter=lambda: now))
    progress = RunProgress()
    progress.setup(trainer(), None, "fit")
    progress.on_train_start(trainer(), None)
    for epoch in range(2):
        progress.on_train_epoch_start(trainer(epoch=epoch), None)
        for batch in range(4):
            now += 2.0
            state = trainer(4 * epoch + batch + 1, epoch, {"train/loss": float(batch + epoch)})
            progress.on_train_batch_end(state, None, None, None, batch)
        progress.on_train_epoch_end(state, None)
    heading, *rows = capsys.readouterr().out.splitlines()
    assert heading.split() == ["epoch", "train", "loss", "seconds", "left"]
    assert [row.split() for row in rows] == [["1/2", "1.5000", "8.0", "0:00:08"], ["2/2", "2.5000", "8.0", "0:00:00"]]


@pytest.mark.parametrize(
    ("steps", "done", "left"),
    [(8, 2, timedelta(seconds=6)), (8, 0, None), (float("inf"), 2, None), (2, 2, timedelta(0))],
)
def test_the_time_left_is_that_of_the_other_steps(steps, done, left, monkeypatch):
    now = 0.0
    monkeypatch.setattr("capsule_lightning.callbacks.progress.time", SimpleNamespace(perf_counter=lambda: now))
    progress = RunProgress()
    progress.on_train_start(trainer(), None)
    now = 2.0
    assert progress._time_left(trainer(done, steps=steps)) == left


def test_a_bar_is_drawn_no_more_often_than_its_rate_and_when_it_is_full(monkeypatch):
    now, drawn = 0.0, []
    console = Console(file=io.StringIO(), force_terminal=True, width=100, _environ={"TERM": "xterm"})
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: now))
    monkeypatch.setattr(module, "get_console", lambda: console)
    monkeypatch.setattr(module.Progress, "update", lambda self, task, **shown: drawn.append(shown["completed"]))
    progress = RunProgress(refresh_rate=2)
    state = SimpleNamespace(num_test_batches=[9], is_global_zero=True)
    for batch in range(9):
        progress.on_test_batch_end(state, None, None, None, batch)
        now += 0.2
    progress.teardown(state, None, "test")
    assert drawn == [1, 4, 7, 9]  # after 0, 0.6 and 1.2 seconds, and the last


def test_a_disabled_bar_says_nothing(capsys):
    progress = RunProgress()
    progress.setup(trainer(), None, "fit")
    progress.disable()
    state = trainer(1, metrics={"train/loss": 1.0})
    progress.on_train_start(state, None)
    progress.on_train_batch_end(state, None, None, None, 0)
    progress.on_train_epoch_end(state, None)
    assert capsys.readouterr().out == ""


def test_epochs_are_counted_from_one_and_an_endless_run_names_no_last():
    assert epoch_of(trainer(epoch=2, max_epochs=10)) == "3/10"
    assert epoch_of(trainer(epoch=2, max_epochs=-1)) == "3"


def test_the_words_of_the_bar():
    assert in_short({"val/overlap": 0.5}) == "val overlap 0.5000"


def test_a_rate_of_zero_is_refused():
    with pytest.raises(InputError, match="refresh_rate=0"):
        RunProgress(0)


def test_the_callbacks_of_older_configs_still_work(run_main, capsys):
    callbacks = "[{class_path: RunCheckpoint}, {class_path: RichProgressBar}, {class_path: RichModelSummary}]"
    run_main("fit", *SMALL, "--trainer.max_epochs=1", f"--trainer.callbacks={callbacks}")
    output = capsys.readouterr().out
    assert "Total params" in output
    assert Path("runs/digits/one/checkpoints/last.ckpt").is_file()
