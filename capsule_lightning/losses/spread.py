"""Spread loss, by which the activation of the target class leads all others by a margin that grows in training.

Hinton, Sabour & Frosst, Matrix Capsules with EM Routing, ICLR 2018, Eq. 3.
"""

from __future__ import annotations

from math import exp
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from capsule_lightning.capsules import Capsules
from capsule_lightning.errors import InputError, require, require_one_of
from capsule_lightning.layers.precision import full_precision
from capsule_lightning.layers.variant import Variant, require_variant
from capsule_lightning.losses.base import ClassificationLoss, weighted

MarginSchedule = Literal["linear", "official"]


@full_precision
def spread_loss(
    activations: Tensor,
    targets: Tensor,
    margin: Tensor | float,
    mode: Variant = "paper",
    class_weights: Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Return ``L = sum of max(0, m - (a_t - a_j))^2`` over the classes j other than the target t.

    Args:
        activations: ``(B, J)``, of the class capsules, in [0, 1].
        targets: class indices ``(B)``.
        margin: m, in [0, 1]; a number or a tensor without dimensions.
        mode: ``paper`` sums over classes; ``official`` takes the mean over all J classes, as the released code does.
        class_weights: ``(J)``, see `weighted`.
        weights: ``(B)``, see `weighted`.

    Returns:
        Scalar, the mean over the batch.

    Raises:
        InputError: the targets are not one class index for each image, or ``mode`` is unknown.

    Source: Hinton et al. 2018, Eq. 3.

    Example:
        >>> spread_loss(torch.zeros(1, 5), torch.tensor([3]), 0.5)
        tensor(1.)
    """
    require_variant(mode)
    if targets.shape != activations.shape[:-1]:
        raise InputError(
            f"targets of shape {tuple(targets.shape)}: the spread loss expects one class index for each image, "
            f"{tuple(activations.shape[:-1])}; use MarginLoss for several classes"
        )
    target = targets.unsqueeze(-1)
    losses = F.relu(margin - (activations.gather(-1, target) - activations)).square()  # (B, J)
    losses = weighted(losses.scatter(-1, target, 0.0), targets, class_weights, weights)
    return losses.sum(dim=-1).mean() if mode == "paper" else losses.mean()


def linear_margin(step: int, steps: float, start: float, end: float) -> float:
    """Return a margin that rises from ``start`` at step 0 to ``end`` at ``steps``; ``start`` if ``steps`` is infinite.

    Example:
        >>> [round(linear_margin(step, 10, 0.2, 0.9), 2) for step in (0, 5, 10, 20)]
        [0.2, 0.55, 0.9, 0.9]
    """
    return start + (end - start) * min(step / steps, 1.0)


def official_margin(step: int) -> float:
    """Return ``0.2 + 0.79 sigmoid(min(10, step / 50000 - 4))``, the margin of the authors' released code.

    It starts at 0.214, passes 0.595 after 200,000 steps and ends at 0.99.
    """
    return 0.2 + 0.79 / (1 + exp(-min(10.0, step / 50_000 - 4)))


class SpreadLoss(ClassificationLoss):
    """Spread loss of the activations, with the margin of the current training step.

    The paper raises the margin from 0.2 to 0.9 and does not state how fast; here it rises in a straight line over the
    run. The margin is kept in checkpoints, so that a network is evaluated with the margin that it was trained with.

    Args:
        mode: see `spread_loss`.
        schedule: ``linear``, or ``official`` for `official_margin`, which has no settings.
        margin_start: margin of the first step in the linear schedule, at least 0.
        margin_end: margin of the last step in the linear schedule, at least ``margin_start``.
        steps: steps until ``margin_end`` in the linear schedule; null for the whole run. A run without an end
            (``max_epochs: -1`` or ``max_time`` alone) keeps ``margin_start`` unless this is given.
        class_weights: a number above 0 for each class, ``balanced``, or null; see `ClassificationLoss.balance` and
            `weighted`.

    Raises:
        InputError: ``mode`` or ``schedule`` is unknown, the margins are out of order, ``steps`` is below 1, or
            weights are not above 0.
    """

    of_one_class = True
    margin: Tensor

    def __init__(
        self,
        *,
        mode: Variant = "paper",
        schedule: MarginSchedule = "linear",
        margin_start: float = 0.2,
        margin_end: float = 0.9,
        steps: int | None = None,
        class_weights: list[float] | Literal["balanced"] | None = None,
    ) -> None:
        super().__init__()
        require_variant(mode, "SpreadLoss")
        require_one_of("SpreadLoss: schedule", schedule, get_args(MarginSchedule))
        require(
            0 <= margin_start <= margin_end,
            f"SpreadLoss: margin_start={margin_start}, margin_end={margin_end}: expected 0 <= start <= end",
        )
        require(
            steps is None or steps >= 1, f"SpreadLoss: steps={steps}: expected at least 1, or null for the whole run"
        )
        self.mode: Variant = mode
        self.schedule: MarginSchedule = schedule
        self.margin_start, self.margin_end, self.steps = margin_start, margin_end, steps
        self.register_buffer("margin", torch.zeros(()))
        self.at(0, 1)
        self.weigh(class_weights)

    @override
    def at(self, step: int, total_steps: float) -> None:
        """Set the margin of a training step."""
        if self.schedule == "official":
            margin = official_margin(step)
        else:
            steps = max(total_steps - 1, 1) if self.steps is None else self.steps
            margin = linear_margin(step, steps, self.margin_start, self.margin_end)
        self.margin.fill_(margin)  # sends a number to the device without waiting for it

    @override
    def forward(self, capsules: Capsules, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the mean over the batch; targets are class indices."""
        return spread_loss(capsules.activations, targets, self.margin, self.mode, self.class_weights, weights)
