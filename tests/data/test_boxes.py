"""COCO, VOC and YOLO files that the tests write, read right, and malformed ones refused by file and field."""

import json
import re

import pytest
import torch
from PIL import Image

from capsule_lightning.data.boxes import BoxesDataModule
from capsule_lightning.data.targets import ABSENT
from capsule_lightning.errors import InputError

ALL = {"image_size": 32, "test_size": 1, "val_size": 0, "batch_size": 1}


def picture(path, columns=64, rows=32):
    """Dark, with its right half bright."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (columns, rows))
    image.paste((255, 255, 255), (columns // 2, 0, columns, rows))
    image.save(path)
    return path


def coco(folder, **changes):
    """Four images: objects of which one is a crowd, one tiny, one empty and one cut; and two images without any."""
    for n in range(4):
        picture(folder / f"{n}.png")
    stated = {
        "images": [{"id": 10 + n, "file_name": f"{n}.png", "height": 32, "width": 64} for n in range(4)],
        "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}],
        "annotations": [
            {"id": 1, "image_id": 10, "category_id": 7, "bbox": [32, 8, 16, 8], "iscrowd": 0},
            {"id": 2, "image_id": 10, "category_id": 3, "bbox": [0, 0, 64, 32], "iscrowd": 1},
            {"id": 3, "image_id": 10, "category_id": 3, "bbox": [4, 4, 0.5, 0.25]},
            {"id": 4, "image_id": 11, "category_id": 3, "bbox": [4, 4, 0, 5]},
            {"id": 5, "image_id": 12, "category_id": 7, "bbox": [-8, 24, 24, 16]},
            {"id": 6, "image_id": 12, "category_id": 7, "bbox": [200, 0, 10, 10]},
        ],
    }
    stated.update(changes)
    path = folder / "instances.json"
    path.write_text(json.dumps(stated))
    return path


def everything(path, **options):
    """Each set's images by their file names, as a task receives them."""
    data = BoxesDataModule(None if path is None else str(path), **(ALL | {"mirror": False} | options))
    data.setup(None)
    found = {}
    for split in ("train", "test"):
        loader = data.loader(split)
        for batch in loader:
            made = data.on_after_batch_transfer(batch, 0)
            for n, index in enumerate(made.indices.tolist()):
                here = made.labels[n] != ABSENT
                name = data.sets[split][index].path.name
                found[name] = [
                    made.boxes[n][here].tolist(),
                    made.labels[n][here].tolist(),
                    made.crowd[n][here].tolist(),
                ]
    return data, found


def test_coco(tmp_path):
    data, found = everything(coco(tmp_path))
    assert data.class_names == ["dog", "cat"]  # by their ids
    assert found["0.png"] == [
        [[16, 8, 24, 16], [0, 0, 32, 32], [2, 4, 2.25, 4.25]],  # the images are half as wide
        [1, 0, 0],
        [False, True, False],
    ]
    assert found["1.png"] == found["3.png"] == [[], [], []]
    assert found["2.png"] == [[[0, 24, 8, 32]], [1], [False]]
    told = re.findall(r"(\d+) boxes cut at the border, (\d+) without area", str(data))
    assert [sum(map(int, each)) for each in zip(*told, strict=True)] == [1, 2]


def test_the_truth_of_coco_has_precision_1(tmp_path):
    """What is read, taken for found, has an average precision of 1: a crowd and a tiny object too."""
    from capsule_lightning.metrics.boxes import BoxPrecision
    from capsule_lightning.tasks.detection import truth_of

    pytest.importorskip("faster_coco_eval")
    data = BoxesDataModule(str(coco(tmp_path)), **(ALL | {"batch_size": 3}))
    data.setup("fit")
    for batch in data.loader("train"):
        truth = truth_of(data.on_after_batch_transfer(batch, 0))
        found = [{key: each[key][each["iscrowd"] == 0] for key in ("boxes", "labels")} for each in truth]
        found = [each | {"scores": torch.ones(len(each["labels"]))} for each in found]
        metric = BoxPrecision("map")
        metric.update(found, truth)
        assert metric.compute() == 1


VOC = """<annotation><filename>{name}</filename><size><width>64</width><height>32</height><depth>3</depth></size>
{objects}</annotation>"""
OBJECT = """<object><name>{name}</name><difficult>{difficult}</difficult>
<bndbox><xmin>{0}</xmin><ymin>{1}</ymin><xmax>{2}</xmax><ymax>{3}</ymax></bndbox></object>"""


def voc(folder, *objects, text=VOC):
    (folder / "Annotations").mkdir(exist_ok=True)
    for n in range(2):
        picture(folder / "JPEGImages" / f"{n}.jpg")
        stated = text.format(name=f"{n}.jpg", objects="".join(objects) if n == 0 else "")
        (folder / "Annotations" / f"{n}.xml").write_text(stated)
    return folder


def test_voc_counts_pixels_from_one(tmp_path):
    path = voc(
        tmp_path,
        OBJECT.format(1, 1, 64, 32, name="sofa", difficult=0),
        OBJECT.format(33, 9, 48, 16, name="cat", difficult=1),
    )
    data, found = everything(path)
    assert data.class_names == ["cat", "sofa"]
    assert found["0.jpg"] == [[[0, 0, 32, 32], [16, 8, 24, 16]], [1, 0], [False, True]]
    assert found["1.jpg"] == [[], [], []]


def yolo(folder, text, classes="cat\ndog\n"):
    for n in range(3):
        picture(folder / "images" / "some" / f"{n}.png")
    (folder / "labels" / "some").mkdir(parents=True)
    (folder / "labels" / "some" / "0.txt").write_text(text)
    (folder / "labels" / "some" / "1.txt").write_text("")
    if classes:
        (folder / "classes.txt").write_text(classes)
    return folder


def test_yolo(tmp_path):
    data, found = everything(yolo(tmp_path, "1 0.5 0.5 0.25 0.5\n\n0 0.0 0.5 0.5 1\n"))
    assert data.class_names == ["cat", "dog"]
    assert found["0.png"] == [[[12, 8, 20, 24], [0, 0, 8, 32]], [1, 0], [False, False]]
    assert found["1.png"] == found["2.png"] == [[], [], []]


def test_yolo_without_names(tmp_path):
    assert everything(yolo(tmp_path, "2 0.5 0.5 0.25 0.5", ""))[0].class_names == ["0", "1", "2"]


def test_half_of_the_training_images_are_mirrored_with_their_boxes(tmp_path):
    data = BoxesDataModule(str(coco(tmp_path)), **(ALL | {"batch_size": 3, "channels": 1}))
    data.setup("fit")
    seen = set()
    loader = data.train_dataloader()
    for epoch in range(6):
        loader.set_epoch(epoch)
        for batch in loader:
            made = data.on_after_batch_transfer(batch, 0)
            for n, index in enumerate(made.indices.tolist()):
                mirrored = bool(made.pictures[n, 0, 16, 2] > 0.5)  # the bright half is on the left
                if data.sets["train"][index].path.name == "2.png":
                    seen.add((mirrored, tuple(made.boxes[n, 0].tolist())))
    assert seen in ({(False, (0, 24, 8, 32)), (True, (24, 24, 32, 32))}, set())
    assert seen or data.sets["test"][0].path.name == "2.png"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"images": None}, "images is missing"),
        ({"images": [3]}, r"images\[0\]=3"),
        ({"images": [{"id": "a"}]}, r"images\[0\].id=a"),
        ({"images": [{"id": 1, "file_name": "../0.png", "height": 32, "width": 64}]}, r"images\[0\].file_name"),
        ({"images": [{"id": 1, "file_name": "/etc/passwd", "height": 32, "width": 64}]}, r"images\[0\].file_name"),
        ({"images": [{"id": 1, "file_name": "0.png", "height": 0, "width": 64}]}, "height=0"),
        ({"categories": []}, "categories is empty"),
        ({"categories": [{"id": 1}]}, r"categories\[0\].name"),
        ({"annotations": [{"image_id": 99, "category_id": 7, "bbox": [0, 0, 1, 1]}]}, r"annotations\[0\].image_id=99"),
        (
            {"annotations": [{"image_id": 10, "category_id": 8, "bbox": [0, 0, 1, 1]}]},
            r"annotations\[0\].category_id=8",
        ),
        ({"annotations": [{"image_id": 10, "category_id": 7, "bbox": [0, 0, 1]}]}, r"annotations\[0\].bbox"),
        ({"annotations": [{"image_id": 10, "category_id": 7, "bbox": [0, "x", 1, 1]}]}, r"bbox\[1\]='x'"),
        ({"annotations": [{"image_id": 10, "category_id": 7, "bbox": [0, 0, -1, 1]}]}, "0 or more"),
        ({"annotations": [{"image_id": 10, "category_id": 7, "bbox": [0, 0, 1, 1], "iscrowd": 2}]}, "iscrowd=2"),
    ],
)
def test_malformed_coco_is_refused_by_file_and_field(tmp_path, changes, words):
    path = coco(tmp_path, **changes)
    with pytest.raises(InputError, match=words) as error:
        everything(path)
    assert "instances.json" in str(error.value)
    assert "\n" not in str(error.value)


def test_coco_of_another_picture_is_refused(tmp_path):
    path = coco(tmp_path)
    picture(tmp_path / "0.png", 60, 32)
    with pytest.raises(InputError, match=r"images\[0\].*\(32, 64\).*\(32, 60\)"):
        everything(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<annotation>", "not valid XML"),
        ("<other/>", "<other>"),
        ('<!DOCTYPE a [<!ENTITY x "y">]><annotation>&x;</annotation>', "DOCTYPE"),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotation/>', "DOCTYPE"),
        ("<annotation>" + "<a>" * 100 + "</a>" * 100 + "</annotation>", "deep"),
        ("<annotation><filename>a.jpg</filename></annotation>", "size/height is missing"),
        ("<annotation><size/></annotation>", "filename is missing"),
    ],
)
def test_malformed_voc_is_refused(tmp_path, text, words):
    path = voc(tmp_path)
    (path / "Annotations" / "0.xml").write_text(text)
    with pytest.raises(InputError, match=words) as error:
        everything(path)
    assert "0.xml" in str(error.value)


def test_voc_boxes_are_refused_by_field(tmp_path):
    for box, words in (
        (OBJECT.format(1, 1, "a", 4, name="cat", difficult=0), r"object\[0\]/bndbox/xmax='a'"),
        (OBJECT.format(9, 1, 4, 4, name="cat", difficult=0), "xmin <= xmax"),
        (OBJECT.format(1, 1, 4, 4, name="cat", difficult=5), "difficult='5'"),
    ):
        with pytest.raises(InputError, match=words):
            everything(voc(tmp_path, box))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0 0.5 0.5 0.1", "line 1 has 4"),
        ("0 0.5 0.5 0.1 0.1\n5 0.5 0.5 0.1 0.1", "line 2, class=5"),
        ("x 0.5 0.5 0.1 0.1", "class='x'"),
        ("0 0.5 nan 0.1 0.1", "row='nan'"),
        ("0 32 16 8 8", "not pixels"),
        ("0 0.5 0.5 0.1 0.1 0.3 0.2", "line 1 has 7"),
    ],
)
def test_malformed_yolo_is_refused_by_line(tmp_path, text, words):
    with pytest.raises(InputError, match=words) as error:
        everything(yolo(tmp_path, text))
    assert "0.txt" in str(error.value)


def test_a_label_without_an_image_is_refused(tmp_path):
    path = yolo(tmp_path, "")
    (path / "labels" / "some" / "9.txt").write_text("")
    with pytest.raises(InputError, match=r"9.txt: there is no image 9"):
        everything(path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"path": None}, "data.path"),
        ({"path": "nowhere.json"}, "path=nowhere.json"),
        ({"format": "csv"}, "format='csv'"),
        ({"channels": 4}, "channels=4"),
        ({"class_names": ["cat"]}, "class 'dog'"),
        ({"test_size": 4}, "nothing would remain"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, options, words):
    options = {"path": str(coco(tmp_path))} | options
    with pytest.raises(InputError, match=words):
        everything(options.pop("path"), **options)
