"""Read one image file as a person sees it: the one door that image files come through, wherever they are from.

A file is judged by its content. The formats are a closed list, none of whose decoders starts a program, and the number
of pixels is bounded before they are decoded.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, get_args

import numpy as np

from capsule_lightning.data.deep_pictures import all_bits, is_wide, one_deep_channel, require_range, scaled
from capsule_lightning.data.fitting import Fit, fitted
from capsule_lightning.data.regular_files import open_regular
from capsule_lightning.errors import InputError, first_line, require

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
"""What a file may hold. PostScript is not among them: it is a program, which Pillow hands to Ghostscript."""
MOST_PIXELS = 64_000_000
HIGHEST_LIMIT = 178_000_000
"""Pixels above which Pillow itself refuses an image."""
_BYTES = 8  # of a pixel at most, in a file: four channels of 16 bits


@dataclass(frozen=True)
class Reading:
    """How image files become pictures.

    Attributes:
        background: color that transparent pictures are laid on: a name, or ``#rrggbb``.
        invert: exchange dark and light.
        max_pixels: most pixels of a file.
        skip_damaged: leave out files that cannot be read, instead of refusing all.
        fit: how pictures of another shape are brought to the one asked for.
        values: the values of files with more than 8 bits a channel that become 0 and 1, which makes pictures float32;
            None for bytes.
        raw: values as they are in files with more than 8 bits a channel, float32; others are refused.

    Raises:
        InputError: no such color or way to fit, or a limit or a range out of order.
    """

    background: str = "white"
    invert: bool = False
    max_pixels: int = MOST_PIXELS
    skip_damaged: bool = False
    fit: Fit = "squeeze"
    values: tuple[float, float] | None = None
    raw: bool = False

    def __post_init__(self) -> None:
        require(
            1 <= self.max_pixels <= HIGHEST_LIMIT,
            f"max_pixels={self.max_pixels}: expected 1 to {HIGHEST_LIMIT}, the most pixels of an image file",
        )
        require(self.fit in get_args(Fit), f"fit={self.fit}: expected one of {', '.join(get_args(Fit))}")
        if self.values is not None:
            require_range(self.values)
        _ = self.color

    @property
    def color(self) -> tuple[int, ...]:
        """Red, green and blue of the background."""
        from PIL import ImageColor

        try:
            return tuple(ImageColor.getrgb(self.background)[:3])
        except ValueError as error:
            raise InputError(
                f"background={self.background!r}: expected a color such as white, black or '#ffcc00'"
            ) from error

    @property
    def mark(self) -> str:
        """What tells pictures read in one way from those of another."""
        fit = "" if self.fit == "squeeze" else f" {self.fit}"
        return f"upright on {self.color} inverted={self.invert}{fit}{' raw' if self.raw else ''}"

    @property
    def dtype(self) -> np.dtype:
        """Type of the pixels."""
        return np.dtype(np.float32 if self.raw or self.values is not None else np.uint8)


class UnreadableImageError(InputError):
    """A file that cannot be read as an image.

    Args:
        path: the file.
        reason: why.
        remedy: what to do.
    """

    def __init__(
        self, path: Path, reason: str, remedy: str = "replace or remove it, or set --data.skip_damaged true"
    ) -> None:
        super().__init__(f"{path}: {reason}; {remedy}")
        self.path, self.reason = path, reason


class Seen(NamedTuple):
    """What was met in a file.

    Attributes:
        size: ``(rows, columns)`` of the picture, upright.
        transparent: whether any of it was laid on the background.
        animated: whether the file has more frames or pages than the one that was read.
        mode: what its pixels are: gray, color, or one of these with transparency or in 16 bits.
        cut: whether only the upper 8 bits of each value were kept.
    """

    size: tuple[int, int]
    transparent: bool
    animated: bool
    mode: str
    cut: bool


@contextmanager
def open_image(path: Path, reading: Reading, content: bytes | None = None) -> Iterator[Image.Image]:
    """Open an image file, its pixels not decoded yet.

    Args:
        path: the file, or what its content is called.
        reading: how it becomes a picture.
        content: what the file holds; None to open it.

    Raises:
        UnreadableImageError: it is not a file, not an image of a known format, or has too many pixels.
    """
    from PIL import Image, UnidentifiedImageError

    limit = f"more than {reading.max_pixels:,} pixels"
    remedy = "scale it down, remove it, or raise --data.max_pixels"
    try:
        with open_regular(path) if content is None else BytesIO(content) as file:
            if (os.fstat(file.fileno()).st_size if content is None else len(content)) > _BYTES * reading.max_pixels:
                raise UnreadableImageError(path, f"has more bytes than {limit[5:]} take", remedy)
            with Image.open(file, formats=FORMATS) as image:
                if image.width * image.height > reading.max_pixels:
                    raise UnreadableImageError(path, f"{image.height}x{image.width} are {limit}", remedy)
                yield image
    except (InputError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise UnreadableImageError(path, f"has {limit}", remedy) from error
    except UnidentifiedImageError as error:
        reason = f"cannot be read as an image (it is none of {', '.join(FORMATS)})"
        raise UnreadableImageError(path, reason) from error
    except (
        Exception
    ) as error:  # Pillow raises anything for a broken file: OSError, ValueError, SyntaxError, struct.error, ...
        raise UnreadableImageError(path, f"cannot be read as an image ({first_line(error)})") from error


def read_picture(
    path: Path,
    channels: int,
    size: tuple[int, int],
    resize: bool,
    reading: Reading,
    content: bytes | None = None,
) -> tuple[np.ndarray | None, Seen]:
    """Return the picture of a file, and what was met in it.

    Args:
        path: the file.
        channels: 1 for gray, 3 for color.
        size: rows and columns, H and W.
        resize: bring a picture of another size to this one, as ``reading`` says.
        reading: how the file becomes a picture.
        content: what the file holds; None to open it.

    Returns:
        ``(H, W)`` or ``(H, W, 3)`` of the type of ``reading``; None in place of it if it has another size and may not
        be resized.

    Raises:
        UnreadableImageError: there is no picture in the file, or one of another depth.
    """
    from PIL import Image

    with open_image(path, reading, content) as image:
        animated, wide = _is_animated(image), is_wide(image)
        image.load()
        turn, mode = orientation(image), _in_words(image)
        deep = _keeps_all_bits(image, reading)
        if deep:
            image, transparent = all_bits(image, mode, reading.color)
        else:
            image = _eight_bits(image)
            image, transparent = _opaque(image, reading)
            if channels == 3 or image.mode not in ("1", "L"):
                image = _in_mode(image, "RGB")
            if channels == 1:
                image = _in_mode(image, "L")
        if turn in _TURNS:
            image = image.transpose(Image.Transpose(_TURNS[turn]))
        seen = Seen((image.height, image.width), transparent, animated, mode, wide and not deep)
        if seen.size != size:
            if not resize:
                return None, seen
            image = fitted(image, size, reading.fit, reading.color)
        picture = np.asarray(image)
    if reading.raw:
        pixels = picture
    elif deep:
        assert reading.values is not None
        pixels = scaled(picture, reading.values, reading.invert)
    else:
        pixels = 255 - picture if reading.invert else picture
        pixels = pixels if reading.values is None else scaled(pixels, (0, 255))
    return np.repeat(pixels[:, :, None], 3, axis=2) if channels == 3 and pixels.ndim == 2 else pixels, seen


def _keeps_all_bits(image: Image.Image, reading: Reading) -> bool:
    """Return whether the values of a file are taken as they are, and not as bytes.

    A network that was trained on floats from 0 to 1, or on numbers from 0 to 255, takes bytes as well.
    """
    if reading.values is None or reading.raw:
        return reading.raw
    if reading.values == (0, 1) and image.mode.startswith("I;16"):
        return bool(np.asarray(image).max() <= 1)
    return one_deep_channel(image) or reading.values not in ((0, 1), (0, 255))


def is_deep(path: Path, reading: Reading) -> bool:
    """Return whether an image file has more than 8 bits a pixel in one channel; False if it cannot be read."""
    try:
        with open_image(path, reading) as image:
            return one_deep_channel(image)
    except UnreadableImageError:
        return False


def orientation(image: Image.Image) -> int:
    """Return how EXIF says that a picture is to be turned, 1 to 8; 1 if it says nothing that can be read."""
    try:
        turn = image.getexif().get(0x0112, 1)
    except Exception:  # metadata may be broken in any way, which does not make the picture worse
        return 1
    return turn if isinstance(turn, int) and 1 <= turn <= 8 else 1


_TURNS = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}
"""`PIL.Image.Transpose` for each orientation but the first."""


def _is_animated(image: Image.Image) -> bool:
    """Return whether a file has several frames or pages; the second picture of a photo (MPO) is none."""
    try:
        return image.format != "MPO" and bool(getattr(image, "is_animated", False))
    except Exception:  # a second frame that is broken does not make the first one worse
        return False


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    """Return a picture in another mode; `convert` would copy one that is in it already."""
    return image if image.mode == mode else image.convert(mode)


def _in_words(image: Image.Image) -> str:
    """Return what the pixels of a decoded file are."""
    if one_deep_channel(image):
        return f"gray of {16 if image.mode.startswith('I;16') else 32} bits"
    if image.mode == "CMYK":
        return image.mode
    colors = "gray" if image.mode in ("1", "L", "LA", "La") else "color"
    return f"{colors} with transparency" if image.has_transparency_data else colors


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return a picture of 16 bits with 8; as Pillow has them, `convert` would cut them off at 255.

    Raises:
        ValueError: 32 bits a pixel, whose range is not known.
    """
    from PIL import Image

    if not (image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")):
        if image.mode in ("I", "F"):
            raise ValueError("32 bits a pixel, expected 8 or 16")
        return image
    values = np.asarray(image)
    gray = Image.fromarray((values >> 8).astype(np.uint8))
    hole = image.info.get("transparency")
    if isinstance(hole, int):
        gray.putalpha(Image.fromarray(np.where(values == hole, 0, 255).astype(np.uint8)))
    return gray


def _opaque(image: Image.Image, reading: Reading) -> tuple[Image.Image, bool]:
    """Return a picture laid on the background, and whether any of it was transparent."""
    from PIL import Image

    if not image.has_transparency_data:
        return image, False
    image = image.convert("RGBA")
    lowest, _ = image.getchannel("A").getextrema()
    ground = Image.new("RGBA", image.size, (*reading.color, 255))
    return Image.alpha_composite(ground, image), lowest < 255  # type: ignore[operator]
