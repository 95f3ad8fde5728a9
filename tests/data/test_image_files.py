"""Image files and class trees: pixel for pixel, in order, and every fault named."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from capsule_lightning.data.image_files import class_tree, fingerprint, image_paths, read_images, size_of
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


def test_classes_are_numbered_in_order_of_their_names(tmp_path, write_tree):
    write_tree(tmp_path, ["b", "a", "c"])
    tree = class_tree(tmp_path)
    assert tree.class_names == ["a", "b", "c"]
    assert tree.labels == [0, 0, 1, 1, 2, 2]
    assert [path.parent.name for path in tree.paths] == ["a", "a", "b", "b", "c", "c"]


def test_classes_are_numbered_as_given(tmp_path, write_tree):
    write_tree(tmp_path, ["b", "a", "c"])
    tree = class_tree(tmp_path, ("c", "a", "b"))
    assert tree.class_names == ["c", "a", "b"]
    assert [path.parent.name for path in tree.paths] == ["c", "c", "a", "a", "b", "b"]
    assert tree.labels == [0, 0, 1, 1, 2, 2]


def test_other_class_names_are_named(tmp_path, write_tree):
    write_tree(tmp_path, ["cat", "dgo"])
    with pytest.raises(InputError, match=r"expected the class folders cat, dog; differing: dgo, dog$"):
        class_tree(tmp_path, ("cat", "dog"))


def test_an_empty_class_folder_is_named(tmp_path, write_tree):
    write_tree(tmp_path, ["a", "b"])
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "notes.txt").touch()
    with pytest.raises(InputError, match=r"/c: the class folder is empty"):
        class_tree(tmp_path)


def test_a_folder_without_class_folders_is_named(tmp_path, write_image):
    write_image(tmp_path / "a.png", (2, 2))
    with pytest.raises(InputError, match=r"no class folders; expected .*/<class>/<image>"):
        class_tree(tmp_path)


@pytest.fixture
def tree(tmp_path, write_tree):
    write_tree(tmp_path / "tree", ["a", "b"])
    return tmp_path / "tree"


def resize(path):
    times = path.stat()
    path.write_bytes(path.read_bytes() + b"0")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize(
    "change",
    [
        resize,
        lambda path: os.utime(path, ns=(0, 0)),
        lambda path: path.rename(path.with_name("5.png")),
        lambda path: path.unlink(),
        lambda path: shutil.copy2(path, path.with_name("5.png")),
    ],
    ids=["size", "time", "name", "less", "more"],
)
def test_the_fingerprint_changes_with_any_file(tree, change):
    before = fingerprint(image_paths(tree), tree)
    change(tree / "b" / "1.png")
    assert fingerprint(image_paths(tree), tree) != before


def test_the_fingerprint_does_not_change_with_the_place(tree, tmp_path):
    before = fingerprint(image_paths(tree), tree)
    shutil.move(tree, tmp_path / "there")
    assert fingerprint(image_paths(tmp_path / "there"), tmp_path / "there") == before
