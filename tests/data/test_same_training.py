"""The same images from class folders, a table and arrays give the same network, to the bit."""

import csv

import lightning as L
import numpy as np
import torch
from PIL import Image

from capsule_lightning.data.image_arrays import ImageArrayDataModule
from capsule_lightning.data.image_folder import ImageFolderDataModule
from capsule_lightning.data.image_table import ImageTableDataModule
from capsule_lightning.encoders.sabour import SabourEncoder
from capsule_lightning.models.capsnet import CapsNet
from capsule_lightning.tasks.classification import ClassificationTask


def small(in_shape, num_classes):
    def encoder(shape):
        return SabourEncoder(shape, channels=4, kernel_size=3, num_types=2, primary_kernel_size=3)

    return CapsNet(in_shape, num_classes, encoder=encoder, dim=4, decoder=None)


def trained(data, folder):
    """The weights after two epochs, and all that was measured."""
    L.seed_everything(5, verbose=False)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = L.Trainer(default_root_dir=folder, max_epochs=2, enable_checkpointing=False, **quiet)
    data.setup("fit")
    task = ClassificationTask(data.in_shape, data.num_classes, net=small)
    trainer.fit(task, data)
    found = {name: float(value) for name, value in trainer.callback_metrics.items()}
    (tested,) = trainer.test(task, data, verbose=False)
    return task.state_dict(), {**found, **tested}


def test_class_folders_a_table_and_arrays_train_the_same_network(tmp_path, write_tree):
    photos = tmp_path / "photos"
    write_tree(photos, ["cat", "dog"], count=15, shape=(12, 12, 3))
    paths = sorted(photos.glob("*/*.png"))
    with (photos / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [("path", "label"), *((path.relative_to(photos), path.parent.name) for path in reversed(paths))]
        )
    images = np.stack([np.asarray(Image.open(path)) for path in paths])
    np.savez(tmp_path / "a.npz", images=images, labels=[path.parent.name for path in paths])
    options = {"batch_size": 8, "seed": 3, "val_size": 4}
    folders = trained(ImageFolderDataModule(str(photos), **options), tmp_path)
    assert {"val/accuracy", "test/accuracy"} <= folders[1].keys()
    for data in (
        ImageTableDataModule(str(photos / "labels.csv"), **options),
        ImageArrayDataModule(str(tmp_path / "a.npz"), **options),
    ):
        weights, measured = trained(data, tmp_path)
        assert measured == folders[1]
        assert all(torch.equal(weights[name], theirs) for name, theirs in folders[0].items())
