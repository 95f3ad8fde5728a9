"""Studies: what their files say, and that they come to their end however often they are cut."""

import csv
import fcntl
import multiprocessing
import os
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from forked import start
from PIL import Image
from program import capsule_lightning, metrics
from safetensors.torch import save_file

from capsule_lightning.cli import main
from capsule_lightning.cli.check import check
from capsule_lightning.cli.configs import resolve
from capsule_lightning.comparison import new_console
from capsule_lightning.comparison import study_processes as module
from capsule_lightning.comparison.study import read_study
from capsule_lightning.comparison.study_processes import is_finished, last_line, run_study, run_trial
from capsule_lightning.components.build import build
from capsule_lightning.components.names import class_names
from capsule_lightning.errors import InputError
from capsule_lightning.runs.folders import lock_run, unlock_run
from capsule_lightning.shipped import CONFIG_DIR, find_config

FIT = (
    "--config digits.yaml --model.net.encoder.channels 4 --model.net.encoder.num_types 2 --model.net.decoder null "
    "--trainer.accelerator cpu --trainer.limit_train_batches 6 --trainer.limit_test_batches 2 "
    "--trainer.logger MetricsFile --without ConfusionFigure --trainer.max_epochs {epochs}"
)
NAMES = ["UniformRouting-seed0", "ConstantRouting-seed0", "UniformRouting-seed1", "ConstantRouting-seed1"]


def write(cwd: Path, epochs: int = 1, **fields: object) -> Path:
    """A study of two routings and two seeds, but for what is said otherwise."""
    made = {
        "experiment": "tiny",
        "fit": FIT.format(epochs=epochs),
        "each": {"model.net.routing": ["UniformRouting", "ConstantRouting"]},
        "seeds": [0, 1],
        **fields,
    }
    path = cwd / "study.yaml"
    path.write_text(yaml.safe_dump(made, sort_keys=False))
    return path


@pytest.fixture
def cwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def wait_for(what: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "this never happens"
        time.sleep(0.005)


def is_held(folder: Path) -> bool:
    with (folder / ".held").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def validations(folder: Path) -> int:
    path = folder / "metrics.csv"
    return path.read_text().count(",val/accuracy,") if path.is_file() else 0


def killed(cwd: Path, due: Callable[[], bool]) -> None:
    """Start the study in a process of its own, which is killed when it is due."""
    study = start(cwd, "compare", "--config", "study.yaml")
    wait_for(lambda: due() or not study.is_alive())
    study.kill()
    study.join()


def interrupted(cwd: Path, due: Callable[[], bool]) -> None:
    """Run the study in this process, which is interrupted when it is due."""
    thread = threading.Thread(target=lambda: (wait_for(due), os.kill(os.getpid(), signal.SIGINT)))
    thread.start()
    with pytest.raises(SystemExit):
        main(["compare", "--config", "study.yaml"])
    thread.join()


@pytest.mark.parametrize(
    "cut",
    [
        pytest.param(interrupted, marks=pytest.mark.long(12)),
        pytest.param(killed, marks=pytest.mark.nightly),  # it imports torch for a server of its own
    ],
)
def test_cut_in_mid_run_and_started_again(
    cut: Callable[..., None], cwd: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(cwd, epochs=8)  # the later ones leave time for the signal to come before the end
    folders = [cwd / "runs" / "tiny" / name for name in NAMES]
    cut(cwd, lambda: validations(folders[1]) >= 2)
    assert is_finished(folders[0])
    assert not is_finished(folders[1])
    wait_for(lambda: not is_held(folders[1]), seconds=5)  # the run has gone with the study
    capsys.readouterr()
    left = (folders[1] / "metrics.csv").read_text()
    before = (folders[0] / "metrics.csv").read_text()

    main(["compare", "--config", "study.yaml"])
    output = capsys.readouterr().out
    assert "4 runs in runs/tiny, 1 of them done" in output
    assert re.findall(r"^\[(\d)/4\] (\S+): test/accuracy \d", output, re.M) == list(zip("234", NAMES[1:], strict=True))
    assert (folders[0] / "metrics.csv").read_text() == before
    assert (folders[1] / "metrics.csv").read_text().startswith(left)
    assert "going on from" in (folders[1] / "output.txt").read_text()
    assert validations(folders[1]) <= 10  # eight epochs, of which at most the last two are repeated

    with (cwd / "runs" / "tiny" / "comparison" / "comparison.csv").open() as file:
        rows = {row["model.net.routing"]: row for row in csv.DictReader(file)}
    for n, routing in enumerate(("UniformRouting", "ConstantRouting")):
        scores = [metrics(folder)["test/accuracy"][-1] for folder in folders[n::2]]
        assert float(rows[routing]["test/accuracy"]) == pytest.approx(statistics.fmean(scores), abs=1e-9)
        assert float(rows[routing]["deviation"]) == pytest.approx(statistics.stdev(scores), abs=1e-9)
        assert float(rows[routing]["parameters"]) == metrics(folders[n])["parameters"][0]
        mean = f"{100 * statistics.fmean(scores):.2f} ± {100 * statistics.stdev(scores):.2f} %"
        assert re.search(rf"^{routing} +2 +{re.escape(mean)}", output, re.M)
    assert (cwd / "runs" / "tiny" / "comparison" / "learning_curves.png").is_file()


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for a signal")
def test_the_server_of_a_study_ends_with_it_also_while_it_imports(tmp_path: Path) -> None:
    (tmp_path / "slow_module.py").write_text("import time; open('importing', 'w').close(); time.sleep(60)\n")
    study = """if True:
        import os, time
        from multiprocessing import forkserver
        forkserver.set_forkserver_preload(["capsule_lightning.comparison.study_server", "slow_module"])
        forkserver.ensure_running()
        while not os.path.exists("importing"):
            time.sleep(0.01)
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), *sys.path))}
    subprocess.run([sys.executable, "-c", study], cwd=tmp_path, env=environment, check=True, timeout=60)
    wait_for(lambda: not any(Path(link).resolve() == tmp_path for link in Path("/proc").glob("[0-9]*/cwd")), seconds=20)


def test_the_terminal_does_not_interrupt_the_runs_of_a_study_itself(cwd: Path) -> None:
    words = ["sh", "-c", "echo begun; sleep 60"]
    run = multiprocessing.get_context("forkserver").Process(
        target=run_trial, args=(subprocess.run, words, "output.txt", 1, None)
    )
    run.start()
    try:
        wait_for(lambda: (cwd / "output.txt").is_file() and "begun" in (cwd / "output.txt").read_text(), seconds=60)
        assert os.getpgid(run.pid) == run.pid != os.getpgrp()  # a group of its own gets no signal of the terminal
    finally:
        os.killpg(run.pid, signal.SIGKILL)
        run.join()


@pytest.mark.long(10)
def test_a_signal_is_passed_on_and_the_runs_save(cwd: Path, capsys: pytest.CaptureFixture[str]) -> None:
    read = read_study(str(write(cwd, epochs=400, jobs=2)))
    folders = [cwd / "runs" / "tiny" / name for name in NAMES]

    def interrupt() -> None:
        wait_for(lambda: all(validations(folder) for folder in folders[:2]))
        times.append(time.time())
        os.kill(os.getpid(), signal.SIGINT)

    before, times = signal.getsignal(signal.SIGINT), []
    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(SystemExit) as stopped:
        run_study(read, Path("runs"), new_console(), main, check)
    thread.join()
    assert stopped.value.code == 130
    assert signal.getsignal(signal.SIGINT) is before
    said = capsys.readouterr().out
    assert "stopped with 4 of 4 runs to do; resume with: python -m capsule_lightning compare runs --config" in said
    assert "failed" not in said
    for folder in folders[:2]:
        output = (folder / "output.txt").read_text()
        assert output.count("Ctrl-C again stops at once") == 1  # it has come once
        assert "Traceback" not in output
        assert (folder / "checkpoints" / "last.ckpt").stat().st_mtime > times[0] - 0.1  # the clock of files is coarse
    assert not folders[2].exists()


def test_a_run_that_fails_is_named_and_the_others_go_on(cwd: Path, capsys: pytest.CaptureFixture[str]) -> None:
    each = {"model.net.routing.iterations": [1, 0]}
    path = write(cwd, each=each, seeds=[3])
    with pytest.raises(SystemExit) as stopped:
        main(["compare", "kept", "--config", str(path), "--csv", "table.csv"])
    assert stopped.value.code == 1
    said = capsys.readouterr().out
    assert re.search(r"failed: iterations0-seed3 \(status 2\): .*error: .*iterations=0: expected at least 1", said)
    assert re.search(r"\n1 +1 +\d", said)
    folder = cwd / "kept" / "tiny" / "iterations1-seed3"
    command = (folder / "command.txt").read_text().strip()
    assert command.endswith("--seed_everything 3 --experiment tiny --run_id iterations1-seed3")
    assert yaml.safe_load((folder / "config.yaml").read_text())["seed_everything"] == 3

    write(cwd, each=each, seeds=[3], fit=FIT.format(epochs=2))
    with pytest.raises(InputError, match=r"iterations1-seed3: was made by .*max_epochs 1 .*max_epochs 2 .*another"):
        run_study(read_study(str(path)), Path("kept"), new_console(), main, check)


@pytest.mark.parametrize(
    ("each", "expected"),
    [
        ({"model.net.routing": ["UniformRouting", "UnformRouting"]}, "did you mean 'UniformRouting'"),
        ({"a": ["2025-02-03"]}, "no option 'a'"),
        ({"model.optimizer.lr": [0.1, "fast"]}, "got fast, expected a number"),
        ({"trainer.max_epochs": [1, 1.5]}, "trainer.max_epochs: got 1.5"),
    ],
)
def test_a_choice_that_would_be_refused_is_refused_before_the_first_run(
    each: dict[str, list[object]], expected: str, cwd: Path
) -> None:
    before = write(cwd, each=each)
    with pytest.raises(InputError) as refused:
        run_study(read_study(str(before)), Path("runs"), new_console(), main, check)
    assert expected in str(refused.value)
    assert str(before) in str(refused.value)
    assert [path.name for path in cwd.iterdir()] == ["study.yaml"]


def test_two_studies_do_not_share_a_folder(cwd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    read = read_study(str(write(cwd)))
    lock_run(cwd / "runs" / "tiny")
    try:
        with pytest.raises(InputError, match=r"another study is running: .*tiny is being trained in by process"):
            run_study(read, cwd / "runs", new_console(), main, check)
    finally:
        unlock_run()


@pytest.mark.nightly
def test_where_no_run_comes_to_its_end_there_is_no_table(cwd: Path, capsys: pytest.CaptureFixture[str]) -> None:
    untested = FIT.format(epochs=1) + " --test_after_fit false"
    path = write(cwd, each={"model.net.routing": ["UniformRouting"]}, seeds=[0], fit=untested)
    with pytest.raises(SystemExit) as stopped:
        main(["compare", "--config", str(path)])
    assert stopped.value.code == 1
    assert "failed: UniformRouting-seed0 (status 0): it was not tested; " in capsys.readouterr().out
    (cwd / "file").touch()
    with pytest.raises(InputError, match="file/tiny: cannot be written"):
        run_study(read_study(str(path)), Path("file"), new_console(), main, check)


# The file.


def test_runs_are_every_choice_with_every_seed_seed_after_seed(cwd: Path) -> None:
    each = {
        "model.net.routing": ["EMRouting", "capsule_lightning.routing.uniform.UniformRouting"],
        "model.optimizer.lr": [0.001, 0.01],
        "config": ["loss/spread.yaml", ["loss/paper.yaml", "schedule/paper.yaml"]],
        "model.net.decoder": [None],
    }
    trials = read_study(str(write(cwd, each=each, seeds=[7, 1]))).trials()
    assert len(trials) == 2 * 2 * 2 * 2
    assert trials[0].run_id == "EMRouting-lr0.001-spread-decodernull-seed7"
    assert trials[7].run_id == "UniformRouting-lr0.01-paper+paper-decodernull-seed7"
    assert trials[8].run_id == "EMRouting-lr0.001-spread-decodernull-seed1"
    choice = (
        "--model.net.routing EMRouting --model.optimizer.lr 0.001 --config loss/spread.yaml --model.net.decoder null"
    )
    own = "--seed_everything 7 --experiment tiny --run_id EMRouting-lr0.001-spread-decodernull-seed7"
    assert trials[0].command == f"python -m capsule_lightning fit {FIT.format(epochs=1)} {choice} {own}"


def test_without_data_a_study_is_of_the_digits_as_fit_is(cwd: Path) -> None:
    words = read_study(str(write(cwd, fit="--trainer.max_epochs 1"))).trials()[0].words
    assert words[:5] == ["fit", "--config", "digits.yaml", "--trainer.max_epochs", "1"]


def test_devices_set_the_number_of_jobs(cwd: Path) -> None:
    assert (read_study(str(write(cwd, devices=[0, 3]))).jobs, read_study(str(write(cwd))).jobs) == (2, 1)
    read = read_study(str(write(cwd, devices=[0, 3], jobs=4)))
    assert (read.jobs, read.devices) == (4, ["0", "3"])


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"ech": {}}, "no field 'ech'; did you mean 'each'"),
        ({"each": {}}, "each: {}: expected options and lists"),
        ({"each": {"model.net.routing": "EMRouting"}}, "each: model.net.routing: 'EMRouting': expected a list"),
        ({"each": {"model.net.routing": [{"class_path": "A"}]}}, "expected a list of values"),
        ({"each": {"model.net.dim": [8, 8]}}, "two runs would be called dim8-seed0"),
        ({"each": {"config": ["routing/emm.yaml"]}}, "no config 'routing/emm.yaml'.*did you mean 'routing/em.yaml'"),
        ({"each": {"seed_everything": [1]}}, "--seed_everything: the study sets this option itself"),
        ({"fit": "--run_id=x"}, "--run_id=x: the study sets this option itself"),
        ({"fit": ["--config"]}, "fit: .*expected words of the command line"),
        ({"fit": "--config 'a"}, "fit: .*No closing quotation"),
        ({"seeds": 5}, r"seeds: 5: expected a list of whole numbers"),
        ({"seeds": [0, -1]}, "seeds: .*expected a list of whole numbers"),
        ({"each": {1: [2]}}, "each: 1: expected an option"),
        ({"seeds": [0, 0]}, "two runs would be called"),
        ({"jobs": 0}, "jobs: 0: expected 1 to "),
        ({"jobs": 100_000_000_000}, "jobs: 100000000000: expected 1 to "),
        ({"jobs": 1.5}, "jobs: 1.5: expected 1 to "),
        ({"seeds": list(range(6000))}, "asks for 12,000 runs, expected at most 10,000"),
        ({"devices": 2}, "devices: 2: expected a list"),
        ({"experiment": "a/b"}, "experiment='a/b': expected the name of one folder"),
    ],
)
def test_a_wrong_file_is_one_line_and_status_2(
    fields: dict, said: str, cwd: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(cwd, **fields)
    with pytest.raises(SystemExit) as stopped:
        main(["compare", "--config", "study.yaml"])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert re.search(said, error), error
    assert error.count("\n") == 1
    assert not (cwd / "runs").exists()


@pytest.mark.parametrize("text", ["a: [", "- 1", ""])
def test_what_is_no_study_is_refused(text: str, cwd: Path) -> None:
    (cwd / "study.yaml").write_text(text)
    with pytest.raises(InputError, match=r"study\.yaml.*(fix that line|expected the fields of a study)"):
        read_study("study.yaml")
    with pytest.raises(InputError, match=r"no config 'other\.yaml'"):
        read_study("other.yaml")


def test_the_last_line_is_the_last_with_anything_in_it(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("first\n  last  \n\n \n")
    (tmp_path / "b").write_text("\n")
    assert [last_line(tmp_path / name) for name in "abc"] == ["last", "it said nothing", "it said nothing"]


def test_the_shipped_study_of_routings_is_whole_and_one_of_its_runs_trains(run_main: Callable[..., Path]) -> None:
    read = read_study("studies/digits_routings.yaml")
    assert find_config("studies/digits_routings") == read.path
    assert len(read.seeds) >= 5
    routings = read.each["model.net.routing"]
    assert len(routings) >= 5
    assert set(routings) <= set(class_names("--model.net.routing"))
    few = ("--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.limit_val_batches=1")
    cwd = run_main(*read.trials()[-1].words, *few, "--trainer.limit_test_batches=1")
    assert is_finished(cwd / "runs" / read.experiment / read.trials()[-1].run_id)


def test_the_control_of_the_shipped_study_of_segmentation_is_as_large_and_sees_the_same() -> None:
    trials = read_study("studies/segmentation_control.yaml").trials()
    assert len({trial.run_id for trial in trials}) == len(trials) >= 6
    capsules, control = (resolve(trial.words) for trial in trials[:2])
    assert capsules["data"] == control["data"]
    assert capsules["trainer"]["max_epochs"] == control["trainer"]["max_epochs"]
    with torch.device("meta"):
        sizes = [sum(weight.numel() for weight in build(config).task.parameters()) for config in (capsules, control)]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.02)


def test_the_first_job_has_the_first_device(cwd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    class Server:
        def Process(self, target: object, args: tuple, name: str) -> object:  # noqa: N802
            started.append(args[-1])
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "start_server", lambda: None)
    monkeypatch.setattr(module, "require_accepted", lambda *_: None)
    monkeypatch.setattr(module.multiprocessing, "get_context", lambda method: Server())
    with pytest.raises(KeyboardInterrupt):
        run_study(read_study(str(write(cwd, devices=["3", "1"]))), cwd / "runs", new_console(), main, check)
    assert started == ["3"]


@pytest.mark.nightly
def test_the_shipped_audit_runs_from_a_table_to_its_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two heads, one seed and three folds, on pictures whose brightness tells most of their grades."""
    monkeypatch.chdir(tmp_path)
    rows = ["path,label,group"]
    for number in range(90):
        label = number % 3
        random = np.random.default_rng(number)
        low = int(np.clip(50 * label + random.normal(0, 25), 0, 160))  # grades overlap, so that folds differ
        pixels = random.integers(low, low + 90, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,grade {label},{number // 3}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    study = yaml.safe_load((CONFIG_DIR / "studies" / "audit.yaml").read_text())
    study["each"] = {"config": study["each"]["config"][1:4:2], "data.fold": [0, 1, 2]}
    study |= {"seeds": [0], "jobs": 1}
    (tmp_path / "audit.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    torch.manual_seed(0)
    save_file(import_module("timm").create_model("test_resnet").state_dict(), tmp_path / "net.safetensors")
    more = (
        "--model.net.encoder.name test_resnet --model.net.encoder.weights net.safetensors --trainer.max_epochs 2 "
        "--data.folds 3 --data.batch_size 16 --trainer.accelerator cpu"
    )
    done = capsule_lightning(tmp_path, "compare", "--config", "audit.yaml", "--fit", more, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    for word in ("OrdinalLoss", "test/coverage/grade 2", "3 pairs of one seed and fold", "p = "):
        assert word in done.stdout, done.stdout
    measures = (tmp_path / "runs" / "audit" / "comparison" / "measures.csv").read_text()
    assert "test/calibration_error_at_temperature,3," in measures
    features = list((tmp_path / ".prepared" / "features").iterdir())
    assert len(features) == 1  # all folds and heads share them
    outputs = [path.read_text() for path in (tmp_path / "runs" / "audit").glob("*/output.txt")]
    computed = [int(n) for text in outputs for n in re.findall(r"features of (\d+) images computed", text)]
    assert sum(computed) == 90
