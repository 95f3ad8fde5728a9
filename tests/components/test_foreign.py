"""Of a file from elsewhere words are taken that can be no code and no place; a word may have dots where it is text."""

import pytest

from capsule_lightning.components.foreign import require_harmless
from capsule_lightning.data.digits import DigitsDataModule
from capsule_lightning.encoders.backbone import BackboneEncoder
from capsule_lightning.errors import InputError
from capsule_lightning.models.capsnet import CapsNet
from capsule_lightning.routing.dynamic import DynamicRouting

KINDS = (CapsNet, BackboneEncoder, DynamicRouting, DigitsDataModule)


def slot(cls, **given):
    return {"class_path": f"{cls.__module__}.{cls.__name__}", "init_args": given}


@pytest.mark.parametrize("name", ["resnet18", "resnet18.a1_in1k", ""])
def test_the_name_of_a_backbone_may_have_a_tag(name):
    require_harmless(slot(CapsNet, encoder=slot(BackboneEncoder, name=name)), KINDS)


def test_a_mark_between_words_is_taken():
    require_harmless(slot(DigitsDataModule, separators=["|", ";"]), KINDS)


@pytest.mark.parametrize(
    "value",
    [
        slot(BackboneEncoder, name="../resnet18"),
        slot(BackboneEncoder, name="a..b"),
        slot(BackboneEncoder, name=".hidden"),
        slot(BackboneEncoder, name="hf-hub:someone/network"),
        slot(BackboneEncoder, name=["os.system"]),
        slot(BackboneEncoder, name={"class_path": "os.system"}),
        slot(BackboneEncoder, weights="weights.pth"),
        slot(CapsNet, encoder="os.system"),
        slot(DigitsDataModule, root="folder.of.mine"),
        slot(DigitsDataModule, root="/"),
        slot(DigitsDataModule, root="~"),
        slot(DigitsDataModule, root="||"),
        {"encoder": "os.system"},
    ],
)
def test_what_could_be_code_or_a_place_is_refused(value):
    with pytest.raises(InputError):
        require_harmless(value, KINDS)
