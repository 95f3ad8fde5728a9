"""The contract of every network on text: tokens in, class capsules out."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn
from typing_extensions import override

from capsule_lightning.capsules import Capsules
from capsule_lightning.errors import InputError, require
from capsule_lightning.layers.special_tokens import PAD
from capsule_lightning.layers.token_windows import text_lengths
from capsule_lightning.models.words import WordNet


class TextNet(WordNet):
    """A network that turns the words of a text into class capsules.

    It is built with ``(in_shape, num_classes)``, both of which the data module states. Words become vectors that are
    learned, or given, see `WordNet.start_from`. Padding has no say: a row that is padded further gives the same
    capsules, and a text gives by itself what it gives in a batch.

    Args:
        in_shape: ``(V, L)``, tokens of the vocabulary, and words of the longest text, beyond which nothing is read.
        num_classes: class capsules, J.
        dim_words: dimensions of a word's vector.
        static: keep the vectors of the words as they are, rather than train them.
        dropout: share of the words' numbers that are left out in training, in [0, 1]; where, the network says.

    Raises:
        InputError: the shape is none of texts, or a value is out of range.
    """

    def __init__(
        self, in_shape: tuple[int, ...], num_classes: int, *, dim_words: int, static: bool, dropout: float
    ) -> None:
        super().__init__(in_shape, num_classes)
        name = type(self).__name__
        require(dim_words >= 1, f"{name}: dim_words={dim_words}: expected at least 1")
        require(0 <= dropout <= 1, f"{name}: dropout={dropout}: expected a fraction in [0, 1]")
        self.embedding = nn.Embedding(self.in_shape[0], dim_words, padding_idx=PAD)
        with torch.no_grad():
            self.embedding.weight.uniform_(-0.25, 0.25)[PAD] = 0  # Kim 2014
        self.embedding.weight.requires_grad_(not static)
        self.dropout = nn.Dropout(dropout)

    @property
    @override
    def word_embedding(self) -> nn.Embedding:
        return self.embedding

    @property
    def longest(self) -> int:
        """Words of the longest text, L."""
        return self.in_shape[1]

    @abstractmethod
    def text_capsules(self, words: Tensor, lengths: Tensor) -> Capsules:
        """Return ``poses (B, J, E), activations (B, J)`` of vectors ``(B, T, D)`` of texts of ``lengths (B)`` words."""

    @override
    def class_capsules(self, images: Tensor) -> Capsules:
        """Return ``poses (B, J, E), activations (B, J)`` of tokens ``(B, T)``."""
        return self.text_capsules(self.embedding(images), text_lengths(images))

    @staticmethod
    @override
    def require_shape(in_shape: tuple[int, ...]) -> None:
        require(
            len(in_shape) == 2 and in_shape[0] >= 2 and in_shape[1] >= 1,
            f"in_shape={tuple(in_shape)}: expected (tokens of the vocabulary, words of the longest text), as a data "
            "module of texts states; for images choose another --model.net",
        )

    @override
    def require_inputs(self, images: Tensor) -> None:
        if images.ndim != 2 or images.shape[1] < 1 or images.is_floating_point():
            raise InputError(
                f"tokens of shape {tuple(images.shape)}, {images.dtype}: expected whole numbers (batch, words), at "
                "least one word a row"
            )

    @override
    def example_inputs(self, size: int) -> Tensor:
        return torch.randint(1, self.in_shape[0], (size, self.longest))
