"""Trees of image files, and no network."""

from urllib.error import URLError

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise URLError("no network")

    monkeypatch.setattr("urllib.request.urlopen", refuse)


@pytest.fixture
def write_image():
    """Writes ``pixels (H, W)`` or ``(H, W, 3)`` uint8, or noise of such a shape, in the format of the suffix."""
    random = np.random.default_rng(0)

    def write(path, pixels, **options):
        if isinstance(pixels, tuple):
            pixels = random.integers(0, 256, pixels, dtype=np.uint8)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, **options)
        return pixels

    return write


@pytest.fixture
def write_tree(write_image):
    """Writes ``<folder>/<class>/<number>.png``, noise or ``value`` throughout; returns the pixels, class by class."""

    def write(folder, class_names, count=2, shape=(8, 8, 3), value=None):
        pixels = shape if value is None else np.full(shape, value, dtype=np.uint8)
        names = [f"{name}/{number}.png" for name in class_names for number in range(count)]
        return np.stack([write_image(folder / name, pixels) for name in names])

    return write
