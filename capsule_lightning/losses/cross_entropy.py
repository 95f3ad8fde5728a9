"""Cross-entropy over the classes, of logits, lengths or activations, and for each class by itself."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from capsule_lightning.capsules import Capsules
from capsule_lightning.errors import InputError, require, require_one_of
from capsule_lightning.layers.precision import full_precision
from capsule_lightning.losses.base import ClassificationLoss, multi_hot, normalized_lengths, weighted, widest

Scores = Literal["logits", "lengths", "activations", "log_odds", "pose_lengths"]

_LEAST = 1e-30  # lower activations count as this before the logarithm; gradients of up to 1e30 fit into float32


@full_precision
def logit_cross_entropy(
    logits: Tensor,
    targets: Tensor,
    class_weights: Tensor | None = None,
    weights: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Return the softmax cross-entropy of logits and labels.

    Args:
        logits: ``(B, J)``.
        targets: class indices ``(B)``.
        class_weights: ``(J)``, see `weighted`.
        weights: ``(B)``, see `weighted`.
        label_smoothing: e in [0, 1): the target of the labeled class is ``1 - e + e / J`` and that of each other
            ``e / J`` (Szegedy, Vanhoucke, Ioffe, Shlens & Wojna, Rethinking the Inception Architecture, CVPR 2016,
            arXiv 1512.00567, section 7).

    Returns:
        Scalar, the mean over the batch.
    """
    return _cross_entropy(logits, targets, class_weights, weights, label_smoothing)


@full_precision
def length_cross_entropy(
    lengths: Tensor,
    targets: Tensor,
    scale: float = 1.0,
    class_weights: Tensor | None = None,
    weights: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Return the softmax cross-entropy of ``scale`` times ``lengths (B, J)`` and class indices ``(B)``.

    Each image counts by ``class_weights (J)`` and ``weights (B)``, if any, see `weighted`; ``label_smoothing`` is that
    of `logit_cross_entropy`.

    As lengths are at most 1, the loss without weights is at least ``log(1 + (J - 1) exp(-scale))``: 1.46 for 10 classes
    and scale 1.

    Returns:
        Scalar, the mean over the batch.

    Source: de Sousa Ribeiro, Leontidis & Kollias, Capsule Routing via Variational Bayes, AAAI 2020 (arXiv 1905.11455),
    who train this way on the activations of their class capsules.
    """
    return _cross_entropy(scale * lengths, targets, class_weights, weights, label_smoothing)


@full_precision
def activation_cross_entropy(
    activations: Tensor,
    targets: Tensor,
    class_weights: Tensor | None = None,
    weights: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Return ``-log(a_t / sum of a_k)``, the negative log-likelihood if activations are taken as probabilities.

    Args:
        activations: ``(B, J)``, at least 0; those below 1e-30 count as 1e-30 and have no gradient.
        targets: class indices ``(B)``.
        class_weights: ``(J)``, see `weighted`.
        weights: ``(B)``, see `weighted`.
        label_smoothing: see `logit_cross_entropy`.

    Returns:
        Scalar, the mean over the batch.

    Source: Hahn, Pyeon & Kim, Self-Routing Capsule Networks, NeurIPS 2019, whose activations sum to 1.
    """
    return _cross_entropy(activations.clamp_min(_LEAST).log(), targets, class_weights, weights, label_smoothing)


@full_precision
def log_odds_cross_entropy(
    activations: Tensor,
    targets: Tensor,
    class_weights: Tensor | None = None,
    weights: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Return the softmax cross-entropy of the log-odds ``log(a / (1 - a))``.

    If the activations are sigmoids of scores, it is the cross-entropy of the scores. A sigmoid in float32 gives its
    score back to within 0.01 for scores of up to 12; beyond 17 it is 1, and the score is lost.

    Args:
        activations: ``(B, J)`` in [0, 1]; those below 1e-30 count as 1e-30, and 1 counts as the largest number below 1,
            which in float32 is 6e-8 less.
        targets: class indices ``(B)``.
        class_weights: ``(J)``, see `weighted`.
        weights: ``(B)``, see `weighted`.
        label_smoothing: see `logit_cross_entropy`.

    Returns:
        Scalar, the mean over the batch.
    """
    absent = (1 - activations).clamp_min(torch.finfo(activations.dtype).eps / 2)
    odds = activations.clamp_min(_LEAST).log() - absent.log()
    return _cross_entropy(odds, targets, class_weights, weights, label_smoothing)


def _cross_entropy(
    logits: Tensor, targets: Tensor, class_weights: Tensor | None, weights: Tensor | None, label_smoothing: float
) -> Tensor:
    """Return the mean cross-entropy of ``logits (B, J)``; without weights torch's own mean, which is faster."""
    if class_weights is None and weights is None:
        return F.cross_entropy(logits, targets, label_smoothing=label_smoothing)
    each = F.cross_entropy(logits, targets, reduction="none", label_smoothing=label_smoothing)
    return weighted(each, targets, class_weights, weights).mean()


def softmax_of_lengths(lengths: Tensor, scale: float = 1.0) -> Tensor:
    """Return the probabilities of `length_cross_entropy`, the softmax of ``scale`` times ``lengths (B, J)``.

    As lengths are at most 1, none is above ``1 / (1 + (J - 1) exp(-scale))``: 0.23 for 10 classes and scale 1.

    Returns:
        ``(B, J)``, rows of which sum to 1; float64 where the device has it.
    """
    return (scale * widest(lengths)).softmax(dim=-1)


def normalized_odds(activations: Tensor) -> Tensor:
    """Return the probabilities of `log_odds_cross_entropy`, the odds ``a / (1 - a)`` divided by their sum.

    Args:
        activations: ``(B, J)`` in [0, 1]; 1 counts as the largest number below 1 of their dtype.

    Returns:
        ``(B, J)``, rows of which sum to 1; float64 where the device has it. All are ``1 / J`` where all activations are
        0.

    Example:
        >>> normalized_odds(torch.tensor([[0.75, 0.5]]))
        tensor([[0.7500, 0.2500]], dtype=torch.float64)
    """
    sure = widest(activations)
    return normalized_lengths(sure / (1 - sure).clamp_min(torch.finfo(activations.dtype).eps / 2))


@full_precision
def binary_cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return ``-T_k log s(z_k) - (1 - T_k) log(1 - s(z_k))``, s the sigmoid, summed over classes.

    Args:
        logits: ``(B, J)``, z.
        targets: class indices ``(B)``, or multi-hot ``(B, J)`` if several classes may be present; T.
        weights: ``(B)``, see `weighted`.

    Returns:
        Scalar, the mean over the batch.

    Raises:
        InputError: the targets have neither form.
    """
    present = multi_hot(targets, logits)
    losses = F.binary_cross_entropy_with_logits(logits, present, reduction="none").sum(dim=-1)
    return weighted(losses, targets, weights=weights).mean()


class CrossEntropyLoss(ClassificationLoss):
    """Softmax cross-entropy with class indices ``(B)``.

    Args:
        of: what is compared with the labels.

            ``logits``: one-dimensional poses, such as those of `BaselineCNN`.
            ``lengths``: the activations, times ``scale``, as if they were logits; see `length_cross_entropy`.
            ``activations``: the activations as probabilities; see `activation_cross_entropy`.
            ``log_odds``: the scores whose sigmoids the activations are; see `log_odds_cross_entropy`.
            ``pose_lengths``: the lengths of the poses as if they were logits, for networks whose activations are their
            softmax, such as `CapProNet`.
        scale: factor on the lengths, above 0; 1 for the others.
        class_weights: a number above 0 for each class, ``balanced``, or null; see `ClassificationLoss.balance` and
            `weighted`.
        label_smoothing: share of each label that is spread over all classes alike, in [0, 1); 0 for none. Szegedy et
            al. (2016) take 0.1.

    Raises:
        InputError: ``of`` is unknown, ``scale`` is not above 0 or is not used, ``label_smoothing`` is out of range, or
            weights are not above 0.
    """

    of_one_class = True

    def __init__(
        self,
        *,
        of: Scores = "logits",
        scale: float = 1.0,
        class_weights: list[float] | Literal["balanced"] | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        require_one_of("CrossEntropyLoss: of", of, get_args(Scores))
        require(scale > 0, f"CrossEntropyLoss: scale={scale}: expected more than 0")
        used = of == "lengths" or scale == 1
        require(used, f"CrossEntropyLoss: scale={scale}, of={of}: only lengths are scaled; leave scale at 1")
        require(
            0 <= label_smoothing < 1,
            f"CrossEntropyLoss: label_smoothing={label_smoothing}: expected 0 to less than 1",
        )
        self.of: Scores = of
        self.scale, self.label_smoothing = scale, label_smoothing
        self.weigh(class_weights)

    @override
    def forward(self, capsules: Capsules, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the mean over the batch.

        Raises:
            InputError: the targets are multi-hot, or ``of`` is ``logits`` and poses have more than one dimension.
        """
        if targets.ndim != 1:
            raise InputError(
                f"targets of shape {tuple(targets.shape)}: CrossEntropyLoss expects one class index for each image; "
                "use MarginLoss or BinaryCrossEntropyLoss for several classes"
            )
        lengths, more = capsules.activations, (self.class_weights, weights, self.label_smoothing)
        if self.of == "lengths":
            return length_cross_entropy(lengths, targets, self.scale, *more)
        if self.of == "activations":
            return activation_cross_entropy(lengths, targets, *more)
        if self.of == "log_odds":
            return log_odds_cross_entropy(lengths, targets, *more)
        if self.of == "pose_lengths":
            return logit_cross_entropy(Capsules.from_vectors(capsules.poses).activations, targets, *more)
        remedy = "use MarginLoss, or CrossEntropyLoss with of=lengths, for vector capsules"
        return logit_cross_entropy(_logits(capsules, "CrossEntropyLoss", remedy), targets, *more)

    @override
    def probabilities(self, activations: Tensor) -> Tensor:
        """Return the probabilities whose likelihood is the loss; networks of logits have them as activations."""
        if self.of == "lengths":
            return softmax_of_lengths(activations, self.scale)
        if self.of == "log_odds":
            return normalized_odds(activations)
        return super().probabilities(activations)


class BinaryCrossEntropyLoss(ClassificationLoss):
    """Sigmoid cross-entropy of one-dimensional poses, for images of several classes; see `binary_cross_entropy`.

    Source: Sabour, Frosst & Hinton 2017 (arXiv 1710.09829), section 6, for the baseline on MultiMNIST.
    """

    @override
    def forward(self, capsules: Capsules, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the mean over the batch.

        Raises:
            InputError: poses have more than one dimension, or targets are neither class indices nor multi-hot.
        """
        remedy = "use MarginLoss for vector capsules"
        return binary_cross_entropy(_logits(capsules, "BinaryCrossEntropyLoss", remedy), targets, weights)

    @override
    def presence(self, capsules: Capsules) -> Tensor:
        return torch.sigmoid(_logits(capsules, "BinaryCrossEntropyLoss", "use MarginLoss for vector capsules"))


def _logits(capsules: Capsules, loss: str, remedy: str) -> Tensor:
    """Return one-dimensional poses as ``(B, J)``."""
    if capsules.poses.shape[-1] != 1:
        raise InputError(
            f"poses of {capsules.poses.shape[-1]} dimensions are not logits: {loss} is for networks with one logit for "
            f"each class, such as BaselineCNN; {remedy}"
        )
    return capsules.poses.squeeze(-1)
