"""Windows over maps of capsules, against loops over every place of every window."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from capsule_lightning.errors import InputError
from capsule_lightning.layers.windows import Windows, compete_across_positions

CASES = [
    Windows((5, 6), (3, 3)),
    Windows((7, 5), (3, 2), stride=2),
    Windows((6, 6), (3, 3), stride=2, padding=1),
    Windows((4, 3), (4, 3)),
    Windows((4, 3), (1, 1), stride=3),
]


def children(windows):
    """For each window and each place in it: the child's row and column on the padded map."""
    for y, x in np.ndindex(*windows.out_size):
        for p, (down, right) in enumerate(np.ndindex(*windows.kernel)):
            yield y, x, p, y * windows.stride + down, x * windows.stride + right


def padded(maps, padding):
    return np.pad(maps, [(0, 0), (padding, padding), (padding, padding)] + [(0, 0)] * (maps.ndim - 3))


@pytest.mark.parametrize("windows", CASES, ids=str)
class TestWindows:
    @pytest.mark.parametrize("rest", [(4,), (4, 3)])
    def test_cut(self, windows, rest):
        maps = torch.randn(2, *windows.size, *rest)
        cut, source = windows.cut(maps), padded(maps.numpy(), windows.padding)
        assert cut.shape == (2, *windows.out_size, windows.kernel[0] * windows.kernel[1], *rest)
        for y, x, p, row, column in children(windows):
            np.testing.assert_array_equal(cut[:, y, x, p], source[:, row, column])

    def test_add_up_and_largest(self, windows):
        values = torch.randn(2, *windows.out_size, windows.kernel[0] * windows.kernel[1], 4, dtype=torch.float64)
        shape = (2, *(n + 2 * windows.padding for n in windows.size), 4)
        total, largest = np.zeros(shape), np.full(shape, -np.inf)
        for y, x, p, row, column in children(windows):
            total[:, row, column] += values[:, y, x, p].numpy()
            largest[:, row, column] = np.maximum(largest[:, row, column], values[:, y, x, p].numpy())
        np.testing.assert_allclose(windows.add_up(values), total, rtol=0, atol=1e-12)
        np.testing.assert_array_equal(windows.largest(values), largest)

    @pytest.mark.parametrize("scale", [1.0, 1e4])
    def test_couplings_of_a_child_sum_to_one_over_all_its_parents(self, windows, scale):
        places, types, parents = windows.kernel[0] * windows.kernel[1], 3, 2
        logits = scale * torch.randn(2, *windows.out_size, places * types, parents, dtype=torch.float64)
        couplings = compete_across_positions(logits, windows)
        total = np.zeros((2, *(n + 2 * windows.padding for n in windows.size), types))
        seen = np.zeros(total.shape, dtype=bool)
        for y, x, p, row, column in children(windows):
            total[:, row, column] += couplings[:, y, x].unflatten(1, (places, types))[:, p].sum(dim=-1).numpy()
            seen[:, row, column] = True
        np.testing.assert_allclose(total[seen], 1, rtol=0, atol=1e-12)
        if windows.out_size == (1, 1):
            assert_close(couplings, logits.softmax(dim=-1))
        # more of one parent's logit is more of its coupling, by the ratio of the exponentials
        if scale == 1:
            ratio = couplings[..., 1] / couplings[..., 0]
            assert_close(ratio, (logits[..., 1] - logits[..., 0]).exp())


def test_gradient_of_the_competition():
    windows = Windows((3, 3), (2, 2))
    logits = torch.randn(1, 2, 2, 4 * 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: compete_across_positions(x, windows), logits)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((4, 4), (5, 5)), "map of 4x4"),
        (((4, 4), (3, 3), 0), "stride of at least 1"),
        (((4, 4), (3, 3), 1, -1), "padding -1"),
        (((4, 4), (2, 2), 1, 2), "less padding"),
    ],
)
def test_windows_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        Windows(*arguments)
