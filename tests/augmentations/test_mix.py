"""Mixed images: equal to plain loops, the distribution of the shares, and where they may stand in a chain."""

from functools import partial

import numpy as np
import pytest
import torch
from scipy import stats
from torch.testing import assert_close

from capsule_lightning.augmentations.chain import Chain, Mirror
from capsule_lightning.augmentations.geometry import Shift
from capsule_lightning.augmentations.mix import CutMix, MixUp, symmetric_beta
from capsule_lightning.errors import InputError


def some(count=40, k=5):
    random = torch.Generator().manual_seed(0)
    first, second = torch.rand(2, count, 3, 7, 10, generator=random)
    return first, second, torch.rand(count, k, generator=random)


@pytest.mark.parametrize("alpha", [0.2, 0.5, 1.0, 3.0])
def test_shares_have_the_symmetric_beta_distribution(alpha):
    draws = torch.rand(20_000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    shares = symmetric_beta(draws[:, 0], draws[:, 1], alpha)
    assert stats.kstest(shares.numpy(), stats.beta(alpha, alpha).cdf).pvalue > 0.01
    edges = torch.tensor([[0.0, 0.25], [0.0, 0.0], [0.0, 0.6], [1 - 2**-24, 0.5]])
    found = symmetric_beta(edges[:, 0], edges[:, 1], alpha)
    assert ((found >= 0) & (found <= 1)).all()


def test_mixup_is_a_weighted_mean():
    first, second, draws = some(k=3)
    mixed, shares = MixUp(alpha=0.4).mix(first, second, draws)
    own = symmetric_beta(draws[:, 0], draws[:, 1], 0.4)
    assert torch.equal(shares, own)
    expected = np.stack(
        [s * a + (1 - s) * b for s, a, b in zip(own.numpy(), first.numpy(), second.numpy(), strict=True)]
    )
    assert_close(mixed, torch.from_numpy(expected))


def test_cutmix_pastes_a_window_and_its_share_is_its_area():
    first, second, draws = some()
    mixed, shares = CutMix().mix(first, second, draws)
    own = symmetric_beta(draws[:, 0], draws[:, 1], 1.0).tolist()
    for n, (s, row) in enumerate(zip(own, draws.tolist(), strict=True)):
        expected, pasted = first[n].clone(), 0
        high, wide = int(7 * (1 - s) ** 0.5), int(10 * (1 - s) ** 0.5)
        top, left = int(7 * row[3]) - high // 2, int(10 * row[4]) - wide // 2
        for y in range(max(top, 0), min(top + high, 7)):
            for x in range(max(left, 0), min(left + wide, 10)):
                expected[:, y, x] = second[n, :, y, x]
                pasted += 1
        assert torch.equal(mixed[n], expected)
        assert shares[n].item() == pytest.approx(1 - pasted / 70)
    assert 0.2 < shares.mean() < 0.9


@pytest.mark.parametrize("kind", [MixUp, CutMix])
def test_the_probability_says_how_many_are_mixed(kind):
    first, second, draws = some()
    mixed, shares = kind(probability=0.5).mix(first, second, draws)
    left = draws[:, 2] >= 0.5
    assert torch.equal(mixed[left], first[left])
    assert (shares[left] == 1).all()
    assert (shares[~left] < 1).any()


def test_a_chain_changes_both_and_mixes_them_last():
    first, second, draws = some(k=6)
    chain = Chain([partial(Shift, 2), Mirror, MixUp])
    assert (chain.mixes, chain.num_draws) == (True, 6)
    changed = [chain.train(each, draws) for each in (first, second)]
    assert_close(changed[0], Mirror().train(Shift(2).train(first, draws[:, :2]), draws[:, 2:3]))
    for one, other in zip(chain.mix(*changed, draws), MixUp().mix(*changed, draws[:, 3:]), strict=True):
        assert torch.equal(one, other)
    assert not Chain([Mirror]).mixes
    with pytest.raises(InputError, match=r"MixUp.*put it last"):
        Chain([MixUp, Mirror])


@pytest.mark.parametrize("kind", [MixUp, CutMix])
@pytest.mark.parametrize("options", [{"alpha": 0.0}, {"alpha": float("inf")}, {"probability": 1.5}])
def test_bad_values_are_refused(kind, options):
    with pytest.raises(InputError, match=f"{kind.__name__}: {next(iter(options))}="):
        kind(**options)
