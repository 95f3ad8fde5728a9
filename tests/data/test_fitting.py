"""Pictures of another shape fit in one way, in training, in prediction and for those who use the network."""

import dataclasses

import pytest
import torch

from capsule_lightning.augmentations.identity import NoAugmentation
from capsule_lightning.data.image_files import read_images
from capsule_lightning.data.image_folder import ImageFolderDataModule
from capsule_lightning.data.pictures import Reading
from capsule_lightning.data.trained_on import trained_on
from capsule_lightning.errors import InputError
from capsule_lightning.sharing.metadata import images_of, metadata_of
from capsule_lightning.sharing.reader import ImageReader


@pytest.mark.parametrize(
    ("fit", "told"),
    [
        ("squeeze", "squeezed to it (--data.fit squeeze)"),
        ("crop", "cropped to it in the middle (--data.fit crop)"),
        ("pad", "padded to it with black (--data.fit pad)"),
    ],
)
def test_the_same_fit_in_training_prediction_and_for_those_who_use_the_network(tmp_path, write_tree, fit, told):
    write_tree(tmp_path / "photos", ["a", "b"], count=12, shape=(6, 12, 3))
    options = {"image_size": (6, 6), "background": "black", "batch_size": 4, "augmentation": NoAugmentation}
    data = ImageFolderDataModule(str(tmp_path / "photos"), fit=fit, images=str(tmp_path / "photos"), **options)
    data.setup("fit")
    assert f"24 of another ratio of rows to columns, {told}" in str(data)
    data.setup("predict")
    wanted = read_images(data.predict_files, (3, 6, 6), resize=True, reading=Reading("black", fit=fit))
    assert torch.equal(data.stores["predict"].inputs, wanted)
    place = data.predict_files.index(tmp_path / "photos" / data.files_of("train")[0])
    assert torch.equal(data.store("train").inputs[0], wanted[place])
    shared = images_of({**metadata_of(trained_on(data)), "in_shape": "[3, 6, 6]", "num_classes": "2"}, "here")
    assert torch.equal(ImageReader(shared).pictures(data.predict_files), wanted / 255)
    arguments = {**shared.slot["init_args"]}
    del arguments["fit"]  # as a version that squeezed them has written it
    old = dataclasses.replace(shared, slot={**shared.slot, "init_args": arguments})
    squeezed = read_images(data.predict_files, (3, 6, 6), resize=True)
    assert torch.equal(ImageReader(old).pictures(data.predict_files), squeezed / 255)


def test_another_way_to_fit_is_refused(tmp_path):
    with pytest.raises(InputError, match="fit=stretch: expected one of squeeze, crop, pad"):
        ImageFolderDataModule(str(tmp_path), fit="stretch")
