"""Blocks of the batch; what is computed with them is tested in `test_dynamic` and `test_attention_blocked`."""

import pytest

from capsule_lightning.kernels.blocks_of_votes import examples_per_block


@pytest.mark.parametrize("batch", [1, 5, 128, 1000])
@pytest.mark.parametrize("votes_of_one", [1, 184_320, 10**9])
def test_blocks_are_few_equal_and_odd(batch, votes_of_one):
    block = examples_per_block(batch, votes_of_one)
    blocks = -(-batch // block)
    assert 1 <= block <= batch + 1
    assert block % 2
    assert block == 1 or (block - 1) * votes_of_one <= 16 * 2**20
    assert votes_of_one > 1 or blocks == 1  # of few votes, all examples make one block
    assert blocks * block - batch < 2 * blocks
