"""COCO's keypoints: people are cut out where they are, what has no joints is left out, and every fault is named."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from capsule_lightning.data.coco_keypoints import CocoKeypointsDataModule, cut_out
from capsule_lightning.errors import InputError

NAMES = ["nose", "left_shoulder", "right_hip"]


def person(image, n=0, **changes):
    """A person in a box of 20x30 pixels at (10 + n, 8), whose nose is not labeled and whose hip is hidden."""
    left, top = 10 + n, 8
    keypoints = [0, 0, 0, left + 5, top + 5, 2, left + 15, top + 25, 1]
    said = {"id": 100 + n, "image_id": image, "category_id": 1, "bbox": [left, top, 20, 30], "area": 400.5}
    return {**said, "keypoints": keypoints, "num_keypoints": 2, "iscrowd": 0, **changes}


def written(people=None, **changes):
    images = [{"id": 7 + n, "file_name": f"a/{n}.png", "height": 60, "width": 80} for n in range(6)]
    categories = [
        {"id": 3, "name": "dog"},
        {"id": 1, "name": "person", "keypoints": NAMES, "skeleton": [[1, 2]]},
    ]
    people = [person(7 + n % 6, n) for n in range(12)] if people is None else people
    return {"images": images, "annotations": people, "categories": categories, **changes}


@pytest.fixture
def make(tmp_path):
    """Writes images and a file, and makes the data of them."""
    (tmp_path / "images/a").mkdir(parents=True)
    random = np.random.default_rng(0)
    for n in range(6):
        pixels = random.integers(0, 256, (60, 80, 3), dtype=np.uint8)
        pixels[13, 15] = (255, 0, 0)
        Image.fromarray(pixels).save(tmp_path / f"images/a/{n}.png")

    def make(said=None, **options):
        text = said if isinstance(said, str) else json.dumps(written() if said is None else said)
        (tmp_path / "people.json").write_text(text)
        given = {"batch_size": 2, "size": 40, "margin": 1.0, "test_size": 0.3, "val_size": 0.2, **options}
        return CocoKeypointsDataModule(str(tmp_path / "people.json"), str(tmp_path / "images"), **given)

    return make


def test_people_are_cut_out_and_their_joints_follow(make) -> None:
    data = make(
        written([person(7, 0), person(8, 1), person(9, 2), person(10, 3)]), test_size=0.5, batch_size=1, val_size=0
    )
    data.setup()
    assert data.class_names == NAMES
    assert data.in_shape == (3, 40, 40)
    for split in ("train", "test"):
        store = data.stores[split]
        for stored in data.loader(split):
            batch = data.on_after_batch_transfer(stored, 0)
            people = data._people[split]
            for n, index in enumerate(batch.indices.tolist()):
                left, top, width, _ = people[index].box
                scale = 40 / 30  # the square has the longer side of the box, around its center
                square = left + (width - 30) / 2, top
                expected = [(left + 5 - square[0]) * scale, (top + 5 - square[1]) * scale]
                assert batch.joints[n, 1].tolist() == pytest.approx(expected)
                assert batch.joints[n, 0].isnan().all()
                assert batch.visible[n].tolist() == [False, True, False]
                assert batch.areas[n].item() == pytest.approx(400.5 * scale**2)
        assert store.inputs.dtype == torch.uint8
    assert not data.is_depth  # photographs give no depth to learn


def test_a_pixel_is_where_its_point_is() -> None:
    image = np.zeros((30, 30, 3), np.uint8)
    image[12, 20] = 255
    found = cut_out(image, 15.0, 5.0, 10.0, 40)[0]
    row, column = np.unravel_index(found.argmax(), found.shape)
    assert abs(column + 0.5 - (20.5 - 15) * 4) <= 2
    assert abs(row + 0.5 - (12.5 - 5) * 4) <= 2
    outside = cut_out(np.full((30, 30), 200, np.uint8), -10.0, -10.0, 20.0, 10)
    assert outside.shape == (1, 10, 10)
    assert (outside[0, :4] == 0).all()
    assert outside[0, 9, 9] == 200


def test_crowds_and_people_without_joints_are_left_out_and_counted(make) -> None:
    odd = [
        person(7, 20, iscrowd=1, keypoints=[0] * 9),
        person(8, 21, keypoints=[0] * 9),
        person(9, 22, bbox=[5, 5, 0, 0]),
        {"id": 1, "image_id": 7, "category_id": 3, "bbox": [0, 0, 5, 5]},
    ]
    data = make(written([*written()["annotations"], *odd]))
    data.setup()
    assert sum(len(store) for store in data.stores.values()) == 12
    assert "1 crowds and 2 people without a labeled joint are left out" in str(data)


def test_a_tiny_box_and_one_cut_by_the_border_are_read(make) -> None:
    people = [*written()["annotations"], person(7, 30, bbox=[40, 40, 0.5, 0.25]), person(7, 31, bbox=[-6, 50, 30, 30])]
    data = make(written(people))
    data.setup()
    assert sum(len(store) for store in data.stores.values()) == 14


def test_people_of_an_image_are_in_one_split(make) -> None:
    data = make()
    data.setup()
    image = {split: [p.image for p in people] for split, people in data._people.items()}
    train = {image["train"][n] for n in data._train.tolist()}
    val = {image["train"][n] for n in data._val.tolist()}
    assert train
    assert val
    assert not train & val
    assert not (train | val) & set(image["test"])
    assert data.name_of(0).startswith("a/")


def test_a_file_of_its_own_for_the_test(make, tmp_path) -> None:
    (tmp_path / "test.json").write_text(json.dumps(written([person(7)])))
    data = make(test_annotations=str(tmp_path / "test.json"))
    data.setup()
    assert [len(data.stores[split]) for split in ("train", "test")] == [12, 1]


def without(key, **said):
    return {name: value for name, value in said.items() if name != key}


IMAGE = {"id": 7, "file_name": "a/0.png", "height": 60, "width": 80}
WRONG = {
    "no-json": ("{", "not valid JSON"),
    "list": ("[]", "expected a mapping with images"),
    "no-images": (without("images", **written()), "images: expected a list"),
    "no-joints": (written(categories=[{"id": 1}]), "categories: 0 have keypoints"),
    "names-twice": (written(categories=[{"id": 1, "keypoints": ["a", "a"]}]), r"categories\[0\]\.keypoints"),
    "id-twice": (written(images=[IMAGE, IMAGE]), r"images\[1\]\.id: 7 is there twice"),
    "away": (written(images=[{**IMAGE, "file_name": "../x.png"}]), r"images\[0\]\.file_name: '\.\./x\.png'"),
    "absolute": (written(images=[{**IMAGE, "file_name": "/etc/x"}]), r"images\[0\]\.file_name"),
    "height": (written(images=[{**IMAGE, "height": "60"}]), r"images\[0\]\.height: '60': expected a whole"),
    "no-image": (written([person(99)]), r"annotations\[0\]\.image_id: 99: there is no such image"),
    "box": (written([person(7, bbox=[1, 2, 3])]), r"annotations\[0\]\.bbox"),
    "box-word": (written([person(7, bbox=[1, 2, 3, "4"])]), r"annotations\[0\]\.bbox"),
    "few": (
        written([person(7), person(8, keypoints=[1, 2, 2])]),
        r"annotations\[1\]\.keypoints: 3 numbers; expected 9",
    ),
    "seen": (written([person(7, keypoints=[0, 0, 5] * 3)]), r"annotations\[0\]\.keypoints: v=5"),
    "area": (written([person(7, area=-1)]), r"annotations\[0\]\.area: -1"),
    "nobody": (written([person(7, iscrowd=1)]), "annotations: nobody in it"),
}


@pytest.mark.parametrize(("said", "told"), WRONG.values(), ids=WRONG)
def test_malformed_files_are_refused(said, told, make) -> None:
    with pytest.raises(InputError, match=told) as refused:
        make(said)
    assert "people.json" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_images_that_are_missing_or_of_another_size_are_refused(make, tmp_path) -> None:
    Image.new("RGB", (10, 10)).save(tmp_path / "images/a/0.png")
    with pytest.raises(InputError, match=r"0\.png: has 10x10 pixels, .* 60x80"):
        make(test_size=0.2).setup()
    (tmp_path / "images/a/0.png").unlink()
    with pytest.raises(InputError, match=r"0\.png"):
        make().setup()


@pytest.mark.parametrize(
    ("options", "told"), [({"margin": 0.5}, "margin"), ({"channels": 2}, "channels"), ({"size": 1}, "size")]
)
def test_values_out_of_range_are_refused(options, told, make) -> None:
    with pytest.raises(InputError, match=f"{told}="):
        make(**options)


@pytest.mark.parametrize(
    ("box", "told"),
    [
        ([0, 0, 20_000, 5], "a margin of 1 make a square of 20000 pixels; expected one of at most 64,000,000"),
        ([0, 0, 5, 1e150], r"make a square of 1e\+150 pixels"),
        ([81, 0, 5, 5], "lies outside of the image of 60x80 pixels"),
        ([-1e300, 0, 5, 5], "lies outside"),
        ([3, 3e18, 5, 5], "lies outside"),
    ],
)
def test_a_box_that_cannot_be_cut_out_is_refused(box, told, make) -> None:
    data = make(written([person(7, bbox=box), person(8), person(9), person(10)]))
    with pytest.raises(InputError, match=rf"a/0\.png: the box \[.*\] of a person .*{told}"):
        data.setup()
