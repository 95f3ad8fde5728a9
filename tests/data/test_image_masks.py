"""Images and masks of one's own: what values mean, what is ignored, real formats, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from capsule_lightning.augmentations.chain import Chain, Mirror, Resize
from capsule_lightning.augmentations.geometry import Affine, PaddedCrop, Shift
from capsule_lightning.augmentations.patch import RandomPatch
from capsule_lightning.data.image_masks import ImageMaskDataModule
from capsule_lightning.data.mask_files import read_mask
from capsule_lightning.data.mask_values import code_of
from capsule_lightning.data.pictures import Reading
from capsule_lightning.errors import InputError
from capsule_lightning.metrics.masks import image_dice

SIDE = 16


def write(folder: Path, values: np.ndarray, count: int = 8, *, ending: str = "png", suffix: str = "") -> dict[str, str]:
    """Write pictures in which a mask can be seen, and the masks; return their folders as options."""
    (folder / "images").mkdir()
    (folder / "masks").mkdir()
    for number in range(count):
        Image.fromarray(np.where(values > 0, 200, 20 + number).astype(np.uint8)).save(folder / f"images/{number}.png")
        Image.fromarray(values).save(folder / f"masks/{number}{suffix}.{ending}")
    return {"pictures": str(folder / "images"), "masks": str(folder / "masks")}


def square(value: int, dtype: type = np.uint8) -> np.ndarray:
    values = np.zeros((SIDE, SIDE), dtype=dtype)
    values[4:10, 2:8] = value
    return values


def made(options: dict, **more: object) -> ImageMaskDataModule:
    data = ImageMaskDataModule(**{"image_size": SIDE, "channels": 1, "batch_size": 2, **options, **more})
    data.setup("fit")
    data.setup("test")
    return data


def test_of_two_valued_masks_255_is_the_object(tmp_path):
    data = made(write(tmp_path, square(255)))
    assert data.class_names == ["object"]
    assert data.store("test").labels[0].unique().tolist() == [0, 1]
    assert "255 is the object" in data.describe()
    assert "ignored: nothing" in data.describe()


def test_borders_of_255_are_ignored_and_told(tmp_path):
    values = square(2)
    values[3], values[12, :4] = 255, 1
    data = made(write(tmp_path, values))
    labels = data.store("train").labels[0]
    assert (labels == -1).sum() == SIDE
    assert (labels == 2).sum() == 36
    assert data.class_names == ["1", "2"]
    assert "ignored: value 255, 6.2 % of the pixels" in data.describe()
    assert "which is ignored (--data.ignore_index)" in data.describe()


def test_what_may_mean_two_things_is_refused_until_it_is_stated():
    with pytest.raises(InputError, match=r"255 may be a class or what is ignored.*ignore_index"):
        code_of([0, 128, 255], "masks")
    assert code_of([0, 128, 255], "masks", ignore_index=[]).labels == {0: 0, 128: 1, 255: 2}
    assert code_of([0, 128, 255], "masks", ignore_index=[255]).labels == {0: 0, 128: 1, 255: -1}
    pets = code_of([1, 2, 3], "trimaps", ["pet"], [1], [3], background_index=2)
    assert pets.labels == {2: 0, 1: 1, 3: -1}
    assert not pets.note
    assert "no pixel is 0, the background" in code_of([1, 2, 3], "trimaps").note


@pytest.mark.parametrize(
    ("values", "options", "words"),
    [
        ([0], {}, "only the background"),
        ([0, 1, 4], {"class_names": ["a", "b"]}, "value 4"),
        ([0, 255], {"ignore_index": [255]}, "only the background"),
        ([0, 255], {"class_names": ["a", "b"]}, "value 255"),
        ([0, 1], {"class_values": [1, 2], "class_names": ["a"]}, "class_values"),
        ([0, 1], {"class_values": [0]}, "in two of them"),
        ([0, 1], {"class_values": [1], "ignore_index": [1]}, "in two of them"),
        (range(300), {"ignore_index": []}, "more than 256"),
    ],
)
def test_values_without_one_meaning_are_refused(values, options, words):
    with pytest.raises(InputError, match=words):
        code_of(list(values), "masks", **options)


def as_palette(values: np.ndarray, path: Path) -> None:
    image = Image.fromarray(values.astype(np.uint8)).convert("P")
    image.putdata(values.ravel().tolist())
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768).tolist())
    image.save(path)


@pytest.mark.parametrize(
    "kind", ["palette", "gray", "png16", "tiff16", "tiff32", "float", "bits", "rgb", "gif", "turned"]
)
def test_every_format_gives_the_numbers_that_were_written(kind, tmp_path):
    values = np.arange(12).reshape(3, 4) % (2 if kind == "bits" else 7)
    path = tmp_path / f"mask.{ {'gif': 'gif', 'tiff16': 'tif', 'tiff32': 'tif', 'float': 'tif'}.get(kind, 'png') }"
    if kind in ("palette", "gif"):
        as_palette(values, path)
    elif kind in ("png16", "tiff16"):
        values = values * 5000
        Image.fromarray(values.astype(np.uint16)).save(path)
    elif kind == "tiff32":
        values = values * 100_000
        Image.fromarray(values.astype(np.int32)).save(path)
    elif kind == "float":
        Image.fromarray(values.astype(np.float32)).save(path)
    elif kind == "bits":
        Image.fromarray(values.astype(bool)).save(path)
    elif kind == "rgb":
        Image.fromarray(np.repeat(values[..., None], 3, axis=2).astype(np.uint8)).save(path)
    elif kind == "turned":
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned to the right
        Image.fromarray(values.astype(np.uint8)).save(path, exif=exif)
        values = np.rot90(values, -1)
    else:
        Image.fromarray(values.astype(np.uint8)).save(path)
    assert read_mask(path, Reading()).tolist() == values.tolist()


def test_masks_that_say_no_number_are_refused(tmp_path):
    path = tmp_path / "mask.png"
    Image.new("RGB", (4, 4), (1, 2, 3)).save(path)
    with pytest.raises(InputError, match=r"mask\.png: a mask in colors"):
        read_mask(path, Reading())
    Image.new("L", (4, 4)).save(tmp_path / "mask.jpg")
    with pytest.raises(InputError, match=r"mask\.jpg: a mask as JPEG"):
        read_mask(tmp_path / "mask.jpg", Reading())
    Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(tmp_path / "half.tif")
    with pytest.raises(InputError, match=r"half\.tif: a mask with fractions"):
        read_mask(tmp_path / "half.tif", Reading())
    first = Image.new("L", (4, 4))
    first.save(tmp_path / "pages.tif", save_all=True, append_images=[Image.new("L", (4, 4), 1)])
    with pytest.raises(InputError, match=r"pages\.tif: a mask of several pages"):
        read_mask(tmp_path / "pages.tif", Reading())
    path.write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(InputError, match=r"mask\.png: cannot be read"):
        read_mask(path, Reading())
    Image.new("L", (4, 4)).save(path)
    with pytest.raises(InputError, match="more than 15 pixels"):
        read_mask(path, Reading(max_pixels=15))


def test_a_table_states_pairs_and_splits(tmp_path):
    write(tmp_path, square(1), count=6)
    splits = ["train", "train", "train", "val", "test", "test"]
    rows = [f"images/{n}.png,masks/{n}.png,{split}" for n, split in enumerate(splits)]
    (tmp_path / "all.csv").write_text("\n".join(["path,mask,split", *rows]))
    data = made({"table": str(tmp_path / "all.csv")})
    assert (len(data._train), len(data._val), len(data.store("test"))) == (3, 1, 2)
    assert data.name_of(1).endswith("images/5.png")
    assert data.store("train").inputs[int(data._val[0]), 0, 0, 0] == 23
    (tmp_path / "all.csv").write_text("path,mask\nimages/0.png,masks/none.png\n")
    with pytest.raises(InputError, match=r"all\.csv.*masks.*none\.png.*line 2"):
        made({"table": str(tmp_path / "all.csv")})
    (tmp_path / "all.csv").write_text("path,label\nimages/0.png,3\n")
    with pytest.raises(InputError, match=r"no column 'mask'"):
        made({"table": str(tmp_path / "all.csv")})


@pytest.mark.parametrize("option", ["pictures", "masks"])
def test_a_folder_that_is_none_is_refused_by_its_option(option, tmp_path):
    options = write(tmp_path, square(1))
    file = tmp_path / "images" / "0.png"
    for path, kind in ((tmp_path / "none", "no such"), (file, "file")):
        with pytest.raises(InputError, match=f"{option}={path}: .*{kind}.*expected a folder of image files"):
            made({**options, option: str(path)})


def test_images_without_a_mask_are_told_and_masks_of_other_pictures_refused(tmp_path):
    options = write(tmp_path, square(1), suffix="_mask")
    Image.new("L", (SIDE, SIDE)).save(tmp_path / "images" / "lonely.png")
    with pytest.raises(InputError, match=r"none of its 8 masks.*mask_suffix"):
        made(options)
    data = made(options, mask_suffix="_mask")
    assert "1 images have no mask and are left out: lonely.png" in data.describe()
    Image.new("L", (SIDE, SIDE - 1)).save(tmp_path / "masks" / "3_mask.png")
    with pytest.raises(InputError, match=r"3_mask\.png: 15x16 pixels.*3\.png has 16x16"):
        made(options, mask_suffix="_mask")


def test_masks_are_scaled_without_mixing_values(tmp_path):
    data = made(write(tmp_path, square(7)), image_size=40)
    labels = data.store("train").labels
    assert labels.unique().tolist() == [0, 1]
    assert labels.shape[1:] == (40, 40)
    bright = data.store("train").inputs[:, 0] > 110  # half way from the dark ground
    assert (bright == (labels > 0)).float().mean() > 0.95


@pytest.mark.parametrize(
    "augmentation",
    [
        lambda: Affine(40, 0.3, 20, 3),
        lambda: Shift(4),
        lambda: PaddedCrop(3),
        lambda: Chain([Mirror, lambda: Affine(30, 0.2)]),
    ],
)
def test_an_augmentation_moves_image_and_mask_alike(augmentation):
    made, random = augmentation(), torch.Generator().manual_seed(0)
    draws = torch.rand(32, made.num_draws, generator=random)
    masks = torch.zeros(32, 24, 24, dtype=torch.int64)
    masks[:, 6:15, 5:13], masks[:, 2] = 3, -1
    moved = made.train_masks(masks, draws)
    assert set(moved.unique().tolist()) == {-1, 0, 3}
    seen = made.train((masks == 3).float().unsqueeze(1), draws).squeeze(1)
    assert_close(seen.mean(), (moved == 3).float().mean(), rtol=0.05, atol=0.0)
    apart = (seen > 0.5) != (moved == 3)
    assert apart.float().mean() < 0.02  # on edges alone, by rounding
    assert (made.train_masks(torch.zeros_like(masks), draws) == -1).any()  # what moves in


def test_masks_cannot_follow_what_changes_the_size(tmp_path):
    options = write(tmp_path, square(1))
    for augmentation in (lambda: Resize(8), lambda: RandomPatch(8), lambda: Chain([Mirror, lambda: Resize(8)])):
        with pytest.raises(InputError, match="masks cannot follow"):
            made(options, augmentation=augmentation)


def test_training_batches_do_not_depend_on_the_number_of_processes(tmp_path):
    data = made(write(tmp_path, square(1), count=20), augmentation=lambda: Affine(40, 0.3), batch_size=4)
    whole = [data.on_after_batch_transfer(each, 0) for each in data.train_dataloader()]
    loader = data.train_dataloader()
    loader.rank, loader.world_size = 1, 2
    half = [data.on_after_batch_transfer(each, 0) for each in loader]
    for one, two in zip(whole, half, strict=True):
        assert_close(one.masks[1::2], two.masks)
        assert_close(one.images[1::2], two.images)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "no masks are given"),
        ({"pictures": "here"}, "no masks are given"),
        ({"table": "a.csv", "test_masks": "b", "test_pictures": "c"}, "not with a table"),
        ({"table": "a.csv", "test_size": -1}, "test_size=-1"),
        ({"table": "a.csv", "image_size": 4}, "image_size=4"),
        ({"table": "a.csv", "channels": 2}, "channels=2"),
    ],
)
def test_options_out_of_range_are_refused(options, words):
    with pytest.raises(InputError, match=words):
        ImageMaskDataModule(**options)


def test_images_without_an_object_and_objects_that_the_border_cuts_are_kept(tmp_path):
    options = write(tmp_path, square(255))
    cut = np.zeros((SIDE, SIDE), np.uint8)
    cut[12:, 13:] = 255
    Image.fromarray(np.zeros((SIDE, SIDE), np.uint8)).save(tmp_path / "masks/0.png")
    Image.fromarray(cut).save(tmp_path / "masks/1.png")
    data = made(options, test_size=1, val_size=0)
    pairs, labels = data.pairs, {}
    for split in ("train", "test"):
        for path, mask in zip(pairs[split].images, data.store(split).labels, strict=True):
            labels[path.stem] = mask
    assert labels["0"].unique().tolist() == [0]
    assert torch.equal(labels["1"] == 1, torch.from_numpy(cut > 0))
    batch = data.on_after_batch_transfer(next(iter(data.loader("train"))), 0)
    assert image_dice(torch.zeros_like(batch.masks), batch.masks * 0, 2).isnan().all()  # nothing to find counts nowhere
