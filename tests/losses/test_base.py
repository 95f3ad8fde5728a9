"""The rule by which activations become scores that sum to 1."""

import torch
from torch.testing import assert_close

from capsule_lightning.losses.base import normalized_lengths
from capsule_lightning.losses.margin import MarginLoss
from capsule_lightning.losses.spread import SpreadLoss


def test_margin_and_spread_loss_divide_by_the_sum():
    activations = torch.rand(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = torch.tensor([[a / sum(row) for a in row] for row in activations.tolist()], dtype=torch.float64)
    for loss in (MarginLoss(), SpreadLoss()):
        assert_close(loss.probabilities(activations), expected, rtol=1e-12, atol=0)


def test_the_longest_capsule_has_the_highest_score_also_by_one_bit():
    shorter = 0.5 * torch.rand(200, 1, generator=torch.Generator().manual_seed(0))
    activations = torch.cat([shorter, torch.nextafter(shorter, torch.ones(())), shorter / 3], dim=1)
    in_float32 = activations / activations.sum(dim=1, keepdim=True)
    assert (in_float32.argmax(dim=1) == 0).any()  # rounding makes both equal, and the first wins
    assert (normalized_lengths(activations).argmax(dim=1) == 1).all()
    assert normalized_lengths(torch.tensor([[1e-45, 0.0, 3e-45]])).argmax() == 2


def test_half_precision_sums_to_1():
    activations = torch.rand(3, 100, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert_close(normalized_lengths(activations).sum(dim=-1), torch.ones(3, dtype=torch.float64))
