"""Weights of classes in a task: refused before training, balanced by the training examples, kept by the run."""

from functools import partial

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from capsule_lightning.data.digits import DigitsDataModule
from capsule_lightning.data.image_masks import ImageMaskDataModule
from capsule_lightning.data.scenes import ScenesDataModule
from capsule_lightning.encoders.sabour import SabourEncoder
from capsule_lightning.errors import InputError
from capsule_lightning.losses.margin import MarginLoss
from capsule_lightning.losses.pixels import PixelBinaryCrossEntropy, PixelMarginLoss
from capsule_lightning.models.capsnet import CapsNet
from capsule_lightning.models.unet import UNet
from capsule_lightning.tasks.classification import ClassificationTask
from capsule_lightning.tasks.multilabel import MultiLabelTask
from capsule_lightning.tasks.segmentation import SegmentationTask

pytestmark = pytest.mark.filterwarnings("ignore")  # of the trainer: few workers

SMALL = partial(
    CapsNet, encoder=partial(SabourEncoder, channels=2, kernel_size=3, num_types=1, primary_kernel_size=3), decoder=None
)
BALANCED = partial(MarginLoss, class_weights="balanced")


class Uneven(DigitsDataModule):
    """Of each even digit there are 40 examples to train on, of each odd one ``odd``."""

    def __init__(self, odd):
        super().__init__(batch_size=50, val_size=0, fake=True)
        self.odd = odd

    def hold_out(self, labels):
        kept = [(labels == digit).nonzero()[: self.odd if digit % 2 else 40, 0] for digit in range(10)]
        return torch.cat(kept), torch.empty(0, dtype=torch.int64)


def trainer(**options):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return L.Trainer(enable_checkpointing=False, **quiet, **options)


def task(loss=BALANCED):
    torch.manual_seed(0)
    return ClassificationTask((1, 8, 8), 10, SMALL, loss)


def test_weights_of_another_number_of_classes_are_refused_when_the_task_is_built():
    with pytest.raises(InputError, match="3 class_weights for 10 classes"):
        task(partial(MarginLoss, class_weights=[1.0, 2.0, 3.0]))


@pytest.mark.parametrize("given", ["balanced", [1.0] * 10])
def test_images_of_several_classes_have_no_weights(given):
    with pytest.raises(InputError, match=r"class_weights.*null"):
        MultiLabelTask((1, 8, 8), 10, SMALL, partial(MarginLoss, class_weights=given))


def test_balanced_weights_are_those_of_the_training_examples_and_stay_with_the_run(tmp_path):
    first, run = task(), trainer(max_epochs=1)
    run.fit(first, datamodule=Uneven(10))
    expected = torch.tensor([(5 * 40 + 5 * 10) / (10 * count) for count in [40, 10] * 5])
    assert_close(first.loss.class_weights, expected)
    run.save_checkpoint(tmp_path / "run.ckpt")
    measured = trainer().test(first, datamodule=Uneven(10), verbose=False)

    resumed = task()
    trainer(max_epochs=2).fit(resumed, datamodule=Uneven(10), ckpt_path=tmp_path / "run.ckpt")
    assert torch.equal(resumed.loss.class_weights, first.loss.class_weights)

    again = task()
    found = trainer().test(again, datamodule=Uneven(30), ckpt_path=tmp_path / "run.ckpt", verbose=False)
    assert torch.equal(again.loss.class_weights, first.loss.class_weights)
    assert found == measured

    loaded = ClassificationTask.load_from_checkpoint(tmp_path / "run.ckpt", weights_only=True)
    assert torch.equal(loaded.loss.class_weights, first.loss.class_weights)
    assert loaded.state_dict().keys() == task(MarginLoss).state_dict().keys()


def test_a_class_without_training_examples_cannot_be_balanced():
    with pytest.raises(InputError, match="no training example is of class number 1"):
        trainer(max_epochs=1).fit(task(), datamodule=Uneven(0))


def test_data_that_do_not_say_their_classes_cannot_balance_them():
    loader = torch.utils.data.DataLoader([0])
    with pytest.raises(InputError, match=r"class_weights=balanced.*give a weight for each class"):
        trainer(max_epochs=1).fit(task(), loader)


def masks(folder):
    """Masks of 64 pixels, of which 16 are of class 1, 8 of class 2 and 8 ignored."""
    values = np.zeros((8, 8), np.uint8)
    values[:2], values[2], values[3] = 1, 2, 255
    for part, picture in (("images", values * 60), ("masks", values)):
        (folder / part).mkdir()
        for n in range(4):
            Image.fromarray(picture).save(folder / part / f"{n}.png")
    given = {"pictures": str(folder / "images"), "masks": str(folder / "masks"), "class_names": ["a", "b"]}
    return ImageMaskDataModule(**given, image_size=8, channels=1, batch_size=1, val_size=0, test_size=1)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (PixelMarginLoss, [56 / (3 * 32), 56 / (3 * 16), 56 / (3 * 8)]),
        (PixelBinaryCrossEntropy, [24 / 32, 40 / 16, 48 / 8]),
    ],
)
def test_weights_of_pixels_are_balanced_and_stay_with_the_run(loss, expected, tmp_path):
    made = partial(UNet, width=2, depth=2)
    first = SegmentationTask((1, 8, 8), 2, made, partial(loss, **{loss.weights_argument: "balanced"}))
    run = trainer(max_epochs=1)
    run.fit(first, datamodule=masks(tmp_path))
    assert_close(first.loss.class_weights, torch.tensor(expected))
    run.save_checkpoint(tmp_path / "run.ckpt")
    loaded = SegmentationTask.load_from_checkpoint(tmp_path / "run.ckpt", weights_only=True)
    assert torch.equal(loaded.loss.class_weights, first.loss.class_weights)


def test_scenes_do_not_say_how_many_pixels_a_class_has():
    task = SegmentationTask((1, 32, 32), 10, partial(UNet, width=1), partial(PixelMarginLoss, class_weights="balanced"))
    data = ScenesDataModule(scenes=8, val_scenes=4, test_scenes=4, image_size=32, max_size=12, min_size=8, batch_size=4)
    with pytest.raises(InputError, match=r"class_weights=balanced.*give a weight for the background"):
        trainer(max_epochs=1).fit(task, datamodule=data)
