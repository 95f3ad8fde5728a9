"""Poses in the plane."""

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.offsetbox import AnnotationBbox

from capsule_lightning.figures.poses import Plane, picture_plane_figure, pose_figure, principal_components, tsne


def test_principal_components_are_those_of_the_covariance():
    poses = torch.randn(40, 5, dtype=torch.float64) * torch.tensor([3.0, 1.0, 0.2, 0.1, 0.1])
    plane = principal_components(poses)
    centered = (poses - poses.mean(dim=0)).numpy()
    values, vectors = np.linalg.eigh(centered.T @ centered)
    for n in range(2):
        expected = centered @ vectors[:, -1 - n]
        np.testing.assert_allclose(np.abs(plane.points[:, n]), np.abs(expected), atol=1e-9)
    shares = values[::-1] / values.sum()
    assert plane.axes == (f"first component ({100 * shares[0]:.0f} %)", f"second component ({100 * shares[1]:.0f} %)")


def test_tsne_keeps_groups_apart_and_is_the_same_again():
    labels = torch.tensor([0, 1] * 12)
    poses = torch.randn(24, 6) * 0.05 + 3.0 * labels.unsqueeze(1)
    points = tsne(poses, perplexity=5).points
    centers = [points[labels.numpy() == j].mean(axis=0) for j in range(2)]
    spread = max(np.linalg.norm(points[labels.numpy() == j] - centers[j], axis=1).max() for j in range(2))
    assert np.linalg.norm(centers[0] - centers[1]) > 1.5 * spread
    np.testing.assert_array_equal(points, tsne(poses, perplexity=5).points)


def test_figure_has_a_cloud_and_a_name_for_each_class_that_there_is():
    points, labels = np.random.default_rng(0).normal(size=(9, 2)), torch.tensor([0, 0, 0, 2, 2, 2, 2, 0, 0])
    planes = [("one", Plane(points, ("x", "y"))), ("two", Plane(-points, ("", "")))]
    figure = pose_figure(planes, labels, "abc", "Title")
    for axis, sign in zip(figure.axes, (1, -1), strict=True):
        assert len(axis.collections) == 2
        for cloud, j in zip(axis.collections, (0, 2), strict=True):
            np.testing.assert_allclose(cloud.get_offsets(), sign * points[labels.numpy() == j])
        assert [text.get_text() for text in axis.texts] == ["a", "c"]
        np.testing.assert_allclose(axis.texts[1].xy, np.median(sign * points[3:7], axis=0))
    assert [axis.get_title() for axis in figure.axes] == ["one", "two"]
    assert figure.axes[0].get_xlabel() == "x"
    figure.canvas.draw()


def boxes(figure):
    return [artist for artist in figure.axes[0].artists if isinstance(artist, AnnotationBbox)]


def test_pictures_lie_where_their_poses_do_and_none_on_another():
    points = np.array([[0.0, 0.0], [0.001, 0.0], [10.0, 0.0], [10.0, 4.0]])
    pictures = torch.rand(4, 1, 7, 7)
    figure = picture_plane_figure(Plane(points, ("x", "y")), pictures, "Title")
    drawn = boxes(figure)
    np.testing.assert_allclose([box.xy for box in drawn], [[0, 0], [1, 0], [1, 1]])
    for box, n in zip(drawn, (0, 2, 3), strict=True):
        ink = box.offsetbox.get_data()
        assert not ink[..., :3].any()
        np.testing.assert_array_equal(ink[..., 3], pictures[n, 0])
    assert (figure.axes[0].get_xlabel(), figure.axes[0].get_title()) == ("x", "Title")
    figure.canvas.draw()


@pytest.mark.parametrize("shape", [(4, 4), (28, 28), (40, 20)])
def test_no_picture_reaches_out_of_the_plane(shape):
    points = np.random.default_rng(0).normal(size=(30, 2))
    figure = picture_plane_figure(Plane(points, ("x", "y")), torch.rand(30, 3, *shape), "Title")
    FigureCanvasAgg(figure).draw()
    frame = figure.axes[0].get_window_extent()
    for box in boxes(figure):
        extent = box.get_window_extent()
        assert frame.x0 - 1 <= extent.x0 < extent.x1 <= frame.x1 + 1  # one pixel
        assert frame.y0 - 1 <= extent.y0 < extent.y1 <= frame.y1 + 1
