"""How a checkpoint states what its objects were made with."""

from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from capsule_lightning.encoders.sabour import SabourEncoder
from capsule_lightning.models.capsnet import CapsNet
from capsule_lightning.runs.plain_values import names_classes, path_of, plain, stated


class Number(float):
    """A number of another library."""


def test_a_class_and_its_arguments_become_a_slot() -> None:
    net = partial(CapsNet, encoder=partial(SabourEncoder, channels=8), decoder=None)
    assert plain(net) == {
        "class_path": "capsule_lightning.models.capsnet.CapsNet",
        "init_args": {
            "encoder": {"class_path": "capsule_lightning.encoders.sabour.SabourEncoder", "init_args": {"channels": 8}},
            "decoder": None,
        },
    }
    assert names_classes(plain(net))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ((1, (2.5, "a")), [1, [2.5, "a"]]),
        (True, True),
        (Number(0.1), 0.1),
        (np.float64(0.25), 0.25),
        (Path("a/b"), "a/b"),
        (torch.Size([1, 2]), [1, 2]),
        (path_of, "capsule_lightning.runs.plain_values.path_of"),
    ],
)
def test_values_are_plain_and_of_plain_types(value: object, expected: object) -> None:
    found = plain(value)
    assert found == expected
    assert type(found) is type(expected)


def within() -> type:
    class Local:
        """Nobody can import it."""

    return Local


@pytest.mark.parametrize(
    "value", [lambda: 0, within(), partial(within), partial(Counter, [1]), torch.zeros(1), object(), b"bytes"]
)
def test_what_cannot_be_stated_is_left_out(value: object) -> None:
    with pytest.raises(TypeError):
        plain(value)
    assert stated({"rate": 0.1, "other": value, "deep": [value]}) == {"rate": 0.1}
