"""How well each dimension of a capsule predicts the transformation of an image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from capsule_lightning.figures.plain_text import PlainTextFigure

MOST = 32
"""Largest number of dimensions that are drawn."""


def probe_figure(single: Tensor, whole: Tensor, parameters: Sequence[str], title: str) -> Figure:
    """Draw R2 as a heat map of dimensions by parameters, with the whole pose in a row of its own below.

    Of more than 32 dimensions, those that predict some parameter best are drawn.

    Args:
        single: ``(E, P)``, R2 of each dimension alone, at most 1.
        whole: ``(P)``, R2 of all dimensions together.
        parameters: the P names.
        title: title of the figure.

    Returns:
        The figure; its first axes hold the dimensions, its second the whole pose. R2 is written into each cell.
    """
    drawn = single.amax(dim=1).topk(min(MOST, len(single))).indices.sort().values
    figure = PlainTextFigure(figsize=(0.85 * len(parameters) + 2.6, 0.3 * len(drawn) + 1.9), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.08)  # type: ignore[union-attr, call-arg]
    figure.suptitle(title, fontsize=12)
    above, below = figure.subplots(2, 1, height_ratios=(len(drawn), 1))
    for axis, values in ((above, single[drawn]), (below, whole.unsqueeze(0))):
        image = axis.imshow(values.clamp(0, 1).numpy(), cmap="viridis", vmin=0, vmax=1, aspect="auto")
        for row, column in torch.cartesian_prod(*map(torch.arange, values.shape)).tolist():
            value = float(values[row, column])
            color = "black" if value > 0.6 else "white"
            text = f"{value:.2f}".replace("-0.00", "0.00")
            axis.text(column, row, text, ha="center", va="center", fontsize=8, color=color)
        axis.tick_params(length=0)
    above.set_xticks([])
    above.set_yticks(range(len(drawn)), [str(n + 1) for n in drawn.tolist()], fontsize=9)
    above.set_ylabel("dimension")
    below.set_yticks([0], ["all"], fontsize=9)
    below.set_xticks(range(len(parameters)), parameters, fontsize=9)
    figure.colorbar(image, ax=[above, below], label="R2 of the held-out images", shrink=0.8)
    return figure
