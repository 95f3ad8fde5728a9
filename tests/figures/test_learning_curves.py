"""What a figure of learning curves shows."""

from itertools import pairwise

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.text import Text

from capsule_lightning.figures.learning_curves import COLORS, learning_curves_figure, on_common_steps, spread_out


def test_the_line_is_the_mean_and_the_band_reaches_from_lowest_to_highest():
    curves = {"A": [{0: 0.1, 10: 0.5, 20: 0.8}, {0: 0.3, 10: 0.7, 20: 0.9}], "B": [{0: 0.2, 10: 0.6, 20: 0.6}]}
    (axis,) = learning_curves_figure(curves, "val/accuracy").axes
    first, second = axis.get_lines()
    np.testing.assert_allclose(first.get_xydata(), [[0, 20], [10, 60], [20, 85]])
    np.testing.assert_allclose(second.get_ydata(), [20, 60, 60])
    corners = axis.collections[0].get_paths()[0].vertices
    for step, low, high in ((0, 10, 30), (10, 50, 70), (20, 80, 90)):
        found = corners[corners[:, 0] == step][:, 1]
        assert (found.min(), found.max()) == pytest.approx((low, high))
    assert "lowest to highest" in axis.get_title(loc="left")
    assert axis.get_ylabel() == "val/accuracy, %"


@pytest.mark.parametrize("ends", [[0.9 + n / 1000 for n in range(10)], [*[0.9] * 9, 0.5]], ids=["apart", "equal"])
def test_every_group_is_told_apart_and_named_in_its_color(ends):
    curves = {f"group {n}": [{0: 0.1, 10: end}] for n, end in enumerate(ends)}
    figure = learning_curves_figure(curves, "val/accuracy")
    (axis,) = figure.axes
    looks = {(line.get_color(), line.get_linestyle()) for line in axis.get_lines()}
    assert len(looks) == 10
    assert {text.get_text(): to_hex(text.get_color()) for text in axis.texts} == {
        f"group {n}": COLORS[n % len(COLORS)].lower() for n in range(10)
    }
    FigureCanvasAgg(figure).draw()
    boxes = sorted((Text.get_window_extent(text) for text in axis.texts), key=lambda box: box.y0)  # without the lines
    assert all(below.y1 <= above.y0 + 1 for below, above in pairwise(boxes))  # one pixel
    inside = figure.bbox
    assert all(box.x1 <= inside.x1 and box.y0 >= inside.y0 and box.y1 <= inside.y1 for box in boxes)


def test_losses_are_drawn_as_they_are_and_one_step_makes_a_point():
    (axis,) = learning_curves_figure({"all runs": [{5: 2.5}]}, "val/loss").axes
    (line,) = axis.get_lines()
    assert (line.get_ydata().tolist(), line.get_marker(), axis.get_ylabel()) == ([2.5], "o", "val/loss")


def test_what_begins_far_off_does_not_flatten_the_ends():
    (axis,) = learning_curves_figure({"A": [{0: 0.0, 50: 0.98, 100: 0.99}]}, "val/accuracy").axes
    low, high = axis.get_ylim()
    assert 97 < low < 98
    assert 99 < high < 100


def test_only_steps_that_all_runs_have_are_averaged():
    steps, values = on_common_steps([{1: 1.0, 2: 2.0, 3: 3.0}, {2: 4.0, 3: 5.0, 4: 6.0}])
    assert steps.tolist() == [2, 3]
    assert values.tolist() == [[2.0, 3.0], [4.0, 5.0]]


@pytest.mark.parametrize("seed", range(5))
def test_labels_keep_their_order_and_distance(seed):
    heights = np.random.default_rng(seed).uniform(0, 5, 9).tolist()
    places = spread_out(heights, 1.0, 10.0)
    assert np.argsort(places).tolist() == np.argsort(heights).tolist()
    assert np.diff(sorted(places)).min() >= 1 - 1e-9
    assert max(places) <= 10
