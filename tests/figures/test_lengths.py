"""Lengths by class, and capsules that never speak."""

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

from capsule_lightning.figures.lengths import DEAD, dead_capsules, length_figure, mean_lengths
from capsule_lightning.figures.reconstructions import WRONG


def test_means_are_those_of_a_loop():
    activations, labels = torch.rand(20, 4, dtype=torch.float64), torch.tensor([0, 1, 3, 3] * 5)
    found = mean_lengths(activations, labels)
    for true in range(4):
        rows = [activations[n].numpy() for n in range(20) if labels[n] == true]
        if rows:
            np.testing.assert_allclose(found[true], np.mean(rows, axis=0), atol=1e-12)
        else:
            assert found[true].isnan().all()


def test_dead_is_never_longer_than_the_threshold():
    activations = torch.tensor([[0.1, 0.9, 0.05], [0.0, 0.0, 0.11]])
    assert dead_capsules(activations).tolist() == [True, False, False]
    assert dead_capsules(activations, 0.2).tolist() == [True, False, True]


def test_figure_shows_means_and_marks_the_dead():
    activations = torch.tensor([[0.9, 0.04, 0.2], [0.1, 0.02, 0.8], [0.2, 0.03, 0.1]])
    labels = torch.tensor([0, 2, 1])
    figure = length_figure(activations, labels, ["a", "b", "c"], "Title")
    means, bars = figure.axes[:2]
    np.testing.assert_allclose(means.images[0].get_array(), mean_lengths(activations, labels))
    np.testing.assert_allclose([bar.get_width() for bar in bars.patches], [0.9, 0.04, 0.8], rtol=1e-6)
    dead = [to_hex(bar.get_facecolor()) == WRONG for bar in bars.patches]
    assert dead == [False, True, False]
    assert bars.get_title() == "greatest length (1 dead)"
    assert bars.lines[0].get_xdata()[0] == DEAD
    assert [label.get_text() for label in bars.get_yticklabels()] == ["a", "b", "c"]
    figure.canvas.draw()


@pytest.mark.parametrize(("count", "font", "inches"), [(3, 9, 4.7), (20, 9, 9.3), (21, 5, 9.72), (100, 5, 12.9)])
def test_names_of_many_classes_are_small_and_the_figure_keeps_to_a_page(count, font, inches):
    names = [str(n) for n in range(count)]
    figure = length_figure(torch.rand(count, count), torch.arange(count), names, "Title")
    for axis in figure.axes[:2]:
        assert {label.get_fontsize() for label in axis.get_yticklabels()} == {font}
    assert figure.get_figheight() == pytest.approx(inches)
