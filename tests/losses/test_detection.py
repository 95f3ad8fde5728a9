"""Losses of heat maps equal plain loops, have no gradient where nothing counts, and one where lengths are short."""

import math

import pytest
import torch
from torch.testing import assert_close

from capsule_lightning.errors import InputError
from capsule_lightning.losses.detection import CenterMarginLoss, FocalLoss, center_l1, center_margin_loss, focal_loss


def maps():
    torch.manual_seed(0)
    heat = torch.rand(2, 3, 4, 5).double().requires_grad_()
    target = torch.rand(2, 3, 4, 5).double() * 0.9
    target[0, 1, 2, 3] = target[1, 0, 0, 0] = target[1, 2, 3, 4] = 1
    counts = torch.ones(2, 4, 5).double()
    counts[0, 0, :2] = 0
    return heat, target, counts


def plain(heat, target, counts, at_center, elsewhere):
    total, centers = 0.0, 0
    for n, c, y, x in torch.cartesian_prod(*map(torch.arange, heat.shape)).tolist():
        p, t = float(heat.detach()[n, c, y, x]), float(target[n, c, y, x])
        centers += t == 1
        total += float(counts[n, y, x]) * (at_center(p) if t == 1 else elsewhere(p, t))
    return total / max(centers, 1)


def test_focal_loss_equals_a_plain_loop():
    heat, target, counts = maps()
    expected = plain(
        heat, target, counts,
        lambda p: -((1 - p) ** 2) * math.log(p),
        lambda p, t: -((1 - t) ** 4) * p**2 * math.log(1 - p),
    )  # fmt: skip
    assert focal_loss(heat, target, counts).item() == pytest.approx(expected, rel=1e-12)
    assert torch.autograd.gradcheck(lambda h: focal_loss(h, target, counts), heat)


def test_margin_loss_equals_a_plain_loop():
    heat, target, counts = maps()
    expected = plain(
        heat, target, counts,
        lambda p: max(0, 0.9 - p) ** 2,
        lambda p, t: 0.5 * (1 - t) ** 4 * max(0, p - 0.1) ** 2,
    )  # fmt: skip
    assert center_margin_loss(heat, target, counts, 0.9, 0.1, 0.5).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("loss", [FocalLoss(), CenterMarginLoss()])
def test_no_objects_and_extreme_lengths_stay_finite(loss):
    heat = torch.tensor([0.0, 1.0, 0.5, 0.0]).view(1, 1, 2, 2).requires_grad_()
    found = loss(heat, torch.zeros(1, 1, 2, 2), torch.ones(1, 2, 2))
    found.backward()
    assert torch.isfinite(found)
    assert torch.isfinite(heat.grad).all()


def test_short_capsules_at_centers_have_a_gradient_by_margin():
    heat = torch.zeros(1, 1, 1, 1, requires_grad=True)
    CenterMarginLoss()(heat, torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1)).backward()
    assert heat.grad.item() == pytest.approx(-1.8)


def test_l1_counts_present_objects_alone():
    found, target = torch.tensor([[[1.0, 2.0], [9.0, 9.0]]]), torch.zeros(1, 2, 2)
    assert center_l1(found, target, torch.tensor([[True, False]])) == 1.5
    assert center_l1(found, target, torch.tensor([[False, False]])) == 0
    assert_close(center_l1(found, target, torch.tensor([[True, True]])), torch.tensor(21 / 4))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: FocalLoss(alpha=-1), "alpha=-1"),
        (lambda: CenterMarginLoss(m_minus=0.9, m_plus=0.1), "m_minus=0.9"),
        (lambda: CenterMarginLoss(down_weight=-1), "down_weight=-1"),
    ],
)
def test_values_out_of_range_are_refused(make, words):
    with pytest.raises(InputError, match=words):
        make()
