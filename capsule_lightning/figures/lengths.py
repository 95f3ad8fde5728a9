"""How long class capsules are for each class, and which of them are never used."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from capsule_lightning.figures.plain_text import PlainTextFigure
from capsule_lightning.figures.reconstructions import WRONG

DEAD = 0.1
"""The length that the margin loss allows a capsule of an absent class (Sabour et al. 2017, Eq. 4)."""


def mean_lengths(activations: Tensor, labels: Tensor) -> Tensor:
    """Return the mean length of each capsule over the images of each class.

    Args:
        activations: ``(N, J)`` in [0, 1].
        labels: ``(N)`` int64 in [0, J).

    Returns:
        ``(J, J)`` float64, whose rows are the true classes; the row of a class without images is NaN.
    """
    count = activations.shape[1]
    sums = torch.zeros(count, count, dtype=torch.float64).index_add_(0, labels, activations.double())
    return sums / labels.bincount(minlength=count).unsqueeze(1)


def dead_capsules(activations: Tensor, threshold: float = DEAD) -> Tensor:
    """Return for ``(N, J)`` lengths, N at least 1, which capsules exceed ``threshold`` for no image: ``(J)`` bool."""
    return activations.amax(dim=0) <= threshold


def length_figure(
    activations: Tensor, labels: Tensor, class_names: Sequence[str], title: str, threshold: float = DEAD
) -> Figure:
    """Draw the mean length of each capsule for each true class, and its greatest length, dead capsules in red.

    Args:
        activations: ``(N, J)`` in [0, 1], N at least 1.
        labels: ``(N)`` int64.
        class_names: the J names.
        title: title of the figure.
        threshold: see `dead_capsules`.

    Returns:
        The figure; its first axes hold the means, its second the bars.
    """
    count = len(class_names)
    size = min(max(0.42 * count, 3.8), 12)
    figure = PlainTextFigure(figsize=(1.75 * size + 1.6, size + 0.9), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.08)  # type: ignore[union-attr, call-arg]
    figure.suptitle(title, fontsize=12)
    means, bars = figure.subplots(1, 2, width_ratios=(1.25, 1))
    image = means.imshow(mean_lengths(activations.cpu(), labels.cpu()).numpy(), cmap="Blues", vmin=0, vmax=1)
    means.set(xlabel="capsule", ylabel="true class", title="mean length")
    font = 9 if count <= 20 else 5
    rotation = 90 if max(map(len, class_names)) > 2 else 0
    means.set_xticks(range(count), class_names, fontsize=font, rotation=rotation)
    means.set_yticks(range(count), class_names, fontsize=font)
    figure.colorbar(image, ax=means, shrink=0.8)
    greatest, dead = activations.amax(dim=0).tolist(), dead_capsules(activations, threshold).tolist()
    bars.barh(range(count), greatest, color=[WRONG if d else "#4292c6" for d in dead])
    bars.axvline(threshold, color="black", linewidth=1, linestyle=":")
    bars.set(xlim=(0, 1), ylim=(count - 0.5, -0.5), xlabel="length", title=f"greatest length ({sum(dead)} dead)")
    bars.set_yticks(range(count), class_names, fontsize=font)
    return figure
