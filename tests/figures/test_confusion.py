"""The confusion matrix as it is drawn."""

import warnings

import numpy as np
import pytest
import torch

from capsule_lightning.figures.confusion import confusion_figure


def test_cells_are_shaded_by_the_share_of_their_row_and_hold_their_counts():
    matrix = torch.tensor([[3, 1, 0], [0, 0, 0], [2, 0, 8]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = confusion_figure(matrix, ["a", "b", "c"], "Title")
    axis = figure.axes[0]
    np.testing.assert_allclose(axis.images[0].get_array(), [[0.75, 0.25, 0], [0, 0, 0], [0.2, 0, 0.8]], rtol=1e-6)
    written = {tuple(map(int, text.get_position())): text.get_text() for text in axis.texts}
    assert written == {(0, 0): "3", (1, 0): "1", (0, 2): "2", (2, 2): "8"}
    assert (axis.get_xlabel(), axis.get_ylabel(), axis.get_title()) == ("predicted", "true", "Title")


@pytest.mark.parametrize(("count", "written", "font"), [(20, 20, 9), (21, 0, 5)])
def test_of_many_classes_the_shades_alone_and_small_names(count, written, font):
    figure = confusion_figure(torch.eye(count, dtype=torch.int64), [str(n) for n in range(count)], "Title")
    assert len(figure.axes[0].texts) == written
    assert {label.get_fontsize() for label in figure.axes[0].get_yticklabels()} == {font}
    figure.canvas.draw()
