"""Every optimizer and schedule of torch, every callback and logger of Lightning, every switch: trained, or one line."""

import inspect
import shlex
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning.pytorch import callbacks, loggers
from program import metrics
from torch.optim import lr_scheduler

FIT = (
    "fit --model.net.encoder.channels 4 --model.net.encoder.num_types 2 --model.net.decoder.hidden [8] --run_id one "
    "--trainer.max_epochs 2 --trainer.limit_train_batches 2 --trainer.limit_val_batches 1 "
    "--trainer.limit_test_batches 1 --trainer.log_every_n_steps 1 --trainer.accelerator cpu"
)
FOLDER = Path("runs/digits/one")

OPTIMIZERS = {name: "" for name in torch.optim.__all__ if name[0].isupper() and name != "Optimizer"}
SCHEDULES = {
    "ConstantLR": "",
    "CosineAnnealingLR": "T_max 4",
    "CosineAnnealingWarmRestarts": "T_0 2",
    "CyclicLR": "base_lr 0.001 max_lr 0.01 cycle_momentum false",
    "ExponentialLR": "gamma 0.9",
    "LinearLR": "",
    "MultiStepLR": "milestones [1]",
    "OneCycleLR": "max_lr 0.01 total_steps 10",
    "PolynomialLR": "",
    "ReduceLROnPlateau": "",
    "StepLR": "step_size 1",
    "LambdaLR": "",  # its function cannot be given in a file
    "MultiplicativeLR": "",
    "ChainedScheduler": "",
    "SequentialLR": "",
}
CALLBACKS = {
    "BackboneFinetuning": "",
    "BatchSizeFinder": "",
    "DeviceStatsMonitor": "",
    "EMAWeightAveraging": "",
    "EarlyStopping": "monitor val/loss",
    "GradientAccumulationScheduler": "scheduling '{0: 1}'",
    "LambdaCallback": "",
    "LearningRateFinder": "",
    "LearningRateMonitor": "",
    "ModelCheckpoint": "",
    "ModelPruning": "pruning_fn l1_unstructured amount 0.1",
    "ModelSummary": "",
    "OnExceptionCheckpoint": "dirpath crash",
    "RichModelSummary": "",
    "RichProgressBar": "",
    "StochasticWeightAveraging": "swa_lrs 0.01",
    "TQDMProgressBar": "",
    "ThroughputMonitor": "",
    "Timer": "duration 00:01:00:00",
    "WeightAveraging": "",
}
LOGGERS = {name: "" for name in loggers.__all__ if name != "Logger"}
SWITCHES = [
    "overfit_batches 1",
    "val_check_interval 1",
    "check_val_every_n_epoch 2",
    "accumulate_grad_batches 2",
    "gradient_clip_val 1.0",
    "deterministic true",
    "benchmark true",
    "inference_mode false",
    "use_distributed_sampler true",
    "detect_anomaly true",
    "enable_model_summary true",
    "num_sanity_val_steps 1",
    "profiler simple",
    "max_time 00:01:00:00",
    "reload_dataloaders_every_n_epochs 1",
    "log_every_n_steps 0",
    "limit_val_batches 0",
    "precision bf16-mixed",
]


def given(slot: str, name: str, arguments: str) -> list[str]:
    words, key = shlex.split(arguments), slot.removesuffix("+")
    return [f"{slot}={name}", *(f"--{key[2:]}.{k}={v}" for k, v in zip(words[::2], words[1::2], strict=True))]


def trains_or_is_refused(words: list[str], run_main: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> bool:
    """Return whether it trained; what is refused is refused in one line and leaves nothing behind."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        status = 0
        try:
            run_main(*shlex.split(FIT), *words)
        except SystemExit as stopped:
            status = stopped.code
    if status:
        _, mark, message = capsys.readouterr().err.partition("capsule_lightning: error: ")
        assert (status, bool(mark), message[:-1].isprintable()) == (2, True, True), message
        assert not FOLDER.exists()
        return False
    found = metrics(FOLDER)
    assert {"train/loss", "val/loss"} & set(found)  # some switches leave one of them out
    assert (FOLDER / "config.yaml").is_file()
    assert torch.load(FOLDER / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] > 0
    return True


@pytest.mark.nightly
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_of_torch(name: str, run_main: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    words = given("--model.optimizer", f"torch.optim.{name}", OPTIMIZERS[name])
    assert trains_or_is_refused(words, run_main, capsys) == (name not in ("LBFGS", "SparseAdam", "Muon"))


@pytest.mark.nightly
@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_of_torch(name: str, run_main: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    words = given("--model.lr_scheduler", f"torch.optim.lr_scheduler.{name}", SCHEDULES[name])
    of_functions = ("LambdaLR", "MultiplicativeLR", "ChainedScheduler", "SequentialLR")
    assert trains_or_is_refused(words, run_main, capsys) == (name not in of_functions)


@pytest.mark.nightly
@pytest.mark.parametrize("name", CALLBACKS)
def test_every_callback_of_lightning(
    name: str, run_main: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    refused = (
        "BackboneFinetuning",
        "BatchSizeFinder",
        "LearningRateFinder",
        "ModelPruning",
        "StochasticWeightAveraging",
    )
    missing = ("DeviceStatsMonitor", "ThroughputMonitor")  # need psutil, or a function
    trained = trains_or_is_refused(given("--trainer.callbacks+", name, CALLBACKS[name]), run_main, capsys)
    assert name in missing or trained == (name not in refused)


@pytest.mark.nightly
@pytest.mark.parametrize("name", LOGGERS)
def test_every_logger_of_lightning(
    name: str, run_main: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    trained = trains_or_is_refused(given("--trainer.logger", name, LOGGERS[name]), run_main, capsys)
    assert trained or name != "CSVLogger"


@pytest.mark.nightly
@pytest.mark.parametrize("switch", SWITCHES)
def test_every_switch_of_the_trainer(
    switch: str, run_main: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    name, value = switch.split()
    assert trains_or_is_refused([f"--trainer.{name}={value}"], run_main, capsys)


def test_the_tables_name_all_that_there_is() -> None:
    """A class that a new version of a library brings is tried too."""

    def names(module: object, base: type) -> set[str]:
        found = {n for n, c in vars(module).items() if inspect.isclass(c) and issubclass(c, base) and c is not base}
        return {name for name in found if not name.startswith("_") and name != "LRScheduler"}

    abstract = {"Checkpoint", "ProgressBar", "BasePredictionWriter", "BaseFinetuning", "SpikeDetection"}
    assert names(callbacks, callbacks.Callback) - abstract == set(CALLBACKS)
    assert names(lr_scheduler, lr_scheduler.LRScheduler) == set(SCHEDULES)
