"""The confusion matrix as a figure."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from torch import Tensor

from capsule_lightning.figures.plain_text import PlainTextFigure


def confusion_figure(matrix: Tensor, class_names: Sequence[str], title: str) -> Figure:
    """Draw counts of true classes (rows) and predicted ones (columns), shaded by their share of the row.

    Args:
        matrix: ``(J, J)`` counts.
        class_names: the J names.
        title: title of the figure.

    Returns:
        The figure; counts are written into the cells if there are at most 20 classes.
    """
    count = len(class_names)
    size = min(max(0.55 * count, 4.5), 18)
    figure = PlainTextFigure(figsize=(size + 1.2, size + 0.6), layout="constrained")
    axis = figure.subplots()
    share = matrix.float() / matrix.sum(dim=1, keepdim=True).clamp_min(1)
    image = axis.imshow(share.cpu().numpy(), cmap="Blues", vmin=0, vmax=1)
    axis.set(title=title, xlabel="predicted", ylabel="true")
    font = 9 if count <= 20 else 5
    axis.set_xticks(range(count), class_names, rotation=90 if max(map(len, class_names)) > 2 else 0, fontsize=font)
    axis.set_yticks(range(count), class_names, fontsize=font)
    if count <= 20:
        for row in range(count):
            for column in range(count):
                number = int(matrix[row, column])
                if number:
                    color = "white" if share[row, column] > 0.5 else "black"
                    axis.text(column, row, str(number), ha="center", va="center", fontsize=8, color=color)
    figure.colorbar(image, label="share of the true class", shrink=0.8)
    return figure
