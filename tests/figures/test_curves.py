"""Curves of the routing."""

import pytest

from capsule_lightning.figures.curves import routing_curves


@pytest.mark.parametrize("dead", [2.0, 0.0])
def test_each_curve_has_its_axes_and_whole_numbers_have_whole_ticks(dead: float):
    curves = {"coupling_entropy": [(10, 1.0), (20, 0.75), (30, 0.5)], "dead_capsules": [(10, dead), (30, 0.0)]}
    figure = routing_curves(curves, "Title")
    for axis, (name, pairs) in zip(figure.axes, curves.items(), strict=True):
        (line,) = axis.lines
        assert list(zip(*line.get_data(), strict=True)) == pairs
        assert axis.get_ylabel() == name.replace("_", "\n")
    figure.canvas.draw()
    assert all(float(tick).is_integer() for tick in figure.axes[1].get_yticks())
    assert figure.axes[-1].get_xlabel() == "training step"
