"""Poses of class capsules in the plane, by principal components and by t-SNE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from torch import Tensor

from capsule_lightning.figures.plain_text import PlainTextFigure
from capsule_lightning.figures.tiles import as_array

APART = 0.7
"""Least distance between pictures in the plane, in pictures; their edges are mostly empty."""


class Plane(NamedTuple):
    """Points in the plane.

    Attributes:
        points: ``(N, 2)``.
        axes: labels of the two axes.
    """

    points: np.ndarray
    axes: tuple[str, str]


def principal_components(poses: Tensor) -> Plane:
    """Project poses ``(N, E)``, N and E at least 2, onto the two directions in which they differ most."""
    from sklearn.decomposition import PCA

    pca = PCA(n_components=2, svd_solver="full")
    points = pca.fit_transform(poses.detach().double().cpu().numpy())
    first, second = (f"{100 * share:.0f} %" for share in pca.explained_variance_ratio_)
    return Plane(points, (f"first component ({first})", f"second component ({second})"))


def tsne(poses: Tensor, perplexity: float = 30.0, seed: int = 0) -> Plane:
    """Lay out poses so that neighbors stay neighbors; distances between groups mean nothing.

    Args:
        poses: ``(N, E)``, N and E at least 2.
        perplexity: roughly how many neighbors count. It should be well below the number of poses of a class, or each
            class becomes one dot. A third of N - 1 is used if that is less.
        seed: seed of the method.

    Source: van der Maaten & Hinton, Visualizing Data using t-SNE, 2008.
    """
    from sklearn.manifold import TSNE

    method = TSNE(perplexity=min(perplexity, (len(poses) - 1) / 3), init="pca", random_state=seed)
    return Plane(method.fit_transform(poses.detach().double().cpu().numpy()), ("", ""))


def pose_figure(planes: Sequence[tuple[str, Plane]], labels: Tensor, class_names: Sequence[str], title: str) -> Figure:
    """Draw points colored by class, with the name of each class above the median of its points.

    Args:
        planes: heading and points of each panel.
        labels: ``(N)`` int64, classes of the points.
        class_names: the J names.
        title: title of the figure.

    Returns:
        The figure, with axes for each plane that hold one collection of points for each class that has any.
    """
    figure = PlainTextFigure(figsize=(5.0 * len(planes), 5.0), layout="constrained")
    figure.suptitle(title, fontsize=13)
    present = sorted(set(labels.tolist()))
    palette = colormaps["tab10" if len(class_names) <= 10 else "turbo"]
    for axis, (heading, plane) in zip(figure.subplots(1, len(planes), squeeze=False)[0], planes, strict=True):
        for j in present:
            points = plane.points[(labels == j).cpu().numpy()]
            color = palette(j if len(class_names) <= 10 else j / (len(class_names) - 1))
            axis.scatter(*points.T, s=12, color=color, alpha=0.7, linewidths=0)
        for j in present:
            x, y = np.median(plane.points[(labels == j).cpu().numpy()], axis=0)
            box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.75}
            beside = {"xytext": (0, 9), "textcoords": "offset points", "ha": "center", "va": "bottom"}
            axis.annotate(class_names[j], (x, y), fontsize=13, fontweight="bold", bbox=box, **beside)
        axis.margins(0.08)
        axis.set(title=heading, xlabel=plane.axes[0], ylabel=plane.axes[1], xticks=[], yticks=[])
    return figure


def picture_plane_figure(plane: Plane, pictures: Tensor, title: str, side: float = 0.4) -> Figure:
    """Draw each picture at the place of its pose, so that one sees what neighbors have in common.

    Gray pictures are drawn as ink on white. A picture that would cover one drawn before it is left out.

    Args:
        plane: the N points.
        pictures: ``(N, C, H, W)`` in [0, 1]; gray ones bright on a dark background.
        title: title of the figure.
        side: width of a picture in inches, at most 2.

    Returns:
        The figure, with axes that hold a picture for each point that has room.
    """
    size, width, height = (9.0, 6.0), 8.4, 5.1  # inches of the figure, and of the plane in it
    figure = PlainTextFigure(figsize=size)
    axis = figure.add_axes((0.45 / size[0], 0.45 / size[1], width / size[0], height / size[1]))
    axis.set_title(title, fontsize=13)
    share = np.array([side / width, side * pictures.shape[-2] / pictures.shape[-1] / height])
    margin = share / 2 / (1 - share)  # so that half a picture has room beyond the outermost points
    room = share * (1 + 2 * margin)
    low, high = plane.points.min(axis=0), plane.points.max(axis=0)
    drawn: list[np.ndarray] = []
    for point, picture in zip((plane.points - low) / np.maximum(high - low, 1e-12), pictures, strict=True):
        if any((np.abs(point - other) < APART * room).all() for other in drawn):
            continue
        drawn.append(point)
        image = OffsetImage(_ink(as_array(picture)), zoom=72 * side / pictures.shape[-1])
        axis.add_artist(AnnotationBbox(image, point, frameon=False, pad=0))
    axis.set(xlim=(-margin[0], 1 + margin[0]), ylim=(-margin[1], 1 + margin[1]), xticks=[], yticks=[])
    axis.set_xlabel(plane.axes[0], fontsize=11)
    axis.set_ylabel(plane.axes[1], fontsize=11)
    return figure


def _ink(picture: np.ndarray) -> np.ndarray:
    """Turn a gray picture ``(H, W)`` into black that is opaque where it was bright; return one in color as it is."""
    if picture.ndim == 3:
        return picture
    ink = np.zeros((*picture.shape, 4))
    ink[..., 3] = picture
    return ink
