"""Oxford-IIIT Pet and Pascal VOC as torchvision keeps them, in files that the tests write."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from capsule_lightning.data.oxford_pets import OxfordPetsDataModule
from capsule_lightning.data.voc_detection import VOCBoxesDataModule
from capsule_lightning.data.voc_masks import VOCMasksDataModule
from capsule_lightning.data.voc_sets import CLASSES
from capsule_lightning.errors import InputError

ALL = {"image_size": 16, "batch_size": 1, "val_size": 1, "download": False}


def pets(folder: Path) -> Path:
    top = folder / "oxford-iiit-pet"
    for part in ("images", "annotations/trimaps"):
        (top / part).mkdir(parents=True)
    trimap = np.full((16, 16), 2, np.uint8)
    trimap[3:13, 3:13], trimap[5:11, 5:11] = 3, 1
    names = [f"Abyssinian_{n}" for n in range(3)] + ["beagle_1"]
    for name in names:
        Image.new("RGB", (16, 16), (90, 60, 30)).save(top / f"images/{name}.jpg")
        Image.fromarray(trimap).save(top / f"annotations/trimaps/{name}.png")
    rows = [f"{name} {1 + n // 3} {1 + n // 3} 1" for n, name in enumerate(names)]
    (top / "annotations/trainval.txt").write_text("\n".join(["#Image CLASS-ID SPECIES BREED-ID", *rows[:3]]) + "\n")
    (top / "annotations/test.txt").write_text(rows[3] + "\n")
    return top


def test_pets(tmp_path):
    pets(tmp_path)
    data = OxfordPetsDataModule(str(tmp_path), **ALL)
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    assert (len(data._train), len(data._val), len(data.store("test"))) == (2, 1, 1)
    assert data.class_names == ["pet"]
    assert data.store("test").labels[0].unique(return_counts=True)[1].tolist() == [64, 156, 36]  # border, ground, pet
    assert "ignored: value 3, 25.0 % of the pixels" in data.describe()
    assert data.name_of(0).endswith("beagle_1.jpg")
    data = OxfordPetsDataModule(str(tmp_path), border="class", **ALL)
    assert data.class_names == ["pet", "border"]
    assert data.store("test").labels[0].unique(return_counts=True)[1].tolist() == [156, 36, 64]


def test_pets_that_are_not_what_they_should_be(tmp_path):
    with pytest.raises(InputError, match=r"oxford-iiit-pet: no such.*data\.root.*download true"):
        OxfordPetsDataModule(str(tmp_path), **ALL).prepare_data()
    top = pets(tmp_path)
    (top / "annotations/test.txt").write_text("beagle_1 1 1\n")
    with pytest.raises(InputError, match=r"test\.txt, line 1: has 3 words, expected 4"):
        OxfordPetsDataModule(str(tmp_path), **ALL).setup("test")
    (top / "annotations/test.txt").write_text("../beagle_1 1 1 1\n")
    with pytest.raises(InputError, match=r"test\.txt, line 1: name='\.\./beagle_1'"):
        OxfordPetsDataModule(str(tmp_path), **ALL).setup("test")
    (top / "annotations/test.txt").write_text("beagle_1 1 1 1\n")
    Image.fromarray(np.full((16, 16), 7, np.uint8)).save(top / "annotations/trimaps/beagle_1.png")
    with pytest.raises(InputError, match="value 7"):
        OxfordPetsDataModule(str(tmp_path), **ALL).setup("test")
    with pytest.raises(InputError, match="border='red'"):
        OxfordPetsDataModule(str(tmp_path), border="red", **ALL)


XML = """<annotation><folder>VOC2007</folder><filename>{0}.jpg</filename>
<size><width>32</width><height>16</height><depth>3</depth></size>{1}</annotation>"""
CAT = """<object><name>cat</name><pose>Left</pose><truncated>0</truncated><difficult>{}</difficult>
<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>16</xmax><ymax>16</ymax></bndbox></object>"""


def voc(folder: Path, year: str, lists: dict[str, list[str]], kind: str) -> Path:
    top = folder / "VOCdevkit" / f"VOC{year}"
    for part in ("JPEGImages", "SegmentationClass", "Annotations", f"ImageSets/{kind}"):
        (top / part).mkdir(parents=True)
    values = np.zeros((16, 32), np.uint8)
    values[4:12, 4:20], values[5:11, 5:19] = 255, 8  # a cat within its border
    mask = Image.fromarray(values).convert("P")
    mask.putdata(values.ravel().tolist())
    mask.putpalette(np.random.default_rng(0).integers(0, 256, 768).tolist())
    for name in (name for names in lists.values() for name in names):
        Image.new("RGB", (32, 16), (10, 200, 30)).save(top / f"JPEGImages/{name}.jpg")
        mask.save(top / f"SegmentationClass/{name}.png")
        objects = CAT.format(0) + CAT.format(1) if name == "000001" else ""
        (top / f"Annotations/{name}.xml").write_text(XML.format(name, objects))
    for part, names in lists.items():
        (top / f"ImageSets/{kind}/{part}.txt").write_text("".join(f"{name}\n" for name in names))
    return top


def test_masks_of_voc(tmp_path):
    voc(tmp_path, "2012", {"train": ["2007_000032", "2007_000039", "2007_1"], "val": ["2007_000033"]}, "Segmentation")
    data = VOCMasksDataModule(str(tmp_path), **ALL)
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    assert (len(data._train), len(data._val), len(data.store("test"))) == (2, 1, 1)
    assert data.class_names == list(CLASSES)
    labels = data.store("test").labels[0]
    assert labels.unique().tolist() == [-1, 0, 1 + CLASSES.index("cat")]
    assert (labels == 8).sum() == 6 * 7  # half as many columns
    assert "ignored: value 255" in data.describe()


def test_boxes_of_voc_and_its_own_splits(tmp_path):
    top = voc(tmp_path, "2007", {"train": ["000001", "000002"], "val": ["000003"], "test": ["000004"]}, "Main")
    data = VOCBoxesDataModule(str(tmp_path), mirror=False, **ALL)
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    assert [data.sets["train"][int(n)].path.stem for n in data._train] == ["000001", "000002"]
    assert data._val.tolist() == [2]  # that of the list
    assert data.sets["val"][0].path.stem == "000003"
    batch = data.on_after_batch_transfer(next(iter(data.loader("train"))), 0)
    assert batch.boxes[0].tolist() == [[0, 0, 8, 16]] * 2
    assert batch.labels[0].tolist() == [CLASSES.index("cat")] * 2
    assert batch.crowd[0].tolist() == [False, True]  # difficult
    assert torch.equal(data.class_counts(), torch.bincount(torch.tensor([7, 7]), minlength=20))
    (top / "Annotations/000002.xml").unlink()
    with pytest.raises(InputError, match=r"000002\.xml: cannot be read"):
        VOCBoxesDataModule(str(tmp_path), **ALL).setup("fit")
    (top / "ImageSets/Main/test.txt").write_text("")
    with pytest.raises(InputError, match=r"test\.txt: names no images"):
        VOCBoxesDataModule(str(tmp_path), **ALL).setup("fit")
    with pytest.raises(InputError, match="year='1999'"):
        VOCBoxesDataModule(str(tmp_path), year="1999", **ALL)


def test_what_a_checkpoint_says_of_the_data_makes_the_same_data_again(tmp_path):
    voc(tmp_path, "2007", {"train": ["000001"], "val": ["000002"], "test": ["000003"]}, "Main")
    for made in (
        OxfordPetsDataModule(str(tmp_path), border="class", **ALL),
        VOCMasksDataModule(str(tmp_path), "2007", **ALL),
        VOCBoxesDataModule(str(tmp_path), mirror=False, **ALL),
    ):
        again = type(made)(**made.hparams)
        assert dict(again.hparams) == dict(made.hparams)
        assert (again.in_shape, again.num_draws) == (made.in_shape, made.num_draws)
        assert {**made.hparams} == {**made.hparams, **ALL}
