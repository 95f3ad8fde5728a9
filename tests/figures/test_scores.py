"""Every run a dot, and the interval of the mean."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from scipy import stats

from capsule_lightning.figures.scores import mean_interval, scores_figure


@pytest.mark.parametrize("count", [2, 5, 30])
def test_the_interval_is_students(count):
    values = np.random.default_rng(count).normal(0.9, 0.02, count)
    expected = stats.t.interval(0.95, count - 1, loc=values.mean(), scale=stats.sem(values))
    np.testing.assert_allclose(mean_interval(values.tolist()), expected, rtol=1e-9)


def test_a_single_value_has_none():
    assert mean_interval([0.5]) is None


def test_dots_mean_and_interval_of_each_group_in_its_row():
    scores = {"A": [0.9, 0.8, 0.9], "B": [0.7]}
    (axis,) = scores_figure(scores, "test/accuracy").axes
    dots, bar, mean, single, its_mean = axis.lines
    np.testing.assert_allclose(dots.get_xdata(), [90, 80, 90])
    heights = np.asarray(dots.get_ydata())
    assert heights[0] == heights[1] != heights[2]  # equal values do not hide each other
    np.testing.assert_allclose(bar.get_xdata(), np.multiply(mean_interval(scores["A"]), 100))
    np.testing.assert_allclose([*mean.get_xdata(), *single.get_xdata(), *its_mean.get_xdata()], [260 / 3, 70, 70])
    assert np.abs(np.concatenate([line.get_ydata() for line in (dots, bar, mean)])).max() < 0.5
    assert np.abs(np.concatenate([line.get_ydata() for line in (single, its_mean)]) - 1).max() < 0.5
    assert [label.get_text() for label in axis.get_yticklabels()] == ["A", "B"]
    assert axis.get_ylim()[0] > axis.get_ylim()[1]  # the first on top
    assert axis.get_xlabel() == "test/accuracy, %"


def test_losses_are_drawn_as_they_are_and_no_label_is_cut_off():
    figure = scores_figure({"a rather long label of a group, x=1": [1.5, 2.5]}, "test/loss")
    (axis,) = figure.axes
    assert (axis.lines[0].get_xdata().tolist(), axis.get_xlabel()) == ([1.5, 2.5], "test/loss")
    FigureCanvasAgg(figure).draw()
    assert axis.get_yticklabels()[0].get_window_extent().x0 >= 0
