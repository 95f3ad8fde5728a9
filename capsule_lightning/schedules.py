"""Learning-rate schedules that know the length of the run, in closed form, so that a resumed run needs no history.

Those of torch may stand in their place. They are stepped once an epoch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from math import cos, pi
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from typing_extensions import override

from capsule_lightning.errors import require


class Schedule(LRScheduler, ABC):
    """A factor on the optimizer's learning rate that depends on the training step alone; stepped once a training step.

    Args:
        optimizer: the optimizer whose learning rates are set.
        total_steps: training steps of the whole run.
    """

    def __init__(self, optimizer: Optimizer, total_steps: int) -> None:
        self.total_steps = total_steps
        super().__init__(optimizer)

    @abstractmethod
    def factor(self, step: int, base_lr: float) -> float:
        """Return the factor on ``base_lr`` at a step; the first step is 0."""

    @override
    def get_lr(self) -> list[float | Tensor]:
        return [lr * self.factor(self.last_epoch, float(lr)) for lr in self.base_lrs]

    @override
    def state_dict(self) -> dict[str, Any]:
        """Return how far the schedule is; its shape and the length of the run always come from the configuration."""
        return {name: self.__dict__[name] for name in ("last_epoch", "_step_count", "_last_lr")}


def make_schedule(make: Callable[..., LRScheduler], optimizer: Optimizer, total_steps: int) -> LRScheduler:
    """Make a schedule: ours are told the length of the run, those of torch are not.

    Args:
        make: a class of schedules, alone or with some of its arguments.
        optimizer: the optimizer whose learning rates are set.
        total_steps: training steps of the whole run.

    Example:
        >>> import torch
        >>> from torch.optim.lr_scheduler import StepLR
        >>> from functools import partial
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
        >>> type(make_schedule(OneCycle, optimizer, 10)).__name__
        'OneCycle'
        >>> type(make_schedule(partial(StepLR, step_size=2), optimizer, 10)).__name__
        'StepLR'
    """
    found, parts = make, [make]
    while parts:
        found = parts.pop(0)
        if isinstance(found, type):
            break
        parts += [found.func, *found.args] if isinstance(found, partial) else []
    is_torchs = isinstance(found, type) and not issubclass(found, Schedule)
    return make(optimizer) if is_torchs else make(optimizer, total_steps)


class ExponentialDecay(Schedule):
    """Exponential decay, ``lr * decay ^ (step / steps)``, which never falls below ``floor``.

    Source: Sabour et al. 2017 (arXiv 1710.09829), section 4, "exponentially decaying learning rate". The paper gives no
    constants; the defaults are those of its released code.

    Args:
        optimizer, total_steps: see `Schedule`.
        decay: factor that the learning rate falls by in ``steps`` steps, in (0, 1].
        steps: number of steps in which it falls by ``decay``.
        floor: smallest learning rate.
    """

    def __init__(
        self, optimizer: Optimizer, total_steps: int, *, decay: float = 0.96, steps: int = 2000, floor: float = 1e-6
    ) -> None:
        require(0 < decay <= 1, f"ExponentialDecay: decay={decay}: expected a number in (0, 1]")
        require(steps >= 1, f"ExponentialDecay: steps={steps}: expected at least 1")
        require(floor >= 0, f"ExponentialDecay: floor={floor}: expected a learning rate of 0 or more")
        self.decay, self.steps, self.floor = decay, steps, floor
        super().__init__(optimizer, total_steps)

    @override
    def factor(self, step: int, base_lr: float) -> float:
        lowest = self.floor / base_lr if base_lr > 0 else 0.0
        return max(float(self.decay ** (step / self.steps)), lowest)


class WarmupCosine(Schedule):
    """A linear rise from nearly zero, then a fall along half a cosine that ends one step after the run.

    Source: Loshchilov & Hutter, SGDR, 2017 (arXiv 1608.03983), without restarts; the warm-up is that of Goyal et al.
    2017.

    Args:
        optimizer, total_steps: see `Schedule`.
        warmup: fraction of the run that the rise takes, in [0, 1).
        final: fraction of the learning rate left at the end, in [0, 1].
    """

    def __init__(self, optimizer: Optimizer, total_steps: int, *, warmup: float = 0.05, final: float = 0.0) -> None:
        require(0 <= warmup < 1, f"{type(self).__name__}: warmup={warmup}: expected a fraction in [0, 1)")
        require(0 <= final <= 1, f"{type(self).__name__}: final={final}: expected a fraction in [0, 1]")
        self.warmup, self.final = warmup, final
        super().__init__(optimizer, total_steps)

    @override
    def factor(self, step: int, base_lr: float) -> float:
        rise = self.warmup * self.total_steps
        if step < rise:
            return (step + 1) / (rise + 1)
        fallen = min((step - rise) / max(self.total_steps - rise, 1), 1.0)
        return self.final + (1 - self.final) * (1 + cos(pi * fallen)) / 2


class InverseSquareRoot(Schedule):
    """A linear rise to the learning rate, then a fall with the inverse square root of the step.

    Source: Vaswani et al., Attention Is All You Need, 2017 (arXiv 1706.03762), Eq. 3, whose optimizer has the rate
    ``d ** -0.5 * warmup ** -0.5`` at the peak, 0.0007 for 512 dimensions and 4,000 steps.

    Args:
        optimizer, total_steps: see `Schedule`.
        warmup: steps of the rise, a number or a fraction of the run below 1.
    """

    def __init__(self, optimizer: Optimizer, total_steps: int, *, warmup: float | int = 4000) -> None:
        require(
            warmup > 0 and (not isinstance(warmup, float) or warmup < 1 or warmup.is_integer()),
            f"InverseSquareRoot: warmup={warmup}: expected a number of steps, or a fraction of the run below 1",
        )
        self.warmup = warmup
        super().__init__(optimizer, total_steps)

    @override
    def factor(self, step: int, base_lr: float) -> float:
        rise = max(1.0, self.warmup * self.total_steps if self.warmup < 1 else self.warmup)
        return min((step + 1) / rise, float((rise / (step + 1)) ** 0.5))


class OneCycle(Schedule):
    """A rise from a fraction of the learning rate to all of it, then a fall to nearly zero, both along half cosines.

    Source: Smith & Topin, Super-Convergence, 2018 (arXiv 1708.07120), with the constants of the fastai library.

    Args:
        optimizer, total_steps: see `Schedule`.
        rise: fraction of the run that the rise takes, in (0, 1).
        start: fraction of the learning rate at the first step.
        final: fraction of the learning rate at the last step.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        *,
        rise: float = 0.25,
        start: float = 0.04,
        final: float = 1e-5,
    ) -> None:
        require(0 < rise < 1, f"OneCycle: rise={rise}: expected a fraction in (0, 1)")
        for name, value in (("start", start), ("final", final)):
            require(0 <= value <= 1, f"OneCycle: {name}={value}: expected a fraction of the learning rate in [0, 1]")
        self.rise, self.start, self.final = rise, start, final
        super().__init__(optimizer, total_steps)

    @override
    def factor(self, step: int, base_lr: float) -> float:
        peak = self.rise * self.total_steps
        if step < peak:
            low, fallen = self.start, 1 - step / peak
        else:
            low, fallen = self.final, min((step - peak) / max(self.total_steps - 1 - peak, 1), 1.0)
        return low + (1 - low) * (1 + cos(pi * fallen)) / 2


class StepDecay(Schedule):
    """A learning rate that drops by the same factor at given points of the run and is constant between them.

    This is the usual schedule of residual networks since He et al. 2016 (arXiv 1512.03385), section 4.2. The points are
    fractions of the run, so that the learning rate of a shorter run drops as often as that of a longer one.

    Args:
        optimizer, total_steps: see `Schedule`.
        at: the points, fractions of the run in (0, 1), ascending.
        decay: factor that the learning rate drops by at each of them, in (0, 1].
    """

    def __init__(
        self, optimizer: Optimizer, total_steps: int, *, at: Sequence[float] = (0.5, 0.75), decay: float = 0.1
    ) -> None:
        require(0 < decay <= 1, f"StepDecay: decay={decay}: expected a number in (0, 1]")
        ascending = list(at) == sorted(at) and all(0 < point < 1 for point in at)
        require(ascending, f"StepDecay: at={list(at)}: expected fractions of the run in (0, 1), ascending")
        self.at, self.decay = tuple(at), decay
        super().__init__(optimizer, total_steps)

    @override
    def factor(self, step: int, base_lr: float) -> float:
        return float(self.decay ** sum(step >= round(point * self.total_steps) for point in self.at))
