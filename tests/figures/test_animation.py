"""Animations: frames, their times and that they begin again."""

from io import BytesIO

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from capsule_lightning.figures import animation
from capsule_lightning.figures.animation import gif
from capsule_lightning.figures.perturbations import dial_animation


def frames(content):
    with Image.open(BytesIO(content)) as animation:
        for n in range(animation.n_frames):
            animation.seek(n)
            yield np.asarray(animation.convert("RGB")).astype(int), dict(animation.info)


def test_each_figure_is_a_frame_for_its_time():
    figures = [Figure(figsize=(1, 1), facecolor=color) for color in ("red", "lime", "blue")]
    found = list(frames(gif(figures, [100, 250, 400])))
    for (pixels, info), color, wait in zip(
        found, ([255, 0, 0], [0, 255, 0], [0, 0, 255]), (100, 250, 400), strict=True
    ):
        assert np.abs(pixels - color).max() <= 1
        assert (info["duration"], info["loop"]) == (wait, 0)


@pytest.mark.parametrize("channels", [1, 3])
def test_dials_turn_there_and_back(channels):
    shades = torch.linspace(0, 1, 4).view(4, 1, 1, 1, 1, 1)
    pictures = shades.expand(4, 2, 3, channels, 6, 6)
    found = [pixels for pixels, _ in frames(dial_animation(pictures, "Title", ["thicker", "turned"]))]
    middles = [pixels[pixels.shape[0] // 2, -40, 0] / 255 for pixels in found]
    np.testing.assert_allclose(middles, [0, 1 / 3, 2 / 3, 1, 2 / 3, 1 / 3], atol=0.02)


def test_a_frame_has_the_pixels_that_are_asked_for():
    assert animation.pixels(Figure(figsize=(3, 2), dpi=200), dpi=50).shape == (100, 150, 3)
