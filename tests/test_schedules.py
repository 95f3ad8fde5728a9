"""Schedules: the learning rate at the start, on the way and at the end, and that a resumed run goes on unchanged."""

from functools import partial
from itertools import pairwise

import pytest
import torch

from capsule_lightning.errors import InputError
from capsule_lightning.schedules import ExponentialDecay, InverseSquareRoot, OneCycle, StepDecay, WarmupCosine

LR = 0.1
SCHEDULES = [
    pytest.param(partial(ExponentialDecay, decay=0.5, steps=3), id="exponential"),
    pytest.param(partial(WarmupCosine, warmup=0.25), id="warmup-cosine"),
    pytest.param(OneCycle, id="one-cycle"),
    pytest.param(partial(StepDecay, at=(0.3, 0.6)), id="steps"),
    pytest.param(partial(InverseSquareRoot, warmup=4), id="inverse-square-root"),
]


def make(schedule, total_steps, *rates):
    """A schedule on an optimizer with one group of parameters for each rate."""
    groups = [{"params": [torch.nn.Parameter(torch.zeros(()))], "lr": rate} for rate in rates or (LR,)]
    return schedule(torch.optim.SGD(groups), total_steps)


def factors(schedule, total_steps, steps):
    """The learning rate over the first one's at each of the first ``steps`` steps, as the optimizer sees it."""
    lr_scheduler, found = make(schedule, total_steps), []
    for _ in range(steps):
        found.append(lr_scheduler.optimizer.param_groups[0]["lr"] / LR)
        lr_scheduler.optimizer.step()
        lr_scheduler.step()
    return found


@pytest.mark.parametrize(
    ("schedule", "total_steps", "expected"),
    [
        pytest.param(ExponentialDecay, 9000, {0: 1, 1000: 0.96**0.5, 2000: 0.96}, id="paper"),
        pytest.param(
            partial(ExponentialDecay, decay=0.1, steps=2, floor=1e-4), 9, {4: 0.01, 6: 1e-3, 9: 1e-3}, id="floor"
        ),
        pytest.param(WarmupCosine, 100, {0: 1 / 6, 4: 5 / 6, 5: 1, 100: 0}, id="cosine"),
        pytest.param(
            partial(WarmupCosine, warmup=0.2, final=0.1),
            20,
            {0: 0.2, 3: 0.8, 4: 1, 12: 0.55, 20: 0.1, 25: 0.1},
            id="final",
        ),
        pytest.param(partial(WarmupCosine, warmup=0.0), 10, {0: 1, 5: 0.5, 10: 0}, id="cold-start"),
        pytest.param(
            partial(InverseSquareRoot, warmup=100), 9, {0: 0.01, 49: 0.5, 99: 1, 399: 0.5, 899: 1 / 3}, id="root"
        ),
        pytest.param(partial(InverseSquareRoot, warmup=0.1), 40, {0: 0.25, 3: 1, 15: 0.5}, id="root-of-a-share"),
        pytest.param(OneCycle, 20, {0: 0.04, 5: 1, 12: (1 + 1e-5) / 2, 19: 1e-5, 25: 1e-5}, id="one-cycle"),
        pytest.param(
            partial(OneCycle, rise=0.5, start=0.2, final=0.1),
            20,
            {0: 0.2, 5: 0.6, 10: 1, 19: 0.1},
            id="one-cycle-options",
        ),
        pytest.param(
            partial(StepDecay, at=(150 / 350, 250 / 350)),
            700,
            {0: 1, 299: 1, 300: 0.1, 499: 0.1, 500: 0.01, 699: 0.01},
            id="steps",
        ),
    ],
)
def test_learning_rate_at_the_start_on_the_way_and_at_the_end(schedule, total_steps, expected):
    found = factors(schedule, total_steps, max(expected) + 1)
    assert {step: found[step] for step in expected} == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("schedule", "peak"), [(partial(WarmupCosine, warmup=0.25), 10), (OneCycle, 10)])
def test_rises_to_the_peak_then_falls(schedule, peak):
    found = factors(schedule, 40, 40)
    assert max(found) == found[peak] == 1
    assert all(a < b for a, b in pairwise(found[: peak + 1]))
    assert all(a > b for a, b in pairwise(found[peak:]))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("total_steps", [1, 2, 7])
def test_short_runs_train(schedule, total_steps):
    found = factors(schedule, total_steps, total_steps)
    assert all(0 <= factor <= 1 for factor in found)
    assert max(found) > 0


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_group_keeps_its_own_rate(schedule):
    lr_scheduler = make(schedule, 10, 0.1, 0.02)
    for _ in range(4):
        lr_scheduler.optimizer.step()
        lr_scheduler.step()
    first, second = lr_scheduler.get_last_lr()
    assert 0 < first < 0.1
    assert first == pytest.approx(5 * second)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_frozen_group_stays_frozen(schedule):
    lr_scheduler = make(schedule, 10, 0.0)
    lr_scheduler.optimizer.step()
    lr_scheduler.step()
    assert lr_scheduler.get_last_lr() == [0.0]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_resumed_run_goes_on_unchanged(schedule):
    whole, resumed = make(schedule, 12), make(schedule, 12)
    for _ in range(5):
        whole.optimizer.step()
        whole.step()
    resumed.load_state_dict(whole.state_dict())
    resumed.optimizer.load_state_dict(whole.optimizer.state_dict())
    for _ in range(7):
        assert resumed.optimizer.param_groups[0]["lr"] == whole.optimizer.param_groups[0]["lr"]
        for lr_scheduler in (whole, resumed):
            lr_scheduler.optimizer.step()
            lr_scheduler.step()
    assert resumed.get_last_lr() == whole.get_last_lr()


@pytest.mark.parametrize(
    ("schedule", "name", "value"),
    [
        (ExponentialDecay, "decay", 0.0),
        (ExponentialDecay, "decay", 1.1),
        (ExponentialDecay, "steps", 0),
        (WarmupCosine, "warmup", 1.0),
        (WarmupCosine, "warmup", -0.1),
        (WarmupCosine, "final", 1.5),
        (OneCycle, "rise", 0.0),
        (OneCycle, "rise", 1.0),
        (StepDecay, "decay", 0.0),
    ],
)
def test_impossible_values_are_refused(schedule, name, value):
    with pytest.raises(InputError, match=f"{schedule.__name__}: {name}={value}: expected"):
        make(partial(schedule, **{name: value}), 10)


@pytest.mark.parametrize("at", [(0.5, 0.2), (0.0,), (0.5, 1.0)])
def test_points_outside_the_run_or_out_of_order_are_refused(at):
    with pytest.raises(InputError, match="StepDecay: at="):
        make(partial(StepDecay, at=at), 10)
