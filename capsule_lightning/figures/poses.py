"""Poses of class capsules in the plane: principal components, and t-SNE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from torch import Tensor


class Plane(NamedTuple):
    """Points in the plane.

    Attributes:
        points: ``(N, 2)``.
        axes: what the two axes are.
    """

    points: np.ndarray
    axes: tuple[str, str]


def principal_components(poses: Tensor) -> Plane:
    """Poses ``(N, E)``, N and E at least 2, along the two directions in which they differ most."""
    from sklearn.decomposition import PCA

    pca = PCA(n_components=2, svd_solver="full")
    points = pca.fit_transform(poses.detach().double().cpu().numpy())
    first, second = (f"{100 * share:.0f} %" for share in pca.explained_variance_ratio_)
    return Plane(points, (f"first component ({first})", f"second component ({second})"))


def tsne(poses: Tensor, perplexity: float = 30.0, seed: int = 0) -> Plane:
    """Poses ``(N, E)``, N and E at least 2, so that neighbours stay neighbours; distances between groups mean nothing.

    Args:
        poses: ``(N, E)``.
        perplexity: about how many neighbours count; well below the poses of a class, or each class is one dot. A third
            of N where that is less.
        seed: of the method.

    Source: van der Maaten & Hinton, Visualizing Data using t-SNE, 2008.
    """
    from sklearn.manifold import TSNE

    method = TSNE(perplexity=min(perplexity, (len(poses) - 1) / 3), init="pca", random_state=seed)
    return Plane(method.fit_transform(poses.detach().double().cpu().numpy()), ("", ""))


def pose_figure(planes: Sequence[tuple[str, Plane]], labels: Tensor, class_names: Sequence[str], title: str) -> Figure:
    """Draw points coloured by class, the name of each class above the median of its points.

    Args:
        planes: a heading and the points of each panel.
        labels: ``(N)`` int64, of the points.
        class_names: the J names.
        title: of the figure.

    Returns:
        The figure, an axes for each plane, in it one collection of points for each class that has any.
    """
    figure = Figure(figsize=(5.0 * len(planes), 5.0), layout="constrained")
    figure.suptitle(title, fontsize=12)
    found = sorted(set(labels.tolist()))
    palette = colormaps["tab10" if len(class_names) <= 10 else "turbo"]
    for axis, (heading, plane) in zip(figure.subplots(1, len(planes), squeeze=False)[0], planes, strict=True):
        for j in found:
            points = plane.points[(labels == j).cpu().numpy()]
            colour = palette(j if len(class_names) <= 10 else j / (len(class_names) - 1))
            axis.scatter(*points.T, s=12, color=colour, alpha=0.7, linewidths=0)
        for j in found:
            x, y = np.median(plane.points[(labels == j).cpu().numpy()], axis=0)
            box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.75}
            beside = {"xytext": (0, 9), "textcoords": "offset points", "ha": "center", "va": "bottom"}
            axis.annotate(class_names[j], (x, y), fontsize=10, fontweight="bold", bbox=box, **beside)
        axis.margins(0.08)
        axis.set(title=heading, xlabel=plane.axes[0], ylabel=plane.axes[1], xticks=[], yticks=[])
    return figure
