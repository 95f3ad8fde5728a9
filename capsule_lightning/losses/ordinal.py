"""A loss for classes that are grades: what is far off costs more than what is next to it."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from typing_extensions import override

from capsule_lightning.capsules import Capsules
from capsule_lightning.errors import require
from capsule_lightning.layers.precision import full_precision
from capsule_lightning.losses.base import ClassificationLoss, weighted

_LEAST = 1e-30  # lower sums of activations count as this before the logarithm, as in `activation_cross_entropy`


@full_precision
def cumulative_cross_entropy(
    activations: Tensor,
    targets: Tensor,
    class_weights: Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Return the cross-entropies of the J - 1 questions "is the grade above k?", summed over k.

    ``- sum over k of [y > k] log P(y > k) + [y <= k] log P(y <= k)``, where P is the sum of the activations of the
    grades above k, or up to k, divided by the sum of all.

    Args:
        activations: ``(B, J)``, at least 0; sums below 1e-30 count as 1e-30 and have no gradient.
        targets: class indices ``(B)``, the grades.
        class_weights: ``(J)``, see `weighted`.
        weights: ``(B)``, of the examples, see `weighted`.

    Returns:
        Scalar, the mean over the batch.

    Source: Cao, Mirjalili & Raschka 2020 (arXiv 1901.07884), Eq. 4, with all importances 1; they take P of thresholds
    on a score, see `OrderedThresholds`, and ours are sums of the classes' probabilities, which of such thresholds are
    the same.

    Example:
        >>> sure = torch.tensor([[0.8, 0.1, 0.1]])
        >>> [round(float(cumulative_cross_entropy(sure, torch.tensor([grade]))), 3) for grade in range(3)]
        [0.329, 1.715, 3.912]
    """
    total = activations.sum(dim=1, keepdim=True).clamp_min(_LEAST).log()
    up_to = activations[:, :-1].cumsum(dim=1)
    above = activations[:, 1:].flip(1).cumsum(dim=1).flip(1)
    asked = torch.arange(activations.shape[1] - 1, device=targets.device)
    true = torch.where(targets.unsqueeze(1) > asked, above, up_to)
    return weighted((total - true.clamp_min(_LEAST).log()).sum(dim=1), targets, class_weights, weights).mean()


class OrdinalLoss(ClassificationLoss):
    """Cross-entropy of being above each grade, for classes that are grades in their order.

    It takes the activations, divided by their sum, as probabilities: of `FeatureNet` with ``ordinal``, whose
    probabilities come of J - 1 thresholds, or the lengths of class capsules. See `cumulative_cross_entropy`.

    Args:
        class_weights: a number above 0 for each class, ``balanced``, or null; see `ClassificationLoss.balance` and
            `weighted`.

    Raises:
        InputError: weights are not above 0.
    """

    of_one_class = True

    def __init__(self, *, class_weights: list[float] | Literal["balanced"] | None = None) -> None:
        super().__init__()
        self.weigh(class_weights)

    @override
    def forward(self, capsules: Capsules, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the mean over the batch.

        Raises:
            InputError: the targets are multi-hot.
        """
        require(
            targets.ndim == 1,
            f"targets of shape {tuple(targets.shape)}: OrdinalLoss expects one grade for each image; use MarginLoss "
            "for several classes",
        )
        return cumulative_cross_entropy(capsules.activations, targets, self.class_weights, weights)
