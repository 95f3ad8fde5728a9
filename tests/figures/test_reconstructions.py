"""Inputs above their reconstructions: what is drawn where, and what is called wrong."""

import numpy as np
import pytest
import torch

from capsule_lightning.figures.reconstructions import WRONG, reconstruction_figure


@pytest.mark.parametrize("count", [1, 3, 12])
@pytest.mark.parametrize("channels", [1, 3])
def test_each_column_holds_input_and_reconstruction_with_their_words(count, channels):
    random = torch.Generator().manual_seed(0)
    pictures, reconstructions = torch.rand(2, count, channels, 6, 5, generator=random)
    labels = [None if n == 1 else "2" for n in range(count)]
    predictions = ["7" if n == 2 else "2" for n in range(count)]
    figure = reconstruction_figure(pictures, reconstructions, labels, predictions, [0.9] * count, "Title")
    (axis,) = figure.axes
    drawn = [image.get_array().data for image in axis.images]
    for n, (first, second) in enumerate(zip(drawn[::2], drawn[1::2], strict=True)):
        for found, expected in ((first, pictures[n]), (second, reconstructions[n])):
            np.testing.assert_allclose(found, expected.movedim(0, -1).squeeze(-1), atol=1e-6)
    words = [text for text in axis.texts if text.get_text().endswith("(0.90)")]
    assert [text.get_color() == WRONG for text in words] == [n == 2 for n in range(count)]
    for n, text in enumerate(words):
        left, right, bottom, _ = axis.images[2 * n + 1].get_extent()
        assert text.get_position() == (pytest.approx((left + right) / 2), pytest.approx(bottom, abs=0.1))
    assert sum(text.get_text() == "label 2" for text in axis.texts) == count - (count > 1)
    for place, word in enumerate(("input", "reconstruction")):
        beside = [text.get_position()[1] for text in axis.texts if text.get_text() == word]
        rows = [axis.images[2 * n + place].get_extent()[2:] for n in range(0, count, 10)]
        assert beside == pytest.approx([sum(row) / 2 for row in rows], abs=0.1)
    figure.canvas.draw()
