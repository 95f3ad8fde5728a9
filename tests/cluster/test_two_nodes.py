"""The program on two machines under torchrun, on the CPU, and what happens when they lose touch."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster.two_nodes import TwoNodes
from cluster.waiting import until
from forked import run
from program import clean_environment, metrics
from resumed import FIT, NOISY, assert_same_end

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.geteuid() != 0
        or shutil.which("ip") is None
        or subprocess.run(["unshare", "--net", "true"], capture_output=True).returncode != 0,
        reason="no network namespaces for this user",
    ),
]

#: Without chance in the network, which each process would draw for its own part of a batch.
SMALL = NOISY.replace("noisy.NoisyCapsNet", "CapsNet")
WORDS = [word for word in FIT if word not in ("--run_id", "one")]
NAME = "mine"
PATIENCE = 20  # seconds, in place of three minutes


class Training:
    """One run on both nodes, started by torchrun on each.

    Args:
        nodes: to run on.
        cwd: both nodes see it.
        backend: of torchrun's rendezvous, ``static`` or ``c10d``.
        words: of the program.
    """

    def __init__(self, nodes: TwoNodes, cwd: Path, backend: str, *words: str) -> None:
        self.cwd, self.folder = cwd, cwd / "runs" / "digits" / f"torchrun-{NAME}"
        trainer = ("--trainer.accelerator=cpu", "--trainer.num_nodes=2", "--trainer.devices=1")
        strategy = ("--trainer.strategy=DDPStrategy", f"--trainer.strategy.timeout=0:00:{PATIENCE}")
        self.processes = []
        for node in (0, 1):
            meet = {
                "static": (f"--node_rank={node}", f"--master_addr={nodes.addresses[0]}"),
                "c10d": (
                    f"--rdzv_endpoint={nodes.addresses[0]}:29500",
                    f"--local_addr={nodes.addresses[node]}",
                    f"--rdzv_conf=is_host={1 - node}",  # else found out by the host's name, which both nodes share
                ),
            }[backend]
            launch = ("--nnodes=2", "--nproc_per_node=1", f"--rdzv_id={NAME}", f"--rdzv_backend={backend}", *meet)
            command = (sys.executable, "-m", "torch.distributed.run", *launch, "-m", "capsule_lightning")
            environment = {"WANDB_MODE": "disabled", "GLOO_SOCKET_IFNAME": nodes.links[node]}
            with (cwd / f"node{node}.txt").open("a") as output:
                self.processes.append(
                    subprocess.Popen(
                        nodes.on(node, *command, *words, *trainer, *strategy),
                        cwd=cwd,
                        env=clean_environment(cwd) | environment,
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=output,
                    )
                )

    @property
    def outputs(self) -> list[str]:
        return [(self.cwd / f"node{node}.txt").read_text() for node in (0, 1)]

    def reach(self, step: int) -> None:
        path = self.folder / "metrics.csv"
        until(
            lambda: (path.is_file() and path.read_text().count(",train/loss,") >= step) or self._has_ended(),
            f"step {step}",
        )
        assert not self._has_ended(), self.outputs

    def _has_ended(self) -> bool:
        return any(process.poll() is not None for process in self.processes)

    def known_as_one(self) -> None:
        """Under the name by which `resumed` knows a run."""
        (self.folder.parent / "one").symlink_to(self.folder.name)

    def end(self) -> list[int]:
        """Wait for both ends; their status."""
        try:
            return [process.wait(180) for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()


@pytest.fixture(scope="module")
def nodes() -> Iterator[TwoNodes]:
    nodes = TwoNodes()
    yield nodes
    nodes.stop()


@pytest.fixture(scope="module")
def whole(nodes: TwoNodes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run on two nodes that nobody disturbs."""
    cwd = folder(tmp_path_factory.mktemp("whole"))
    training = Training(nodes, cwd, "c10d", *WORDS)
    assert training.end() == [0, 0], training.outputs
    training.known_as_one()
    return cwd


def folder(cwd: Path) -> Path:
    (cwd / "noisy.yaml").write_text(SMALL)
    return cwd


def test_two_nodes_train_as_one_process(whole: Path, tmp_path: Path) -> None:
    assert run(folder(tmp_path), *FIT) == 0
    one, two = (metrics(cwd / "runs" / "digits" / "one") for cwd in (tmp_path, whole))
    assert two["train/loss"] == pytest.approx(one["train/loss"], rel=1e-4)  # sums in another order
    assert two["val/loss"] == pytest.approx(one["val/loss"], rel=1e-4)
    assert two["val/accuracy"] == one["val/accuracy"]


def test_a_link_that_is_cut(nodes: TwoNodes, whole: Path, tmp_path: Path) -> None:
    # under c10d, torchrun itself would wait for its lost store until the link is back
    training = Training(nodes, folder(tmp_path), "static", *WORDS, "--resume")
    training.reach(25)
    assert "starts from the beginning" in training.outputs[0]
    nodes.cut()
    try:
        status = training.end()
    finally:
        nodes.heal()
    assert 0 not in status
    for output in training.outputs:
        assert "capsule_lightning: error: another process of this run is gone or out of reach" in output
        assert "fit --resume" in output
    assert nodes.processes() == []
    again = Training(nodes, tmp_path, "static", *WORDS, "--resume")
    assert again.end() == [0, 0], again.outputs
    assert f"going on from runs/digits/torchrun-{NAME}/checkpoints/" in again.outputs[0]
    again.known_as_one()
    assert_same_end(tmp_path, whole)
