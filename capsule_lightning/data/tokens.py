"""Texts as numbers: the ids that every vocabulary has, and what a task receives."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from capsule_lightning.data.shares import Share
from capsule_lightning.layers.special_tokens import BEGIN, END, PAD, SPECIAL, UNKNOWN

__all__ = ["BEGIN", "END", "PAD", "SPECIAL", "UNKNOWN", "TextBatch"]


class TextBatch(NamedTuple):
    """What a task receives of texts.

    Attributes:
        tokens: ``(B, L)`` int64, ids of a vocabulary, `PAD` behind a text that is shorter than the longest of the
            batch: the input of the network.
        labels: ``(B)`` int64 in [0, num_classes), -1 if unknown; ``(B, M)`` if a text may have any number of labels, in
            ascending order, and -1 in the places that are left.
        indices: ``(B)`` int64, positions in the stored set.
        shares: what the texts count as in the loss; empty if each counts once, by its labels.
    """

    tokens: Tensor
    labels: Tensor
    indices: Tensor
    shares: tuple[Share, ...] = ()
