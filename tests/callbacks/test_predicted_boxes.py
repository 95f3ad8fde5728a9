"""Boxes of a prediction as COCO's JSON: in the pixels of the files, and read back; and figures."""

import json

import lightning as L
import pytest
import torch
from PIL import Image

from capsule_lightning.callbacks.detections import DetectionFigures
from capsule_lightning.callbacks.predicted_boxes import PredictedBoxes
from capsule_lightning.data.coco_boxes import read_coco
from capsule_lightning.data.scenes import ScenesDataModule
from capsule_lightning.errors import InputError
from capsule_lightning.models.detector import CenterMaps, Detector
from capsule_lightning.tasks.detection import DetectionTask

pytest.importorskip("faster_coco_eval")


class OneBox(Detector):
    """Says of every image that an object of class 3 fills its left half."""

    def __init__(self, in_shape, num_classes):
        super().__init__(in_shape, num_classes)
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def maps(self, images):
        heat = images.new_zeros(len(images), self.num_classes, 16, 16)
        heat[:, 3, 8, 4] = 0.75
        sizes = images.new_tensor([8.0, 16.0]).view(1, 2, 1, 1).expand(len(images), 2, 16, 16)
        return CenterMaps(heat, sizes, torch.zeros_like(sizes))


def trainer(folder, *callbacks):
    return L.Trainer(
        default_root_dir=folder, accelerator="cpu", logger=False, callbacks=list(callbacks),
        enable_progress_bar=False, enable_checkpointing=False, enable_model_summary=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def predicted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("predicted")
    for n, size in enumerate([(64, 64), (200, 100)]):
        Image.new("L", size, 40 * n).save(folder / f"{n}.png")
    data = ScenesDataModule(images=str(folder), batch_size=2)
    run = trainer(folder, PredictedBoxes(), DetectionFigures(count=2))
    run.predict(DetectionTask((1, 64, 64), 10, OneBox), data)
    return folder


def test_boxes_are_in_the_pixels_of_the_files(predicted):
    stated = json.loads((predicted / "predictions.json").read_text())
    assert [(each["width"], each["height"]) for each in stated["images"]] == [(64, 64), (200, 100)]
    assert [each["bbox"] for each in stated["annotations"]] == [[0, 0, 32, 64], [0, 0, 100, 100]]
    assert [each["score"] for each in stated["annotations"]] == [0.75, 0.75]
    assert [each["category_id"] for each in stated["annotations"]] == [3, 3]
    assert [each["id"] for each in stated["annotations"]] == [1, 2]


def test_what_is_written_is_read_back(predicted):
    path = predicted / "predictions.json"
    text = json.loads(path.read_text())
    for image in text["images"]:
        image["file_name"] = image["file_name"].rpartition("/")[2]  # they were given as absolute paths
    (predicted / "again.json").write_text(json.dumps(text))
    found = read_coco(predicted / "again.json")
    assert [box.label for image in found.images for box in image.boxes] == ["3", "3"]


def test_a_figure_of_the_prediction_is_drawn(predicted):
    with Image.open(predicted / "figures" / "predict_boxes.png") as image:
        assert min(image.size) > 100
    assert not (predicted / "figures" / "predict_worst.png").exists()  # nothing is known to be wrong


def test_figures_of_a_test_have_the_worst_images_first(tmp_path):
    figures = DetectionFigures(count=3)
    drawn = []
    figures.draw_kept = lambda *_: drawn.append((list(figures._first), list(figures._worst)))
    data = ScenesDataModule(test_scenes=8, batch_size=4)
    run = trainer(tmp_path, figures)
    run.test(DetectionTask((1, 64, 64), 10, OneBox), data, verbose=False)
    ((first, worst),) = drawn
    assert (len(first), len(worst)) == (3, 3)
    mistakes = [each.mistakes for each in worst]
    assert mistakes == sorted(mistakes, reverse=True)
    assert mistakes[0] >= 6  # of six objects all are missed, and the one box is wrong


def test_a_file_that_is_there_is_not_replaced(predicted, tmp_path):
    (tmp_path / "boxes.json").write_text("mine")
    data = ScenesDataModule(images=str(predicted), batch_size=2)
    with pytest.raises(InputError, match=r"boxes.json.*--output"):
        trainer(tmp_path, PredictedBoxes(str(tmp_path / "boxes.json"))).predict(
            DetectionTask((1, 64, 64), 10, OneBox), data
        )
    assert (tmp_path / "boxes.json").read_text() == "mine"


@pytest.mark.parametrize("make", [PredictedBoxes, DetectionFigures])
def test_a_score_out_of_range_is_refused(make):
    with pytest.raises(InputError, match="threshold=2"):
        make(threshold=2)
