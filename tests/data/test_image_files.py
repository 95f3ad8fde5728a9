"""Image files: pixel for pixel as a person sees them, in order, and every fault named."""

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.GifImagePlugin import GifImageFile

from capsule_lightning.data.facts import describe_facts
from capsule_lightning.data.image_files import read_files, read_images, size_of
from capsule_lightning.data.image_trees import find_images, image_paths
from capsule_lightning.data.pictures import Reading
from capsule_lightning.errors import InputError

LOSSLESS = [(".png", {}), (".webp", {"lossless": True}), (".bmp", {}), (".tif", {})]


def read(path, shape, **options):
    """One file, channels last as Pillow has it."""
    return read_images([path], shape, **options)[0].movedim(0, -1).squeeze(-1).numpy()


@pytest.mark.parametrize(("suffix", "options"), LOSSLESS)
@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 3)], ids=["gray", "color"])
def test_lossless_files_are_read_exactly(tmp_path, write_image, shape, suffix, options):
    pixels = write_image(tmp_path / f"a{suffix}", shape, **options)
    channels = 1 if len(shape) == 2 else 3
    np.testing.assert_array_equal(read(tmp_path / f"a{suffix}", (channels, 6, 5)), pixels)
    assert size_of(tmp_path / f"a{suffix}") == (6, 5)


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".webp"])
def test_lossy_files_are_read_closely(tmp_path, write_image, suffix):
    ramp = np.add.outer(np.arange(0, 128, 4), np.arange(0, 128, 8)).astype(np.uint8)
    pixels = np.stack([ramp, ramp[::-1], 255 - ramp], axis=-1)
    write_image(tmp_path / f"a{suffix}", pixels, quality=100, **({"subsampling": 0} if suffix != ".webp" else {}))
    difference = read(tmp_path / f"a{suffix}", (3, 32, 16)).astype(int) - pixels
    # JPEG at its best rounds brightness and color to whole numbers; WebP also halves the resolution of color
    assert abs(difference).max() <= (2 if suffix != ".webp" else 16)


def test_gray_files_become_color_and_color_files_gray(tmp_path, write_image):
    gray = write_image(tmp_path / "gray.png", (4, 4))
    np.testing.assert_array_equal(read(tmp_path / "gray.png", (3, 4, 4)), np.repeat(gray[..., None], 3, axis=-1))
    color = write_image(tmp_path / "color.png", (4, 4, 3))
    brightness = color @ np.array([0.299, 0.587, 0.114])  # ITU-R 601-2, to the nearest whole number
    assert abs(read(tmp_path / "color.png", (1, 4, 4)) - brightness).max() <= 0.51


def test_palette_and_transparency_are_resolved(tmp_path, write_image):
    pixels = write_image(tmp_path / "a.png", np.array([[[255, 0, 0], [0, 0, 255]]], dtype=np.uint8))
    Image.fromarray(pixels).convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "palette.png")
    Image.fromarray(pixels).convert("RGBA").save(tmp_path / "alpha.png")
    for name in ("palette.png", "alpha.png"):
        np.testing.assert_array_equal(read(tmp_path / name, (3, 1, 2)), pixels)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bits_are_scaled_to_8(tmp_path, write_image, suffix):
    write_image(tmp_path / f"a{suffix}", np.array([[0, 256, 40_000, 65_535]], dtype=np.uint16))
    assert read(tmp_path / f"a{suffix}", (1, 1, 4)).tolist() == [[0, 1, 156, 255]]


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_32_bits_are_refused(tmp_path, write_image, dtype):
    write_image(tmp_path / "a.tif", np.ones((4, 4), dtype=dtype))
    with pytest.raises(InputError, match=r"a\.tif: cannot be read as an image \(32 bits"):
        read(tmp_path / "a.tif", (1, 4, 4))


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "changed"])
def test_an_unreadable_file_is_named(tmp_path, write_image, damage):
    for name in ("a.png", "b.png", "c.png"):
        write_image(tmp_path / name, (16, 16, 3))
    whole = (tmp_path / "b.png").read_bytes()
    changed = whole[:60] + bytes(255 - byte for byte in whole[60:])
    damaged = {"empty": b"", "text": b"no image", "cut": whole[:300], "changed": changed}[damage]
    (tmp_path / "b.png").write_bytes(damaged)
    with pytest.raises(InputError, match=r"b\.png: cannot be read as an image .*; replace or remove it"):
        read_images(image_paths(tmp_path), (3, 16, 16))


@pytest.mark.parametrize("content", [b"", b"no image"])
def test_size_of_names_an_unreadable_file(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.png: cannot be read as an image"):
        size_of(tmp_path / "a.png")


def test_another_size_is_refused(tmp_path, write_image):
    write_image(tmp_path / "a.png", (6, 5))
    write_image(tmp_path / "b.png", (5, 6))
    with pytest.raises(InputError, match=r"b\.png: 5x6 pixels; expected 6x5"):
        read_images(image_paths(tmp_path), (1, 6, 5))


def test_another_size_is_scaled_on_demand(tmp_path, write_image):
    halves = np.zeros((8, 12, 3), dtype=np.uint8)
    halves[:, 6:] = 200
    write_image(tmp_path / "a.png", halves)
    scaled = read(tmp_path / "a.png", (3, 4, 6), resize=True)
    expected = np.array([0, 0, 25, 175, 200, 200])  # triangles over 4 of 12 columns, weights 1 3 3 1
    np.testing.assert_array_equal(scaled, np.tile(expected[:, None], (4, 1, 3)))


def test_files_come_in_order_of_their_names(tmp_path, write_image):
    shades = {"10.png": 1, "2.png": 2, "b/1.PNG": 3, "a.webp": 4}
    for name, shade in shades.items():
        write_image(tmp_path / name, np.full((2, 2), shade, dtype=np.uint8), lossless=True)
    for other in (".hidden.png", ".cache/1.png", "notes.txt", "a.png.part"):
        (tmp_path / other).parent.mkdir(exist_ok=True)
        (tmp_path / other).touch()
    paths = image_paths(tmp_path)
    assert [str(path.relative_to(tmp_path)) for path in paths] == ["10.png", "2.png", "a.webp", "b/1.PNG"]
    assert read_images(paths, (1, 2, 2))[:, 0, 0, 0].tolist() == [1, 2, 4, 3]


def test_many_files_keep_their_order(tmp_path, write_image):
    for number in range(200):
        write_image(tmp_path / f"{number:03}.png", np.full((1, 1), number, dtype=np.uint8))
    assert read_images(image_paths(tmp_path), (1, 1, 1)).flatten().tolist() == list(range(200))


# What a file may be.

PROGRAMS = {
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(x) (w) file\nshowpage\n%%EOF\n",
    "eps-with-preview": b"\xc5\xd0\xd3\xc6" + bytes(28) + b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n",
    "pdf": b"%PDF-1.4\n1 0 obj <<>> endobj\n",
    "windows-metafile": b"\xd7\xcd\xc6\x9a\x00\x00" + bytes(40),
    "fits": b"SIMPLE  =                    T".ljust(2880),
    "photoshop": b"8BPS\x00\x01" + bytes(60),
}


@pytest.mark.parametrize("content", PROGRAMS.values(), ids=PROGRAMS)
@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_nothing_but_pictures_is_opened_whatever_the_name(tmp_path, monkeypatch, content, name):
    def start(*args, **kwargs):
        raise AssertionError("a program was started")

    for module in ("subprocess.Popen.__init__", "os.system", "os.posix_spawn"):
        monkeypatch.setattr(module, start)
    (tmp_path / name).write_bytes(content)
    for look in (size_of, lambda path: read_images([path], (3, 8, 8), resize=True)):
        with pytest.raises(InputError, match=r"cannot be read as an image \(it is none of PNG, JPEG"):
            look(tmp_path / name)


def test_a_picture_is_read_whatever_its_name_says(tmp_path, write_image):
    pixels = write_image(tmp_path / "a.png", (4, 4, 3))
    (tmp_path / "a.png").rename(tmp_path / "a.JPG")
    np.testing.assert_array_equal(read(tmp_path / "a.JPG", (3, 4, 4)), pixels)


def png_header(rows, columns):
    """A PNG that says how large it is, and holds nothing."""
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", columns, rows, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"")),
        (b"IEND", b""),
    ]
    chunks = [struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


BOMBS = {
    "png": png_header(50_000, 50_000),
    "png-just-above": png_header(8_001, 8_000),
    "bmp": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 100_000, 100_000, 1, 24, 0, 0, 0, 0, 0, 0),
    "gif": b"GIF89a" + struct.pack("<HHBBBBHHHHB", 65_535, 65_535, 0, 0, 0, 44, 0, 0, 65_535, 65_535, 0) + b"\x08\x00;",
    "ppm": b"P6 60000 60000 255\n",
}


@pytest.mark.parametrize("content", BOMBS.values(), ids=BOMBS)
def test_pixels_are_bounded_before_they_are_decoded(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    for look in (size_of, lambda path: read_images([path], (3, 8, 8), resize=True)):
        with pytest.raises(InputError, match=r"more than 64,000,000 pixels; .*--data\.max_pixels"):
            look(tmp_path / "a.png")


def test_the_bound_of_pixels_can_be_chosen(tmp_path, write_image):
    write_image(tmp_path / "a.png", (10, 10))
    assert read_images([tmp_path / "a.png"], (1, 10, 10), reading=Reading(max_pixels=100)).shape == (1, 1, 10, 10)
    with pytest.raises(InputError, match="10x10 are more than 99 pixels"):
        read_images([tmp_path / "a.png"], (1, 10, 10), reading=Reading(max_pixels=99))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"max_pixels": 0}, "max_pixels=0: expected 1"),
        ({"max_pixels": 10**9}, "max_pixels=1000000000: expected 1"),
        ({"background": "whyte"}, "background='whyte': expected a color"),
        ({"background": ""}, "background='': expected a color"),
    ],
)
def test_odd_ways_of_reading_are_refused(options, named):
    with pytest.raises(InputError, match=named):
        Reading(**options)


# What a person sees.

#: What a viewer does with a picture of each orientation, as NumPy has it (EXIF 2.32, 4.6.4)
UPRIGHT = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.swapaxes(0, 1),
    6: lambda p: p[::-1].swapaxes(0, 1),
    7: lambda p: p[::-1, ::-1].swapaxes(0, 1),
    8: lambda p: p.swapaxes(0, 1)[::-1],
}


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_pictures_are_turned_upright(tmp_path, write_image, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = write_image(
        tmp_path / f"a{suffix}", (4, 6, 3), exif=exif, **({"lossless": True} if suffix == ".webp" else {})
    )
    expected = UPRIGHT[orientation](pixels)
    assert size_of(tmp_path / f"a{suffix}") == expected.shape[:2]
    np.testing.assert_array_equal(read(tmp_path / f"a{suffix}", (3, *expected.shape[:2])), expected)


@pytest.mark.parametrize("exif", [b"Exif\x00\x00MM\x00*\x00\x00\xff\xff", b"Exif\x00\x00no", b"Exif\x00\x00"])
def test_broken_metadata_do_not_make_a_picture_worse(tmp_path, write_image, exif):
    write_image(tmp_path / "a.jpg", (8, 8, 3), exif=exif)
    assert size_of(tmp_path / "a.jpg") == (8, 8)
    assert read(tmp_path / "a.jpg", (3, 8, 8)).shape == (8, 8, 3)


def transparent(mode):
    """Ink in the left half; the right half is transparent, its hidden color black."""
    ink = np.zeros((2, 4, 4), dtype=np.uint8)
    ink[:, :2] = (200, 200, 200, 255)
    image = Image.fromarray(ink)
    if mode == "P":
        indices = Image.fromarray(np.tile(np.uint8([1, 1, 0, 0]), (2, 1)), "P")
        indices.putpalette([0, 0, 0, 200, 200, 200])
        indices.info["transparency"] = 0
        return indices
    if mode in ("L", "RGB"):
        image = image.convert(mode)
        image.info["transparency"] = 0 if mode == "L" else (0, 0, 0)
        return image
    return image.convert(mode)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "RGB"])
@pytest.mark.parametrize("background", ["white", "black", "#ff8000"])
def test_transparency_is_laid_on_the_background(tmp_path, mode, background):
    image = transparent(mode)
    image.save(
        tmp_path / "a.png", **({"transparency": image.info["transparency"]} if "transparency" in image.info else {})
    )
    found = read_files([tmp_path / "a.png"], (3, 2, 4), reading=Reading(background))
    color = {"white": [255] * 3, "black": [0] * 3, "#ff8000": [255, 128, 0]}[background]
    expected = [[200] * 3] * 2 + [color] * 2
    assert found.images[0].movedim(0, -1).tolist() == [expected] * 2
    assert found.facts.transparent == 1


def test_half_transparent_ink_is_mixed(tmp_path):
    Image.new("RGBA", (1, 1), (0, 0, 0, 128)).save(tmp_path / "a.png")
    assert read(tmp_path / "a.png", (1, 1, 1)).item() == pytest.approx(127, abs=1)


def test_16_bits_may_have_a_transparent_value(tmp_path):
    values = np.array([[40_000, 0]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png", transparency=0)
    assert read(tmp_path / "a.png", (1, 1, 2)).tolist() == [[156, 255]]


def test_16_bits_of_a_portable_map_are_scaled(tmp_path):
    (tmp_path / "a.pgm").write_bytes(b"P5 4 1 65535\n" + np.array([0, 256, 40_000, 65_535], ">u2").tobytes())
    assert read(tmp_path / "a.pgm", (1, 1, 4)).tolist() == [[0, 1, 156, 255]]


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_printing_colors_become_colors(tmp_path, suffix):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / f"a{suffix}")
    found = read(tmp_path / f"a{suffix}", (3, 8, 8))[4, 4]
    assert found[0] > 230
    assert max(found[1:]) < 40


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".tif"])
def test_the_first_frame_is_read(tmp_path, suffix):
    frames = [Image.new("RGB", (4, 4), color) for color in ((255, 0, 0), (0, 255, 0))]
    frames[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:], lossless=True)
    found = read_files([tmp_path / f"a{suffix}"], (3, 4, 4))
    assert found.images[0, :, 2, 2].tolist() == [255, 0, 0]
    assert found.facts.animated == 1


def test_a_second_frame_that_is_broken_does_not_make_the_first_one_worse(tmp_path, monkeypatch):
    def broken(_):
        raise EOFError("no more frames")

    Image.new("RGB", (4, 4), (255, 0, 0)).save(tmp_path / "a.gif")
    monkeypatch.setattr(GifImageFile, "is_animated", property(broken))
    found = read_files([tmp_path / "a.gif"], (3, 4, 4))
    assert found.images[0, :, 2, 2].tolist() == [255, 0, 0]
    assert found.facts.animated == 0


def test_dark_and_light_are_exchanged_on_demand(tmp_path, write_image):
    pixels = write_image(tmp_path / "a.png", (4, 4))
    np.testing.assert_array_equal(255 - pixels, read(tmp_path / "a.png", (1, 4, 4), reading=Reading(invert=True)))


def test_sizes_are_those_of_upright_files(tmp_path, write_image):
    for name, shape in {"a.png": (4, 6), "b.png": (9, 9), "c.png": (2, 3)}.items():
        write_image(tmp_path / name, shape)
    facts = read_files(image_paths(tmp_path), (1, 4, 4), resize=True).facts
    assert (facts.smallest, facts.largest) == ((2, 3), (9, 9))


# Damaged files.


@pytest.fixture
def many_damaged(tmp_path, write_image):
    for number in range(30):
        write_image(tmp_path / f"{number:02}.png", (4, 4))
    for number in range(0, 30, 2):
        (tmp_path / f"{number:02}.png").write_bytes(b"no image")
    return tmp_path


def test_ten_damaged_files_are_named(many_damaged):
    with pytest.raises(InputError) as raised:
        read_images(image_paths(many_damaged), (1, 4, 4))
    assert str(raised.value).count(".png") == 10
    assert "--data.skip_damaged true" in str(raised.value)


def test_a_few_damaged_files_are_all_named(many_damaged):
    with pytest.raises(InputError) as raised:
        read_images(image_paths(many_damaged)[:5], (1, 4, 4))
    assert all(name in str(raised.value) for name in ("00.png", "02.png", "04.png"))


def test_damaged_files_are_left_out_on_demand(many_damaged):
    paths = image_paths(many_damaged)
    found = read_files(paths, (1, 4, 4), reading=Reading(skip_damaged=True))
    assert found.kept == list(range(1, 30, 2))
    assert list(found.facts.damaged) == [str(path) for path in paths[::2]]
    torch.testing.assert_close(found.images, read_images(paths[1::2], (1, 4, 4)))


def test_nothing_is_left_of_damaged_files_alone(many_damaged):
    with pytest.raises(InputError, match="none of the 15 image files can be read"):
        read_images(image_paths(many_damaged)[::2], (1, 4, 4), reading=Reading(skip_damaged=True))


# Pictures of another shape.


def stripes(rows, columns, along):
    """A gray picture whose values are the numbers of its rows or columns, times 20."""
    numbers = np.arange(rows)[:, None] if along == "rows" else np.arange(columns)[None]
    return np.broadcast_to(numbers * 20, (rows, columns)).astype(np.uint8)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16], ids=["bytes", "16-bits"])
@pytest.mark.parametrize(
    ("picture", "size", "expected"),
    [
        (stripes(4, 8, "columns"), (4, 4), stripes(4, 8, "columns")[:, 2:6]),
        (stripes(9, 3, "rows"), (3, 3), stripes(9, 3, "rows")[3:6]),
        (stripes(2, 5, "columns"), (2, 2), [[30, 50]] * 2),  # columns 1.5 to 3.5
        (stripes(2, 4, "columns").repeat(4, 0).repeat(4, 1), (2, 2), [[20, 40]] * 2),  # as if scaled, then cropped
    ],
    ids=["wide", "high", "between", "scaled"],
)
def test_cropping_keeps_the_middle(tmp_path, picture, size, expected, dtype):
    Image.fromarray(picture.astype(dtype)).save(tmp_path / "a.png")
    if dtype == np.uint8:
        found, off = read(tmp_path / "a.png", (1, *size), resize=True, reading=Reading(fit="crop")), 0.51
    else:
        reading = Reading(fit="crop", values=(0, 1000))
        found, off = read(tmp_path / "a.png", (1, *size), resize=True, reading=reading) * 1000, 1e-3
    np.testing.assert_allclose(found, expected, atol=off)


@pytest.mark.parametrize("background", ["white", "#ff8000"])
@pytest.mark.parametrize("invert", [False, True])
@pytest.mark.parametrize("place", [np.s_[1:3, :], np.s_[:, 1:3]], ids=["wide", "high"])
def test_padding_puts_a_picture_into_the_middle_of_the_background(tmp_path, write_image, background, invert, place):
    expected = np.full((4, 4, 3), {"white": 255, "#ff8000": [255, 128, 0]}[background], dtype=np.uint8)
    expected[place] = write_image(tmp_path / "a.png", expected[place].shape)
    reading = Reading(background, invert, fit="pad")
    found = read(tmp_path / "a.png", (3, 4, 4), resize=True, reading=reading)
    np.testing.assert_array_equal(found, 255 - expected if invert else expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16], ids=["bytes", "16-bits"])
def test_padding_scales_to_lie_within(tmp_path, dtype):
    picture = np.full((10, 40), 100, dtype)
    picture[:2], picture[-2:] = 200, 0  # background and ink are as bright as the picture's own extremes
    Image.fromarray(picture).save(tmp_path / "a.png")
    values = None if dtype == np.uint8 else (0, 255)
    found = read(tmp_path / "a.png", (1, 20, 20), resize=True, reading=Reading("black", fit="pad", values=values))
    expected = np.zeros((20, 20))
    expected[7:12] = [[200], [100], [100], [100], [0]]
    inner = found * (1 if values is None else 255)
    assert abs(inner - expected).max() < 45  # triangles mix neighboring rows
    np.testing.assert_array_equal(inner[:7], 0)
    np.testing.assert_array_equal(inner[12:], 0)
    np.testing.assert_allclose(inner[9], 100, atol=1e-3)


@pytest.mark.parametrize("fit", ["squeeze", "crop", "pad"])
def test_a_picture_of_the_same_shape_is_read_the_same_however_others_fit(tmp_path, write_image, fit):
    write_image(tmp_path / "a.png", (12, 8, 3))
    expected = read(tmp_path / "a.png", (3, 6, 4), resize=True)
    found = read_files([tmp_path / "a.png"], (3, 6, 4), resize=True, reading=Reading(fit=fit))
    np.testing.assert_array_equal(found.images[0].movedim(0, -1), expected)
    assert found.facts.reshaped == 0


def test_a_picture_is_turned_before_it_is_cropped(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = stripes(8, 4, "rows")
    Image.fromarray(picture).save(tmp_path / "a.png", exif=exif)
    found = read(tmp_path / "a.png", (1, 4, 4), resize=True, reading=Reading(fit="crop"))
    np.testing.assert_array_equal(found, UPRIGHT[6](picture)[:, 2:6])


# More than 8 bits.

WIDE = np.array([[0, 300, 40_000], [65_535, 1, 4095]], dtype=np.uint16)
DEEP = {
    "a.png": WIDE,
    "a.tif": WIDE,
    "b.tif": WIDE / np.float32(7) - 100,  # floats
    "c.tif": WIDE.astype(np.int32) * 1000 - 5,
}


@pytest.mark.parametrize("name", DEEP)
@pytest.mark.parametrize("channels", [1, 3])
def test_no_bit_is_cut_off_if_a_range_is_stated(tmp_path, name, channels):
    Image.fromarray(DEEP[name]).save(tmp_path / name)
    for invert in (False, True):
        found = read(tmp_path / name, (channels, 2, 3), reading=Reading(invert=invert, values=(10, 4095)))
        expected = (DEEP[name].astype(np.float64) - 10) / 4085
        expected = expected if channels == 1 else np.repeat(expected[..., None], 3, axis=-1)
        np.testing.assert_allclose(found, 1 - expected if invert else expected, rtol=1e-5, atol=1e-6)


def test_16_bits_of_a_portable_map_are_kept_as_well(tmp_path):
    (tmp_path / "a.pgm").write_bytes(b"P5 3 2 65535\n" + WIDE.astype(">u2").tobytes())
    found = read(tmp_path / "a.pgm", (1, 2, 3), reading=Reading(values=(0, 65_535)))
    np.testing.assert_allclose(found, WIDE / 65_535, rtol=1e-6)


def test_a_transparent_value_of_16_bits_becomes_the_background(tmp_path):
    Image.fromarray(np.array([[500, 7, 1500]], dtype=np.uint16)).save(tmp_path / "a.png", transparency=7)
    found = read_files([tmp_path / "a.png"], (1, 1, 3), reading=Reading(values=(500, 1500)))
    assert found.images.flatten().tolist() == [0, 1, 1]
    assert found.facts.transparent == 1


def test_bytes_serve_a_network_of_floats_and_no_other(tmp_path, write_image):
    pixels = write_image(tmp_path / "a.png", (2, 3))
    for values in ((0, 1), (0, 255)):
        found = read(tmp_path / "a.png", (1, 2, 3), reading=Reading(values=values, invert=True))
        np.testing.assert_allclose(found, 1 - pixels / 255, atol=1e-6)
    with pytest.raises(InputError, match=r"a\.png: .*\(gray of 8 bits, expected one channel of 16 bits or more"):
        read(tmp_path / "a.png", (1, 2, 3), reading=Reading(values=(0, 4095)))
    write_image(tmp_path / "b.png", WIDE)
    found = read(tmp_path / "b.png", (1, 2, 3), reading=Reading(values=(0, 1)))
    np.testing.assert_allclose(found, (WIDE >> 8) / 255, atol=1e-6)


def test_values_that_are_no_numbers_are_refused(tmp_path, write_image):
    write_image(tmp_path / "c.tif", np.array([[0, np.nan]], np.float32))
    with pytest.raises(InputError, match=r"c\.tif: .*NaN or infinite"):
        read(tmp_path / "c.tif", (1, 1, 2), reading=Reading(values=(0, 1)))


def png_of_16_bits(values):
    """The bytes of a PNG file in color, ``values (H, W, 3)`` uint16, which Pillow does not write."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def test_of_16_bits_in_color_the_upper_8_are_kept_and_that_is_told(tmp_path):
    values = np.random.default_rng(0).integers(0, 65_536, (4, 5, 3), dtype=np.uint16)
    (tmp_path / "a.png").write_bytes(png_of_16_bits(values))
    found = read_files([tmp_path / "a.png"], (3, 4, 5))
    np.testing.assert_array_equal(found.images[0].movedim(0, -1), values >> 8)
    assert "1 of 16 bits, of which the upper 8 are kept" in describe_facts({"train": found.facts}, Reading(), 3)


def test_kinds_of_pixels_are_counted(tmp_path, write_image):
    write_image(tmp_path / "a.png", (4, 4))
    write_image(tmp_path / "b.png", (4, 4, 3))
    write_image(tmp_path / "c.png", (4, 4, 4))
    Image.new("CMYK", (4, 4)).save(tmp_path / "d.jpg")
    write_image(tmp_path / "e.png", np.zeros((4, 4), np.uint16))
    Image.new("P", (4, 4)).save(tmp_path / "f.gif")
    facts = read_files(image_paths(tmp_path), (1, 4, 4)).facts
    assert facts.modes == {"gray": 1, "color": 2, "color with transparency": 1, "CMYK": 1, "gray of 16 bits": 1}
    line = describe_facts({"train": facts}, Reading(), 1)[0]
    assert line.startswith("2 color, 1 ")
    assert line.endswith(": all read as gray (--data.channels 1)")


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_photos_are_turned_upright(tmp_path, orientation):
    quarters = np.kron([[0, 80], [160, 240]], np.ones((16, 24))).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(quarters).save(tmp_path / "A b.JPG", exif=exif, quality=95)
    expected = UPRIGHT[orientation](quarters)
    found = read(tmp_path / "A b.JPG", (1, *expected.shape))
    assert abs(found.astype(int) - expected).max() <= 12


def test_names_may_be_any(tmp_path, write_image):
    names = ["a b.PNG", "\N{CAMERA}.png", "e\u0301.png", "\u00e9.png", "photo.JPG", "x.jpeg", ".hidden.png"]
    for name in names:
        write_image(tmp_path / name, (4, 4), format="PNG")  # whatever the name says
    (tmp_path / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (tmp_path / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    found = find_images(tmp_path)
    assert [path.name for path in found.images] == sorted(set(names) - {".hidden.png"})
    assert [path.name for path in found.others] == ["Thumbs.db"]
    assert read_images(found.images, (1, 4, 4)).shape == (6, 1, 4, 4)
