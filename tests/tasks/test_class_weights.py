"""Weights of classes in a task: refused before training, balanced by the training examples, kept by the run."""

from functools import partial

import lightning as L
import pytest
import torch
from torch.testing import assert_close

from capsule_lightning.data.digits import DigitsDataModule
from capsule_lightning.encoders.sabour import SabourEncoder
from capsule_lightning.errors import InputError
from capsule_lightning.losses.margin import MarginLoss
from capsule_lightning.models.capsnet import CapsNet
from capsule_lightning.tasks.classification import ClassificationTask
from capsule_lightning.tasks.multilabel import MultiLabelTask

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
