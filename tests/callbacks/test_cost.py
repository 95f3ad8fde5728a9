"""What a run is said to cost."""

import csv
import ctypes
import mmap
import os
import resource
import sys
from pathlib import Path

import lightning as L
import pytest
import torch
from program import TINY

from capsule_lightning.callbacks import cost
from capsule_lightning.callbacks.cost import RunCost, peak_memory
from capsule_lightning.data.digits import DigitsDataModule
from capsule_lightning.loggers.metrics_file import MetricsFile
from capsule_lightning.models.capsnet import CapsNet
from capsule_lightning.tasks.classification import ClassificationTask

SMALL = (
    *TINY,
    "--trainer.limit_train_batches=3",
    "--run_id=one",
)


def rows(folder: Path, metric: str) -> list[tuple[int, float]]:
    with (folder / "metrics.csv").open() as file:
        return [(int(row["step"]), float(row["value"])) for row in csv.DictReader(file) if row["metric"] == metric]


def test_a_run_says_its_cost_in_metrics_csv(run_main):
    folder = run_main("fit", *SMALL, "--trainer.max_epochs=2", "--test_after_fit=false") / "runs" / "digits" / "one"
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    sizes = {name: value.numel() for name, value in state.items() if name.startswith("net.")}
    drawing = sum(size for name, size in sizes.items() if name.startswith("net.decoder."))
    assert drawing > 0
    assert rows(folder, "parameters") == [(0, sum(sizes.values()))]
    assert rows(folder, "parameters_without_decoder") == [(0, sum(sizes.values()) - drawing)]
    assert [step for step, _ in rows(folder, "images_per_second")] == [2, 5]
    assert all(50e6 < most < 50e9 for _, most in rows(folder, "peak_memory_bytes"))
    run_main("fit", *SMALL, "--trainer.max_epochs=3", "--test_after_fit=false", "--resume")
    assert [step for step, _ in rows(folder, "parameters")] == [0, 6]  # a row for each start
    assert [step for step, _ in rows(folder, "images_per_second")] == [2, 5, 8]


class Clock:
    """Time that goes on only where it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


class Takes(L.Callback):
    """Training batches take a second each, validation batches a hundred, saving a thousand."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_batch_end(self, *_: object) -> None:
        self.clock.now += 1

    def on_validation_batch_end(self, *_: object) -> None:
        self.clock.now += 100

    def on_validation_end(self, *_: object) -> None:
        self.clock.now += 1000


@pytest.mark.parametrize("interval", [1.0, 0.5])
def test_validation_is_no_part_of_the_speed_of_training(interval, tmp_path, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(cost, "time", clock)
    task = ClassificationTask(in_shape=(1, 8, 8), num_classes=10, net=small_net)
    logger = MetricsFile(str(tmp_path))
    trainer = L.Trainer(
        default_root_dir=tmp_path,
        logger=[logger],
        callbacks=[Takes(clock), RunCost()],
        max_epochs=2,
        limit_train_batches=4,
        limit_val_batches=2,
        val_check_interval=interval,
        num_sanity_val_steps=2,
        accelerator="cpu",
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(task, DigitsDataModule(batch_size=32))
    assert rows(tmp_path, "images_per_second") == [(3, 32.0), (7, 32.0)]


def small_net(in_shape, num_classes):
    from capsule_lightning.encoders.sabour import SabourEncoder
    from capsule_lightning.routing.uniform import UniformRouting

    def encoder(shape):
        return SabourEncoder(shape, channels=4, kernel_size=3, num_types=2, primary_kernel_size=3)

    return CapsNet(in_shape, num_classes, encoder=encoder, routing=UniformRouting)


def test_the_peak_is_in_bytes_without_proc_too(monkeypatch):
    known = peak_memory(torch.device("cpu"))
    monkeypatch.setattr(cost, "Path", lambda path: Path("nowhere"))
    assert 0.9 * known <= peak_memory(torch.device("cpu")) < 50e9


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the high water is read there")
def test_the_peak_outlasts_what_made_it():
    size, device = 64 * 2**20, torch.device("cpu")
    before = peak_memory(device)
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    room = mmap.mmap(-1, size)
    ctypes.memset(ctypes.addressof(ctypes.c_char.from_buffer(room)), 1, size)
    most = peak_memory(device)
    assert most >= max(before, resident + 0.9 * size)
    del room
    assert peak_memory(device) >= 0.99 * most  # the kernel counts a few pages late


@pytest.mark.parametrize(("platform", "unit"), [("linux", 1024), ("darwin", 1)])
def test_the_peak_is_in_bytes_where_proc_is_missing(platform, unit, monkeypatch, tmp_path):
    monkeypatch.setattr(cost, "Path", lambda _: tmp_path / "missing")
    monkeypatch.setattr(sys, "platform", platform)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    monkeypatch.setattr(resource, "getrusage", lambda _: usage)
    most = peak_memory(torch.device("cpu"))
    assert most == unit * usage.ru_maxrss
    assert sys.platform != "linux" or 50e6 < most < 50e9
