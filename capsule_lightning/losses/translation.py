"""Losses of translation: the next word with label smoothing, and bags of the words that are past and to come."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from capsule_lightning.layers.precision import full_precision
from capsule_lightning.layers.special_tokens import PAD


@full_precision
def next_word_loss(logits: Tensor, words: Tensor, smoothing: float = 0.1) -> Tensor:
    """Return the cross-entropy of words, summed over all that are no padding.

    The target of a word is ``1 - smoothing`` for it, and ``smoothing`` spread evenly over the whole vocabulary.

    Args:
        logits: ``(B, T, V)``.
        words: ``(B, T)`` int64; `PAD` counts nothing.
        smoothing: in [0, 1).

    Source: Szegedy et al., Rethinking the Inception Architecture, CVPR 2016 (arXiv 1512.00567), section 7; Vaswani et
    al. 2017, section 5.4.
    """
    return F.cross_entropy(
        logits.flatten(0, 1), words.flatten(), ignore_index=PAD, label_smoothing=smoothing, reduction="sum"
    )


@full_precision
def bag_loss(logits: Tensor, words: Tensor, of_past: bool, smoothing: float = 0.1) -> Tensor:
    """Return the cross-entropy of a bag of words at each place of a sentence, summed over those that are no padding.

    At the place of word t the bag of the past has the words up to t, that one included, and the bag of the future the
    words after it; each word is in one of the two. The target is even over the words of the bag, each as often as it
    occurs, smoothed as in `next_word_loss`. An empty bag, that of the future at the last word, counts nothing.

    Args:
        logits: ``(B, T, V)``.
        words: ``(B, T)`` int64, to be told by logits; `PAD` is in no bag.
        of_past: whether the bags are those of the past.
        smoothing: in [0, 1).

    Source: Zheng et al. 2019 (arXiv 1904.09646), section 3.3; their code takes the beginning of the sentence for a word
    of the past.
    """
    log_likelihoods = F.log_softmax(logits, dim=-1)
    places = words.shape[1]
    of_words = log_likelihoods.gather(2, words.unsqueeze(1).expand(-1, places, -1))  # (B, place, word)
    every = torch.ones(places, places, dtype=torch.bool, device=words.device)
    inside = every.tril() if of_past else every.triu(1)
    bag = inside & (words != PAD).unsqueeze(1) & (words != PAD).unsqueeze(2)
    sizes = bag.sum(dim=2)
    means = (of_words * bag).sum(dim=2) / sizes.clamp_min(1)
    losses = (1 - smoothing) * -means + smoothing * -log_likelihoods.mean(dim=-1)
    return (losses * (sizes > 0)).sum()
