"""A batch that a task can take already is given back as it is, whatever the data are."""

import pytest
import torch

from capsule_lightning.data import targets
from capsule_lightning.data.base import DataModule, ImageBatch
from capsule_lightning.data.boxes import BoxesDataModule
from capsule_lightning.data.digits import DigitsDataModule
from capsule_lightning.data.feature_vectors import FeatureDataModule
from capsule_lightning.data.multimnist import MultiMNISTDataModule
from capsule_lightning.data.nifti_slices import NiftiSlicesDataModule
from capsule_lightning.data.nifti_volumes import NiftiVolumesDataModule
from capsule_lightning.data.relation_store import RelationBatch
from capsule_lightning.data.relations import RelationDataModule
from capsule_lightning.data.scenes import ScenesDataModule
from capsule_lightning.data.text import TextDataModule
from capsule_lightning.data.tokens import TextBatch
from capsule_lightning.data.translation import TranslationDataModule
from capsule_lightning.sharing.annotated_pictures import JointPicturesDataModule, ScenePicturesDataModule

MADE = [
    (DigitsDataModule, ImageBatch),
    (FeatureDataModule, ImageBatch),
    (MultiMNISTDataModule, ImageBatch),
    (NiftiSlicesDataModule, targets.MaskBatch),
    (NiftiVolumesDataModule, targets.MaskBatch),
    (BoxesDataModule, targets.BoxBatch),
    (JointPicturesDataModule, targets.JointBatch),
    (ScenesDataModule, targets.SceneBatch),
    (ScenePicturesDataModule, targets.SceneBatch),
    (TranslationDataModule, targets.TranslationBatch),
    (TextDataModule, TextBatch),
    (RelationDataModule, RelationBatch),
]


@pytest.mark.parametrize(("kind", "batch_type"), MADE, ids=lambda made: made.__name__)
def test_a_batch_that_is_ready_passes(kind: type[DataModule], batch_type: type[tuple]) -> None:
    batch = batch_type._make([torch.zeros(2, 3)] * len(batch_type._fields))
    data = kind.__new__(kind)  # no option of it matters
    assert data.on_after_batch_transfer(batch, 0) is batch
