"""The heat map of a probe."""

import numpy as np
import torch

from capsule_lightning.figures.probe import MOST, probe_figure


def test_cells_hold_their_numbers_and_the_whole_pose_has_its_own_row():
    single, whole = torch.tensor([[0.9, -0.1], [0.25, 0.0], [0.5, 1.0]]), torch.tensor([0.95, -0.3])
    figure = probe_figure(single, whole, ["rotation", "scale"], "Title")
    above, below = figure.axes[:2]
    np.testing.assert_allclose(above.images[0].get_array(), single.clamp(0, 1))
    np.testing.assert_allclose(below.images[0].get_array(), whole.clamp(0, 1).unsqueeze(0))
    written = {tuple(map(int, text.get_position())): text.get_text() for text in above.texts}
    assert written == {(c, r): f"{float(single[r, c]):.2f}" for r in range(3) for c in range(2)}
    assert [text.get_text() for text in below.texts] == ["0.95", "-0.30"]
    assert [label.get_text() for label in below.get_xticklabels()] == ["rotation", "scale"]
    figure.canvas.draw()


def test_of_many_dimensions_those_that_tell_most():
    single = torch.zeros(MOST + 3, 2)
    single[5:, 1] = 0.5
    single[1, 0] = 0.7
    figure = probe_figure(single, torch.ones(2), ["a", "b"], "Title")
    drawn = [int(label.get_text()) for label in figure.axes[0].get_yticklabels()]
    assert len(drawn) == MOST
    assert drawn == sorted(drawn)
    assert {2, *range(6, MOST + 4)} <= set(drawn)
