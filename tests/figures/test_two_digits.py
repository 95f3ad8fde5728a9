"""Two digits in two colors: what is drawn where, and what is called wrong."""

import numpy as np
import pytest
import torch

from capsule_lightning.figures.reconstructions import WRONG
from capsule_lightning.figures.two_digits import two_colors, two_digit_figure


def test_the_first_is_red_the_second_green_and_both_yellow():
    pictures = torch.zeros(2, 1, 4, 5)
    pictures[0, 0, 0, :2] = 1
    pictures[1, 0, 0, 1:3] = torch.tensor([1.0, 0.5])
    colors = two_colors(pictures)
    assert colors.shape == (4, 5, 3)
    np.testing.assert_array_equal(colors[0, :4], [[1, 0, 0], [1, 1, 0], [0, 0.5, 0], [0, 0, 0]])
    assert not colors[1:].any()


@pytest.mark.parametrize("count", [1, 3, 12])
@pytest.mark.parametrize("channels", [1, 3])
def test_each_column_holds_input_digits_and_reconstructions(count, channels):
    random = torch.Generator().manual_seed(0)
    images = torch.rand(count, channels, 6, 6, generator=random)
    pictures, reconstructions = torch.rand(2, count, 2, channels, 6, 6, generator=random)
    pairs = [["2", "7"]] * count
    predictions = [["7", "2"], *[["2", "1"]] * (count - 1)]
    figure = two_digit_figure(images, pictures, reconstructions, pairs, predictions, [[0.9, 0.8]] * count, "Title")
    (axis,) = figure.axes
    drawn = [image.get_array().data for image in axis.images]
    assert len(drawn) == 3 * count
    for n in range(count):
        first, second, third = drawn[3 * n : 3 * n + 3]
        np.testing.assert_allclose(first, images[n].mean(dim=0), atol=1e-6)
        np.testing.assert_allclose(second, two_colors(pictures[n]), atol=1e-6)
        np.testing.assert_allclose(third, two_colors(reconstructions[n]), atol=1e-6)
    words = [text for text in axis.texts if text.get_text().startswith("predicted")]
    assert [text.get_color() == WRONG for text in words] == [False] + [True] * (count - 1)  # in either order
    assert words[0].get_text() == "predicted 7, 2\n(0.90, 0.80)"
    assert sum(text.get_text() == "label 2, 7" for text in axis.texts) == count
    for n, text in enumerate(words):
        left, right, bottom, _ = axis.images[3 * n + 2].get_extent()
        assert text.get_position() == (pytest.approx((left + right) / 2), pytest.approx(bottom, abs=0.1))
    figure.canvas.draw()
