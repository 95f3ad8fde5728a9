"""Dimensions moved one by one: the poses, what the decoder makes of them, and where they are drawn."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from capsule_lightning.decoders.class_independent import ClassIndependentDecoder
from capsule_lightning.decoders.dense import DenseDecoder
from capsule_lightning.figures.perturbations import (
    BRIGHTER,
    DARKER,
    STEPS,
    class_pictures,
    colored_changes,
    perturb,
    perturbation_figure,
    perturbed_pictures,
)
from capsule_lightning.figures.tiles import as_array, tile


def test_the_steps_are_the_papers():
    np.testing.assert_allclose(STEPS, np.arange(-0.25, 0.26, 0.05), atol=1e-12)
    assert STEPS[5] == 0


def test_each_pose_differs_in_one_dimension_by_one_step():
    pose = torch.tensor([0.3, -0.1, 0.7], dtype=torch.float64)
    moved = perturb(pose, (-0.5, 0.0, 0.2, 0.4))
    assert moved.shape == (3, 4, 3)
    for dim in range(3):
        for n, step in enumerate((-0.5, 0.0, 0.2, 0.4)):
            expected = pose.tolist()
            expected[dim] += step
            np.testing.assert_allclose(moved[dim, n], expected, atol=1e-15)


@pytest.mark.parametrize("make", [DenseDecoder, ClassIndependentDecoder])
def test_pictures_are_the_decoders_of_the_moved_capsule(make):
    decoder, pose = make(4, 3, (2, 6, 5)).eval(), torch.tensor([0.3, -0.1, 0.7])
    pictures = perturbed_pictures(decoder, pose, label=2, num_classes=4)
    assert pictures.shape == (3, 11, 2, 6, 5)
    poses = torch.zeros(1, 4, 3)
    poses[0, 2] = pose + torch.tensor([0.0, 0.15, 0.0])
    assert_close(pictures[1, 8], decoder(poses, torch.tensor([2]))[0].detach())
    assert not pictures.requires_grad


def test_poses_of_a_class_are_decoded_in_the_shape_they_come_in():
    decoder, poses = DenseDecoder(4, 3, (1, 6, 5)).eval(), torch.randn(2, 5, 3)
    pictures = class_pictures(decoder, poses, label=1, num_classes=4)
    assert pictures.shape == (2, 5, 1, 6, 5)
    capsules = torch.randn(1, 4, 3)  # the decoder masks the others
    capsules[0, 1] = poses[1, 3]
    assert_close(pictures[1, 3], decoder(capsules, torch.tensor([1]))[0].detach())


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_tiles_lie_in_rows_and_columns(channels):
    pictures = torch.rand(3, 4, channels, 5, 6)
    tiles = tile(pictures)
    for row in range(3):
        for column in range(4):
            found = tiles[5 * row : 5 * row + 5, 6 * column : 6 * column + 6]
            np.testing.assert_array_equal(found, as_array(pictures[row, column]))
    assert tiles.shape == ((15, 24, 3) if channels == 3 else (15, 24))


def test_figure_has_a_row_for_each_dimension_and_the_input_beside():
    pictures, image = torch.rand(3, 11, 1, 16, 16), torch.rand(1, 16, 16)
    figure = perturbation_figure(image, pictures, "Title", notes=["scale 0.5", "", "shear 0.2"])
    rows, beside = figure.axes
    np.testing.assert_array_equal(rows.images[0].get_array(), tile(pictures))
    np.testing.assert_array_equal(beside.images[0].get_array(), image[0])
    assert [label.get_text() for label in rows.get_yticklabels()] == ["1", "2", "3"]
    columns = [label.get_text() for label in rows.get_xticklabels()]
    assert (columns[0], columns[5], columns[10]) == ("-0.25", "0", "+0.25")
    assert [text.get_text() for text in rows.texts] == ["scale 0.5", "", "shear 0.2"]
    assert [text.get_position()[1] for text in rows.texts] == [0.5, 1.5, 2.5]  # of the row that it is about
    (frame,) = rows.patches
    assert (frame.get_x(), frame.get_width()) == (5, 1)
    figure.canvas.draw()


def test_what_changes_in_small_pictures_is_colored():
    pictures = torch.full((2, 3, 1, 6, 6), 0.5)
    pictures[0, 0, :, :3], pictures[0, 2, :, :3] = 0.9, 0.4  # brighter, the greatest change; and a little darker
    colors = colored_changes(pictures, untouched=1)
    assert colors.shape == (2, 3, 3, 48, 48)
    # smooth enlargement goes beyond 0.9 at the edge, where the color is full
    assert_close(colors[0, 0, :, 4, 8], torch.tensor(BRIGHTER), atol=0.08, rtol=0)
    red, green, blue = colors[0, 2, :, 4, 8].tolist()
    assert (red, green, blue) == pytest.approx([0.4 * 0.77 + 0.23 * part for part in DARKER], abs=0.01)
    for same in (colors[:, 1], colors[1], colors[0, 0, :, 40:]):
        assert_close(same, torch.full_like(same, 0.5))
    figure = perturbation_figure(None, pictures, "Title", (-1.0, 0.0, 1.0))
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), tile(colors))
    assert "red" in figure.texts[-1].get_text()


def test_small_changes_are_not_made_to_look_large():
    pictures = torch.full((1, 3, 1, 6, 6), 0.5)
    pictures[0, 0] += 0.001
    assert (colored_changes(pictures, untouched=1) - 0.5).abs().max() < 0.02


def test_rows_may_have_names_and_the_input_may_be_left_out():
    figure = perturbation_figure(None, torch.rand(2, 3, 1, 4, 4), "Title", (-1.0, 0.0, 1.0), rows=["thicker", "turned"])
    (axis,) = figure.axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["thicker", "turned"]
    assert axis.get_ylabel() == ""
    figure.canvas.draw()
    inside = figure.bbox
    assert all(label.get_window_extent().x0 >= inside.x0 for label in axis.get_yticklabels())


def test_no_word_is_cut_off():
    notes = ["thickness 0.55", "", "rotation 0.20"]
    figure = perturbation_figure(torch.rand(1, 4, 4), torch.rand(3, 11, 1, 4, 4), "Title", notes=notes)
    figure.canvas.draw()
    assert max(text.get_window_extent().x1 for text in figure.axes[0].texts) <= figure.bbox.x1
