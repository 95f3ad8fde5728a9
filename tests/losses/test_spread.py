"""Spread loss: plain loops, hand values, what it ignores, the margin over a run and where the run keeps it."""

from functools import partial
from math import inf

import lightning as L
import numpy as np
import pytest
import torch
from torch.testing import assert_close

from capsule_lightning.capsules import Capsules
from capsule_lightning.data.digits import DigitsDataModule
from capsule_lightning.errors import InputError
from capsule_lightning.losses.margin import MarginLoss
from capsule_lightning.losses.spread import SpreadLoss, linear_margin, official_margin, spread_loss
from capsule_lightning.models.cnn import BaselineCNN
from capsule_lightning.tasks.classification import ClassificationTask

LABELS = torch.tensor([3, 0, 4, 3])


@pytest.fixture
def activations():
    return torch.rand(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def equation_3(activations, labels, margin):
    """Equation 3 of the paper, one class at a time; the sum over the examples."""
    total = 0.0
    for example, t in zip(activations, labels, strict=True):
        for i, activation in enumerate(example):
            if i != t:
                total += max(0.0, margin - (example[t] - activation)) ** 2
    return total


@pytest.mark.parametrize("margin", [0.2, 0.55, 0.9])
def test_equals_the_equation_of_the_paper(activations, margin):
    total = equation_3(activations.numpy(), LABELS.numpy(), margin)
    assert_close(spread_loss(activations, LABELS, margin).item(), total / 4, rtol=1e-9, atol=0)
    assert_close(spread_loss(activations, LABELS, margin, "official").item(), total / (4 * 5), rtol=1e-9, atol=0)


@pytest.mark.parametrize(("mode", "share"), [("paper", 1), ("official", 1 / 5)])
def test_the_class_is_the_function_of_the_activations(activations, mode, share):
    loss = SpreadLoss(mode=mode, margin_start=0.25)  # a margin that float32 holds exactly
    expected = share * equation_3(activations.numpy(), LABELS.numpy(), 0.25) / 4
    assert_close(loss(Capsules(torch.zeros(4, 5, 16), activations), LABELS).item(), expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("margin", [0.2, 0.9])
def test_equal_activations_cost_the_squared_margin_of_each_other_class(margin):
    assert_close(spread_loss(torch.full((2, 5), 0.3), torch.tensor([1, 4]), margin).item(), 4 * margin**2)


def test_a_lead_of_the_margin_costs_nothing_and_has_no_gradient():
    activations = torch.tensor([[0.05, 0.6, 0.1]], requires_grad=True)
    loss = spread_loss(activations, torch.tensor([1]), 0.5)
    (gradient,) = torch.autograd.grad(loss, activations)
    assert loss == 0
    assert not gradient.any()


def test_only_differences_of_activations_count(activations):
    assert_close(spread_loss(activations + 0.3, LABELS, 0.5), spread_loss(activations, LABELS, 0.5))


def test_order_of_the_other_classes_is_of_no_account(activations):
    order = torch.tensor([2, 4, 1, 0, 3])
    place = order.argsort()
    assert_close(spread_loss(activations[:, order], place[LABELS], 0.5), spread_loss(activations, LABELS, 0.5))


@pytest.mark.parametrize("mode", ["paper", "official"])
def test_gradient_is_the_numerical_one(activations, mode):
    activations[0] = 0.0
    torch.autograd.gradcheck(lambda a: spread_loss(a, LABELS, 0.7, mode), activations.requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_is_float32_under_autocast(activations, dtype):
    activations = activations.to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = spread_loss(activations, LABELS, 0.5)
    assert_close(loss, spread_loss(activations.float(), LABELS, 0.5), rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(3,), (4, 5), (4, 1), ()])
def test_targets_that_are_no_class_indices_are_refused(activations, shape):
    with pytest.raises(InputError) as error:
        spread_loss(activations, torch.zeros(shape, dtype=torch.int64), 0.5)
    assert str(shape) in str(error.value)
    assert "(4,)" in str(error.value)


def test_linear_margin_goes_from_the_first_to_the_last_step():
    loss = SpreadLoss(margin_start=0.2, margin_end=0.9)
    margins = []
    for step in range(8):
        loss.at(step, 8)
        margins.append(loss.margin.item())
    assert_close(margins, [0.2 + 0.1 * n for n in range(8)], rtol=0, atol=1e-7)


def test_linear_margin_takes_the_steps_it_is_given_and_stays():
    loss = SpreadLoss(steps=10)
    margins = []
    for step in (0, 5, 10, 1000):
        loss.at(step, inf)
        margins.append(loss.margin.item())
    assert_close(margins, [0.2, 0.55, 0.9, 0.9], rtol=0, atol=1e-7)


def test_linear_margin_of_a_run_without_an_end_stays_where_it_began():
    assert linear_margin(10**6, inf, 0.2, 0.9) == 0.2
    loss = SpreadLoss()
    loss.at(10**6, inf)
    assert_close(loss.margin.item(), 0.2)


def test_a_run_of_one_step_has_the_first_margin():
    loss = SpreadLoss()
    loss.at(0, 1)
    assert_close(loss.margin.item(), 0.2)


def test_official_margin_is_the_authors():
    for step, exponent in ((0, -4.0), (50_000, -3.0), (200_000, 0.0), (650_000, 9.0), (700_000, 10.0), (10**7, 10.0)):
        assert_close(official_margin(step), 0.2 + 0.79 / (1 + np.exp(-exponent)), rtol=1e-12, atol=0)
    loss = SpreadLoss(schedule="official", margin_start=0.0, margin_end=1.0)
    assert_close(loss.margin.item(), official_margin(0))
    loss.at(200_000, inf)
    assert_close(loss.margin.item(), 0.595)


def test_state_holds_the_margin(activations):
    loss, other = SpreadLoss(), SpreadLoss()
    loss.at(7, 10)
    other.load_state_dict(loss.state_dict())
    capsules = Capsules(torch.zeros(4, 5, 16), activations)
    assert other(capsules, LABELS) == loss(capsules, LABELS) != SpreadLoss()(capsules, LABELS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "mean"}, "mode='mean': expected one of paper, official"),
        ({"schedule": "cosine"}, "schedule='cosine': expected one of linear, official"),
        ({"margin_start": -0.1}, r"margin_start=-0\.1"),
        ({"margin_start": 0.5, "margin_end": 0.4}, r"margin_end=0\.4: expected 0 <= start <= end"),
        ({"steps": 0}, "steps=0: expected at least 1"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        SpreadLoss(**options)


def test_an_unknown_mode_of_the_function_is_refused(activations):
    with pytest.raises(InputError, match="mode='sum'"):
        spread_loss(activations, LABELS, 0.5, "sum")


class Listener(MarginLoss):
    """Remembers what the task told it."""

    def __init__(self):
        super().__init__()
        self.told = []

    def at(self, step, total_steps):
        self.told.append((step, total_steps))


class Stop(L.Callback):
    """Ends a run that would not end."""

    def on_train_batch_end(self, trainer, *args):
        trainer.should_stop = trainer.global_step >= 3


def train(folder, loss, **options):
    """A few steps on the digits; the task and its trainer."""
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "use_distributed_sampler"), False)
    net = partial(BaselineCNN, channels=(2,), hidden=(4,), kernel_size=3)
    task = ClassificationTask((1, 8, 8), 10, net=net, loss=loss, lr_scheduler=None)
    trainer = L.Trainer(accelerator="cpu", default_root_dir=folder, limit_val_batches=0, **quiet, **options)
    trainer.fit(task, DigitsDataModule(batch_size=64))
    return task, trainer


def test_a_loss_is_told_of_each_step_and_of_the_whole_run(tmp_path):
    limits = {"max_epochs": 2, "limit_train_batches": 4, "accumulate_grad_batches": 2, "enable_checkpointing": False}
    task, _ = train(tmp_path, Listener, **limits)
    assert task.loss.told == [(0, 4), (0, 4), (1, 4), (1, 4), (2, 4), (2, 4), (3, 4), (3, 4)]


@pytest.mark.parametrize("limits", [{"max_epochs": -1}, {"max_time": "00:01:00:00"}])
def test_a_run_without_an_end_has_infinitely_many_steps(tmp_path, limits):
    task, _ = train(tmp_path, Listener, callbacks=[Stop()], enable_checkpointing=False, **limits)
    assert task.loss.told[:3] == [(0, inf), (1, inf), (2, inf)]


def test_a_checkpoint_holds_the_margin_of_its_last_step(tmp_path):
    _, trainer = train(tmp_path, SpreadLoss, max_steps=3)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    state = torch.load(tmp_path / "last.ckpt", weights_only=False)["state_dict"]
    assert_close(state["loss.margin"].item(), 0.9)
