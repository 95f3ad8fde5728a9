"""The shipped sweeps: the command line takes what W&B makes of them, and an agent trains them."""

import itertools
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from program import clean_environment, metrics
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args
from wandb_log import WANDB, parts
from wandb_server import WandbServer

from capsule_lightning.cli.configs import resolve
from capsule_lightning.components.names import class_names
from capsule_lightning.runs.folders import flat
from capsule_lightning.shipped import CONFIG_DIR

SWEEPS = sorted((CONFIG_DIR / "sweeps").glob("*.yaml"))


def points(sweep: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All points of a grid; otherwise all corners of the ranges, and every value of each list."""
    parameters: dict[str, dict[str, Any]] = sweep["parameters"]
    lists = {key: parameter["values"] for key, parameter in parameters.items() if "values" in parameter}
    ranges = {key: (range_["min"], range_["max"]) for key, range_ in parameters.items() if "min" in range_}
    assert {*lists, *ranges} == set(parameters)
    if sweep["method"] == "grid":
        assert not ranges
        yield from (dict(zip(lists, point, strict=True)) for point in itertools.product(*lists.values()))
        return
    corners = list(itertools.product(*ranges.values()))
    for n in range(max(len(corners), *map(len, lists.values()))):
        corner = dict(zip(ranges, corners[n % len(corners)], strict=True))
        yield {**corner, **{key: values[n % len(values)] for key, values in lists.items()}}


def words_of(sweep: dict[str, Any], point: dict[str, Any]) -> list[str]:
    """What an agent starts for a point, from the command on."""
    args = create_sweep_command_args({"args": {key: {"value": value} for key, value in point.items()}})["args"]
    words = [
        word
        for part in create_sweep_command(list(sweep["command"]))
        for word in (args if part == "${args}" else [part])
    ]
    assert words[:5] == ["${env}", "${interpreter}", "-m", "capsule_lightning", "fit"]
    return words[5:]


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_the_command_line_takes_every_point(path: Path) -> None:
    sweep, count = yaml.safe_load(path.read_text()), 0
    for point in points(sweep):
        config = dict(flat(resolve(["fit", *words_of(sweep, point)])))
        assert {key: config.get(key) for key in point} == point
        count += 1
    assert count > 1


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_what_is_optimized_is_logged_and_never_the_test_images(path: Path) -> None:
    sweep = yaml.safe_load(path.read_text())
    tested = "--test_after_fit=false" not in sweep["command"]
    assert sweep["metric"] == {"name": "test/accuracy" if tested else "val/accuracy", "goal": "maximize"}
    assert (sweep["method"] == "grid") == tested  # a grid is looked at, and chooses nothing
    assert sweep["name"] == path.stem


def test_the_routings_are_all_there_are() -> None:
    values = yaml.safe_load((CONFIG_DIR / "sweeps" / "routings.yaml").read_text())["parameters"]["model.net.routing"]
    assert sorted(values["values"]) == sorted(class_names("--model.net.routing"))


class Account:
    """Someone who has an account on a server, in a folder."""

    def __init__(self, cwd: Path, server: WandbServer) -> None:
        self.cwd = cwd
        self.environment = clean_environment(cwd) | {"WANDB_API_KEY": "k" * 40, "WANDB_BASE_URL": server.url}
        python = Path(sys.executable).parent  # an agent's `python`
        self.environment["PATH"] = f"{python}{os.pathsep}{self.environment['PATH']}"

    def wandb(self, *words: str) -> str:
        done = subprocess.run(
            [WANDB, *words],
            cwd=self.cwd,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def agent(self, sweep: dict[str, Any]) -> str:
        """Trains a sweep, made small; what is said."""
        small = ["--model.net.encoder.channels=4", "--model.net.encoder.num_types=2", "--model.net.decoder=null"]
        command = [*sweep["command"], *small, "--trainer.accelerator=cpu"]
        (self.cwd / "sweep.yaml").write_text(yaml.safe_dump({**sweep, "command": command}, sort_keys=False))
        said = self.wandb("sweep", "sweep.yaml")
        agent = re.search(r"wandb agent (\S+)", said)
        assert agent is not None, said
        return self.wandb("agent", agent.group(1))


@pytest.mark.nightly
def test_an_agent_trains_a_sweep(tmp_path: Path) -> None:
    sweep = yaml.safe_load((CONFIG_DIR / "sweeps" / "routings.yaml").read_text())
    routings = ["UniformRouting", "DynamicRouting"]
    sweep["parameters"] |= {"seed_everything": {"values": [3]}, "model.net.routing": {"values": routings}}
    sweep["command"].append("--trainer.max_epochs=1")
    with WandbServer() as server:
        said = Account(tmp_path, server).agent(sweep)
        runs, (known,) = server.runs, server.sweeps.values()

    assert list(runs) == known.begun
    assert len(runs) == 2
    for routing, (name, run) in zip(routings, runs.items(), strict=True):
        config = {key: item["value"] for key, item in yaml.safe_load(run.fields["config"]).items()}
        assert (config["model.net.routing"], config["seed_everything"]) == (routing, 3)
        assert (run.fields["sweep"], run.exit_code) == (known.name, 0)
        assert (run.fields["displayName"], run.fields["groupName"]) == (f"{routing}-seed3", f"digits-{routing}")
        folder = tmp_path / "runs" / "digits" / name
        assert run.summary["test/accuracy"] == metrics(folder)["test/accuracy"][-1]
        assert [part.name.rsplit("-", 1)[-1] for part in parts(folder)] == [name]
    assert "locked" not in said  # W&B's warning of a value that the run gives it again


@pytest.mark.nightly
def test_a_run_that_is_ended_early_has_saved_its_state(tmp_path: Path) -> None:
    sweep = yaml.safe_load((CONFIG_DIR / "sweeps" / "tuning.yaml").read_text())
    sweep["parameters"] = {"model.optimizer.lr": {"values": [0.01]}}
    sweep["command"].append("--trainer.max_epochs=2000")
    with WandbServer() as server:

        def end_early() -> None:
            while not list(tmp_path.glob("runs/digits/*/checkpoints/last.ckpt")):
                time.sleep(0.1)
            server.stopped |= set(server.runs)

        thread = threading.Thread(target=end_early, daemon=True)
        thread.start()
        Account(tmp_path, server).agent(sweep)
        thread.join()
        (known,) = server.sweeps.values()
        (name,) = known.begun
        run = server.runs[name]
    folder = tmp_path / "runs" / "digits" / name
    steps = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert 0 < steps < 2000 * 20
    assert run.last_step >= steps - 10  # of which every tenth is logged: all have arrived
    assert run.exit_code == signal.SIGTERM
    assert "test/accuracy" not in run.summary
