"""A callback that only informs can neither end a run nor alter it."""

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.callbacks import ProgressBar
from matplotlib.figure import Figure
from torch import distributed, nn

from capsule_lightning.callbacks import forecast
from capsule_lightning.callbacks.figures import publish
from capsule_lightning.callbacks.forecast import Forecast, _states
from capsule_lightning.callbacks.informing import Informing, undisturbed
from capsule_lightning.callbacks.progress import RunProgress


class Broken(Informing):
    """Fails at every hook."""

    def on_train_start(self, trainer, pl_module):
        raise ValueError("of a\nname \x1b[2J\udce9")

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        raise KeyError


@pytest.fixture
def said(monkeypatch):
    lines = []
    monkeypatch.setattr("capsule_lightning.callbacks.informing.rank_zero_info", lines.append)
    return lines


def test_what_fails_is_said_once_in_one_line(said):
    broken = Broken()
    for _ in range(3):
        broken.on_train_start(None, None)
        broken.on_train_batch_end(None, None, None, None, 0)
    first, second = said
    assert first == "Broken failed (ValueError: of a); training continues without it"
    assert "KeyError" in second
    Broken().on_train_start(None, None)
    assert len(said) == 3


def test_a_class_of_a_user_is_guarded_too_and_a_gone_terminal_is_no_failure(said, monkeypatch):
    class Mine(RunProgress):
        def on_train_start(self, trainer, pl_module):
            raise RuntimeError("mine")

    def gone(message):
        raise OSError("the terminal is gone")

    Mine().on_train_start(None, None)
    assert len(said) == 1
    assert isinstance(Mine(), ProgressBar)
    monkeypatch.setattr("capsule_lightning.callbacks.informing.rank_zero_info", gone)
    Mine().on_train_start(None, None)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, distributed.DistNetworkError])
def test_what_ends_a_run_is_not_hidden(error):
    class Leaving(Informing):
        def on_train_start(self, trainer, pl_module):
            raise error

    with pytest.raises(error):
        Leaving().on_train_start(None, None)


def test_a_picture_that_cannot_be_drawn_or_written_costs_a_line(tmp_path, monkeypatch):
    lines = []
    monkeypatch.setattr("capsule_lightning.callbacks.figures.tell", lines.append)
    run = SimpleNamespace(default_root_dir=str(tmp_path), global_step=3, loggers=[])

    def broken():
        raise ValueError(r"$\frac$")

    publish(run, "val/wrong", Figure)
    before = (tmp_path / "figures" / "val_wrong.png").read_bytes()
    publish(run, "val/wrong", broken)
    assert (tmp_path / "figures" / "val_wrong.png").read_bytes() == before
    (tmp_path / "figures" / "folder.png").mkdir()
    publish(run, "folder", Figure)
    assert ["val_wrong.png" in lines[0], "folder.png" in lines[1]] == [True, True]
    assert len(list((tmp_path / "figures").iterdir())) == 2


def test_a_forecast_that_fails_leaves_modes_buffers_and_chance_as_they_were():
    net = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout())
    net[0].eval()  # frozen by someone
    chance = torch.get_rng_state()

    def fail():
        with undisturbed(net):
            net.train()
            net(torch.rand(4, 2))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [net.training, net[0].training, net[1].training] == [True, False, True]
    assert torch.equal(net[0].running_mean, torch.zeros(2))
    assert torch.equal(torch.get_rng_state(), chance)


NOT_FOR_DENSE_MATRICES = ("SparseAdam", "LBFGS")
OPTIMIZERS = sorted(
    name
    for name, each in vars(torch.optim).items()
    if isinstance(each, type) and issubclass(each, torch.optim.Optimizer) and each is not torch.optim.Optimizer
)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_state_of_every_optimizer_is_counted_or_guessed(name):
    optimizer = getattr(torch.optim, name)([nn.Parameter(torch.zeros(3, 3))], lr=0.1)
    expected = {"SGD": 0, "Adam": 2, "AdamW": 2, "RMSprop": 1, "LBFGS": 2, "SparseAdam": 2}
    assert _states(optimizer) == expected.get(name, _states(optimizer)) <= 3


def test_a_forecast_that_cannot_be_made_is_a_line(said, monkeypatch):
    monkeypatch.setattr(forecast, "isinstance", lambda *_: True, raising=False)
    Forecast().on_fit_start(SimpleNamespace(), SimpleNamespace())
    (line,) = said
    assert line.startswith("Forecast failed (AttributeError")
