"""Routing through hidden capsules is one routing after another, of any number of hidden capsules from one on."""

from functools import partial

import pytest
import torch
from torch.testing import assert_close

from capsule_lightning.capsules import Capsules
from capsule_lightning.errors import InputError
from capsule_lightning.layers.squash import squash
from capsule_lightning.routing.dynamic import DynamicRouting
from capsule_lightning.routing.hidden import HiddenRouting


@pytest.mark.parametrize("hidden", [1, 3])
def test_it_is_two_routings_with_couplings_through_every_hidden_capsule(hidden: int) -> None:
    torch.manual_seed(0)
    step = partial(DynamicRouting, iterations=2)
    routing = HiddenRouting(6, 4, 5, 8, hidden=hidden, hidden_dim=3, first=step, second=step).double()
    children = Capsules.from_vectors(squash(torch.randn(2, 6, 4, dtype=torch.float64)))
    first = DynamicRouting(6, 4, hidden, 3, iterations=2).double()
    second = DynamicRouting(hidden, 3, 5, 8, iterations=2).double()
    first.load_state_dict(routing.first.state_dict())
    second.load_state_dict(routing.second.state_dict())
    middle = first(children)
    for found, expected in zip(routing(children), second(middle), strict=True):
        assert_close(found, expected)
    through = sum(
        first.couplings(children)[:, :, h, None] * second.couplings(middle)[:, None, h] for h in range(hidden)
    )
    assert_close(routing.couplings(children), through)


@pytest.mark.parametrize("option", ["hidden", "hidden_dim"])
def test_no_hidden_capsule_or_dimension_is_refused(option: str) -> None:
    with pytest.raises(InputError, match=f"{option}=0: expected at least 1"):
        HiddenRouting(6, 4, 5, 8, **{option: 0})
