"""How sure a network may be: scores made into probabilities, and sets of classes that hold the true one.

What is fitted here is fitted on images that the network was not trained on, and holds for images that are drawn as they
were.
"""

from __future__ import annotations

from fractions import Fraction
from math import ceil, exp, log

from torch import Tensor

from capsule_lightning.errors import require

LIMITS = (0.01, 100.0)
"""Lowest and highest temperature that is looked for."""
_LEAST = 1e-12  # lower scores count as this before the logarithm
_HALVINGS = 60  # of the interval of the temperature's logarithm, which then is as short as float64 tells apart


def temperature(scores: Tensor, labels: Tensor) -> float:
    """Return the temperature T for which the scores have the highest likelihood.

    It minimizes the mean of ``-log softmax(log(scores) / T)`` at the labels, in float64. This is convex in 1 / T, and
    where its slope is zero is found by halving an interval: equal input gives equal output.

    Args:
        scores: ``(B, J)`` in [0, 1], rows of which sum to 1; those below 1e-12 count as 1e-12.
        labels: ``(B)``, class indices.

    Returns:
        T in [0.01, 100]: above 1 if the scores are too sure, below 1 if they are not sure enough. It is 0.01 if all are
        right, and 100 if they are worse than chance.

    Raises:
        InputError: the shapes do not fit, or there are no examples.

    Source: Guo, Pleiss, Sun & Weinberger, On Calibration of Modern Neural Networks, ICML 2017 (arXiv 1706.04599),
    section 4.2.

    Example:
        >>> import torch
        >>> scores, labels = torch.tensor([[0.9, 0.1]]).repeat(4, 1), torch.tensor([0, 0, 0, 1])
        >>> round(temperature(scores, labels), 6)  # three of four are right: 9 to 1 is to become 3 to 1
        2.0
        >>> at_temperature(scores[:1], 2.0)
        tensor([[0.7500, 0.2500]], dtype=torch.float64)
    """
    _require_fit("scores", scores, labels)
    logits = _log(scores)
    true = logits.gather(1, labels.unsqueeze(1)).flatten()
    low, high = map(log, LIMITS)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        expected = ((logits / exp(middle)).softmax(dim=1) * logits).sum(dim=1)
        if (true - expected).mean() >= 0:  # the slope of the log-likelihood over 1 / T
            high = middle
        else:
            low = middle
    return exp((low + high) / 2)


def at_temperature(scores: Tensor, temperature: float) -> Tensor:
    """Return ``softmax(log(scores) / T)``, which leaves the order of the classes as it is.

    Args:
        scores: ``(B, J)`` in [0, 1], rows of which sum to 1; those below 1e-12 count as 1e-12.
        temperature: T, above 0; see `temperature`.

    Returns:
        ``(B, J)`` float64, rows of which sum to 1.

    Raises:
        InputError: a temperature of 0 or below.
    """
    require(temperature > 0, f"temperature={temperature}: expected more than 0, such as 1")
    return (_log(scores) / temperature).softmax(dim=1)


def conformal_threshold(scores: Tensor, labels: Tensor, coverage: float) -> float:
    """Return the score from which on a class belongs to the set of an image, so that sets hold the true class.

    This is split conformal prediction with ``1 - score of the true class`` as how odd an example is: of n examples the
    threshold is the ``ceil((n + 1) coverage)``-th highest of their true classes' scores. A new example that is
    exchangeable with these then has its true class in its set with a probability of at least ``coverage``, whatever
    the network, on the mean over all classes; see `coverage_by_class` for single ones.

    Args:
        scores: ``(B, J)`` of examples that the network was not trained on; probabilities, or any other scores.
        labels: ``(B)``, class indices.
        coverage: the probability that is asked for, in (0, 1), such as 0.9.

    Returns:
        The threshold, one of the scores; minus infinity, which puts all classes into every set, if there are fewer than
        ``coverage / (1 - coverage)`` examples.

    Raises:
        InputError: ``coverage`` out of range, the shapes do not fit, or there are no examples.

    Source: Papadopoulos, Proedrou, Vovk & Gammerman, Inductive Confidence Machines for Regression, ECML 2002; the score
    and the quantile as Angelopoulos & Bates, A Gentle Introduction to Conformal Prediction and Distribution-Free
    Uncertainty Quantification, 2021 (arXiv 2107.07511), section 1.1.

    Example:
        >>> import torch
        >>> scores = torch.tensor([[0.8, 0.2], [0.3, 0.7], [0.6, 0.4], [0.9, 0.1]], dtype=torch.float64)
        >>> threshold = conformal_threshold(scores, torch.tensor([0, 1, 1, 0]), coverage=0.8)
        >>> threshold  # ceil(5 * 0.8) = 4: the lowest of the four scores 0.8, 0.7, 0.4, 0.9
        0.4
        >>> conformal_sets(scores, threshold)
        tensor([[ True, False],
                [False,  True],
                [ True,  True],
                [ True, False]])
    """
    require(0 < coverage < 1, f"coverage={coverage}: expected a probability between 0 and 1, such as 0.9")
    _require_fit("scores", scores, labels)
    place = ceil((len(labels) + 1) * Fraction(str(coverage)))  # in floats 100 * 0.07 is above 7
    if place > len(labels):
        return float("-inf")
    true = scores.gather(1, labels.unsqueeze(1)).flatten()
    return true.sort(descending=True).values[place - 1].item()


def conformal_sets(scores: Tensor, threshold: float) -> Tensor:
    """Return which classes belong to the set of each image: those whose scores reach the threshold.

    Args:
        scores: ``(B, J)``, of the same kind and dtype as those of `conformal_threshold`.
        threshold: see `conformal_threshold`.

    Returns:
        ``(B, J)`` bool. A set is large where the network is unsure, and can be empty where all scores are low.
    """
    return scores >= threshold


def coverage_by_class(sets: Tensor, labels: Tensor) -> Tensor:
    """Return of each class the share of its images whose set holds it.

    `conformal_threshold` promises the coverage of all images together: a rare class may have less.

    Args:
        sets: ``(B, J)`` bool, see `conformal_sets`.
        labels: ``(B)``, class indices.

    Returns:
        ``(J)`` float64 in [0, 1]; NaN for a class without images.

    Raises:
        InputError: the shapes do not fit, or there are no examples.

    Source: Vovk, Conditional Validity of Inductive Conformal Predictors, ACML 2012 (arXiv 1209.2673), which calls this
    label conditional validity.

    Example:
        >>> import torch
        >>> coverage_by_class(torch.tensor([[True, False], [True, True], [True, False]]), torch.tensor([0, 1, 1]))
        tensor([1.0000, 0.5000], dtype=torch.float64)
    """
    _require_fit("sets", sets, labels)
    held = labels[sets.gather(1, labels.unsqueeze(1)).flatten()]
    return held.bincount(minlength=sets.shape[1]).double() / labels.bincount(minlength=sets.shape[1])


def _log(scores: Tensor) -> Tensor:
    return scores.double().clamp_min(_LEAST).log()


def _require_fit(name: str, scores: Tensor, labels: Tensor) -> None:
    require(
        scores.ndim == 2 and labels.shape == scores.shape[:1] and len(labels) > 0,
        f"{name} of shape {tuple(scores.shape)} and labels of shape {tuple(labels.shape)}: expected (B, J) and (B), of "
        "at least one example",
    )
