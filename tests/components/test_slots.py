"""Which arguments outlive a change of the class in a slot."""

import pytest

from capsule_lightning.components.slots import shared_arguments
from capsule_lightning.data.module import DataModule
from capsule_lightning.routing.dynamic import DynamicRouting
from capsule_lightning.routing.em import EMRouting


class Base(DataModule):
    """Has arguments of its own."""

    def __init__(self, batch_size: int = 1, depth: int = 2, left_out: int = 3) -> None: ...


class Between(Base):
    """Takes those of its base."""


class One(Between):
    """Has fewer, and another."""

    def __init__(self, batch_size: int = 1, depth: int = 2, own: int = 3) -> None: ...


class Other(Between):
    """Has fewer, and the same other."""

    def __init__(self, batch_size: int = 1, depth: int = 2, own: int = 3) -> None: ...


@pytest.mark.parametrize(
    ("one", "other", "kept"),
    [
        (One, Other, {"batch_size", "depth"}),
        (Between, Other, {"batch_size", "depth"}),
        (Other, Base, {"batch_size", "depth", "left_out"}),
        (One, One, {"batch_size", "depth", "own"}),
        (DynamicRouting, EMRouting, set()),
    ],
)
def test_arguments_of_the_nearest_common_base_are_kept(one: type, other: type, kept: set[str]) -> None:
    assert shared_arguments(one, other) == kept
