"""Losses of translation, equal to plain loops."""

import torch
from torch.testing import assert_close

from capsule_lightning.losses.translation import bag_loss, next_word_loss

SMOOTHING = 0.1


def words_and_logits(seed=0):
    torch.manual_seed(seed)
    words = torch.tensor([[5, 6, 5, 3, 0], [7, 3, 0, 0, 0]])
    return words, torch.randn(2, 5, 9, dtype=torch.float64, requires_grad=True)


def cross_entropy(logits, target):
    """Of logits (V) and a distribution (V), smoothed."""
    log_likelihoods = logits - logits.exp().sum().log()
    smooth = [(1 - SMOOTHING) * share + SMOOTHING / len(logits) for share in target]
    return -sum(share * each for share, each in zip(smooth, log_likelihoods, strict=True))


def test_next_words_as_a_loop():
    words, logits = words_and_logits()
    expected = sum(
        cross_entropy(logits[b, t], [float(word == words[b, t]) for word in range(9)])
        for b in range(2)
        for t in range(5)
        if words[b, t]
    )
    assert_close(next_word_loss(logits, words, SMOOTHING), expected)


def test_bags_as_a_loop():
    words, logits = words_and_logits()
    for of_past in (True, False):
        expected = torch.zeros((), dtype=torch.float64)
        for b, said in enumerate(([5, 6, 5, 3], [7, 3])):
            for t in range(len(said)):
                bag = said[: t + 1] if of_past else said[t + 1 :]
                if bag:
                    expected = expected + cross_entropy(logits[b, t], [bag.count(word) / len(bag) for word in range(9)])
        assert_close(bag_loss(logits, words, of_past, SMOOTHING), expected)


def test_padding_adds_nothing():
    words, logits = words_and_logits()
    longer = torch.nn.functional.pad(logits, (0, 0, 0, 3), value=2.0)
    padded = torch.nn.functional.pad(words, (0, 3))
    assert_close(next_word_loss(longer, padded), next_word_loss(logits, words))
    for of_past in (True, False):
        assert_close(bag_loss(longer, padded, of_past), bag_loss(logits, words, of_past))


def test_gradients():
    words, logits = words_and_logits()
    for of_past in (True, False):
        assert torch.autograd.gradcheck(lambda x, past=of_past: bag_loss(x, words, past), logits)
