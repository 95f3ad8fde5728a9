"""Sliding-margin loss: a plain loop, its learned boundary, and what it says of presence."""

import pytest
import torch
from torch.testing import assert_close

from capsule_lightning.capsules import Capsules
from capsule_lightning.errors import InputError
from capsule_lightning.losses.sliding_margin import SlidingMarginLoss, sliding_margin_loss


def test_equals_a_plain_loop():
    torch.manual_seed(0)
    lengths = torch.rand(4, 3, dtype=torch.float64)
    targets = torch.tensor([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]])
    total = 0.0
    for n in range(4):
        for k in range(3):
            length = float(lengths[n, k])
            if targets[n, k]:
                total += max(0, 0.55 + 0.3 - length) ** 2
            else:
                total += 0.25 * max(0, length - (0.55 - 0.3)) ** 2
    found = sliding_margin_loss(lengths, targets, torch.tensor(0.55, dtype=torch.float64), 0.3, 0.25)
    assert_close(found.item(), total / 4)


def test_the_boundary_moves_to_where_classes_part():
    loss = SlidingMarginLoss(margin=0.05)
    lengths = torch.tensor([[0.8, 0.7], [0.7, 0.85]])  # both sides of 0.75
    optimizer = torch.optim.SGD(loss.parameters(), lr=0.5)
    for _ in range(200):
        optimizer.zero_grad()
        loss(Capsules(lengths.unsqueeze(-1), lengths), torch.tensor([0, 1])).backward()
        optimizer.step()
    present = loss.presence(Capsules(lengths.unsqueeze(-1), lengths)) >= 0.5
    assert present.tolist() == [[True, False], [False, True]]


def test_presence_keeps_order_and_ends():
    loss = SlidingMarginLoss(boundary=0.3)
    lengths = torch.tensor([[0.0, 0.15, 0.3, 0.65, 1.0]])
    assert_close(loss.presence(Capsules(lengths, lengths)), torch.tensor([[0.0, 0.25, 0.5, 0.75, 1.0]]))


def test_gradient_is_the_numerical_one():
    lengths = torch.rand(3, 4, dtype=torch.float64, requires_grad=True)
    boundary = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda a, b: sliding_margin_loss(a, torch.tensor([0, 1, 2]), b), (lengths, boundary)
    )


@pytest.mark.parametrize("options", [{"boundary": 1.0}, {"margin": -0.1}, {"down_weight": -1}])
def test_what_cannot_be_is_refused(options):
    with pytest.raises(InputError, match="expected"):
        SlidingMarginLoss(**options)
