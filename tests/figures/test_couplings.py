"""Votes over the input: which classes, where, in what color, and frame by frame."""

from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from capsule_lightning.figures.couplings import BLUE, RED, child_figure, coupling_animation, coupling_figure


@pytest.fixture
def maps():
    maps = torch.zeros(2, 3, 2, 2)
    maps[1, 0, 0, 1], maps[1, 2, 1, 0] = 0.4, -0.2
    return maps


def test_red_is_more_than_average_and_blue_less(maps):
    image = torch.rand(1, 6, 8)
    figure = coupling_figure(image, maps, ["a", "b", "c"], "Title", extent=(1, 7, 5, 1))
    axes = np.array(figure.axes).reshape(2, 3)
    for t in range(2):
        for j in range(3):
            below, over = axes[t, j].images
            np.testing.assert_array_equal(below.get_array(), image[0])
            np.testing.assert_allclose(over.get_array()[..., 3], 0.85 * maps[t, j].abs() / 0.4, atol=1e-6)
            assert over.get_extent() == [1, 7, 5, 1]
            assert axes[t, j].get_ylim() == (6, 0)
    np.testing.assert_allclose(axes[1, 0].images[1].get_array()[0, 1, :3], RED)
    np.testing.assert_allclose(axes[1, 2].images[1].get_array()[1, 0, :3], BLUE)
    assert [axis.get_title() for axis in axes[0]] == ["a", "b", "c"]
    assert [axis.get_ylabel() for axis in axes[:, 0]] == ["iteration 1", "iteration 2"]
    assert any("0.400" in text.get_text() for text in figure.texts)
    figure.canvas.draw()


def test_of_many_classes_ten_that_receive_most():
    maps = torch.arange(12.0).view(1, 12, 1, 1)
    maps[0, 3] = 20
    figure = coupling_figure(torch.rand(3, 4, 4), maps, [f"c{j}" for j in range(12)], "Title")
    assert [axis.get_title() for axis in figure.axes] == [f"c{j}" for j in (2, 3, 4, 5, 6, 7, 8, 9, 10, 11)]


def test_no_votes_at_all_can_be_drawn():
    coupling_figure(torch.rand(1, 4, 4), torch.zeros(1, 2, 2, 2), ["a", "b"], "Title").canvas.draw()


def test_animation_has_a_frame_for_each_iteration_and_one_scale(maps):
    with Image.open(BytesIO(coupling_animation(torch.zeros(1, 6, 8), maps, ["a", "b", "c"], "Title"))) as animation:
        assert (animation.format, animation.n_frames, animation.info["loop"]) == ("GIF", 2, 0)
        reds, waits = [], []
        for frame in range(2):
            animation.seek(frame)
            pixels = np.asarray(animation.convert("RGB")).astype(int)
            reds.append(int(((pixels[..., 0] > 150) & (pixels[..., 1] < 100)).sum()))
            waits.append(animation.info["duration"])
    assert reds[0] == 0  # of the even start, though nothing else is in that frame
    assert reds[1] > 100
    assert waits == [800, 2000]


def test_each_column_may_have_its_own_image_and_the_scale_its_limit(maps):
    images = torch.rand(3, 1, 6, 8)
    figure = coupling_figure(images, maps, ["a", "b", "c"], "Title", full=0.1)
    axes = np.array(figure.axes).reshape(2, 3)
    for t in range(2):
        for j in range(3):
            below, over = axes[t, j].images
            np.testing.assert_array_equal(below.get_array(), images[j, 0])
            np.testing.assert_allclose(
                over.get_array()[..., 3], 0.85 * (maps[t, j].abs() / 0.1).clamp(max=1), atol=1e-6
            )
    with Image.open(BytesIO(coupling_animation(images, maps, ["a", "b", "c"], "Title", full=0.1))) as animation:
        assert animation.n_frames == 2


def test_animation_of_several_images_keeps_those_of_the_classes_it_draws():
    maps = torch.arange(12.0).view(1, 12, 1, 1)  # the first two classes are left out
    images = torch.zeros(12, 1, 4, 4)
    bright = images.clone()
    bright[:2] = 1
    given = ([f"c{j}" for j in range(12)], "Title")
    assert coupling_animation(bright, maps, *given) == coupling_animation(images, maps, *given)


def test_children_by_classes_lie_below_their_image():
    images, couplings = torch.rand(2, 1, 6, 6), torch.rand(2, 5, 3)
    figure = child_figure(images, couplings, ["x", "y"], ["a", "b", "c"], "Title")
    above, below = figure.axes[:2], figure.axes[2:4]
    for n in range(2):
        np.testing.assert_array_equal(above[n].images[0].get_array(), images[n, 0])
        np.testing.assert_array_equal(below[n].images[0].get_array(), couplings[n])
        assert below[n].images[0].get_clim() == (0, couplings.max())  # one scale for all
        assert [label.get_text() for label in below[n].get_xticklabels()] == ["a", "b", "c"]
    assert [axis.get_title() for axis in above] == ["x", "y"]
    assert [label.get_text() for label in below[0].get_yticklabels()] == ["1", "2", "3", "4", "5"]
    figure.canvas.draw()
