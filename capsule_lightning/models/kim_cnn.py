"""The convolutional network that capsules for text are compared with.

Kim, Convolutional Neural Networks for Sentence Classification, EMNLP 2014 (arXiv 1408.5882).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from typing_extensions import override

from capsule_lightning.capsules import Capsules
from capsule_lightning.errors import require
from capsule_lightning.layers.special_tokens import PAD
from capsule_lightning.layers.token_windows import WordConvolution, text_lengths
from capsule_lightning.models.cnn import capsules_of_logits
from capsule_lightning.models.text import TextNet


class KimCNN(TextNet):
    """Convolutions over words, each feature's largest value in the text, and a linear layer.

    Poses are the logits and activations their softmax, as in `BaselineCNN`: train it with `CrossEntropyLoss` of logits,
    or for texts of several labels with `BinaryCrossEntropyLoss`. Without the words' vectors it has 363,009 weights for
    9 classes.

    Args:
        in_shape, num_classes: see `TextNet`; stated by the data.
        ngrams: words of the windows of each convolution.
        filters: filters of each convolution.
        dim_words: dimensions of a word's vector.
        static: keep the vectors of the words as they are (the paper's CNN-static), rather than train them.
        dropout: dropout rate before the linear layer, in [0, 1].

    Raises:
        InputError: a size is below 1, or the rate is outside [0, 1].

    Example:
        >>> net = KimCNN((5000, 50), 2)
        >>> net(torch.tensor([[17, 4, 0], [9, 0, 0]])).activations.shape
        torch.Size([2, 2])
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        num_classes: int,
        *,
        ngrams: Sequence[int] = (3, 4, 5),
        filters: int = 100,
        dim_words: int = 300,
        static: bool = False,
        dropout: float = 0.5,
    ) -> None:
        super().__init__(in_shape, num_classes, dim_words=dim_words, static=static, dropout=dropout)
        require(
            len(ngrams) >= 1 and min(*ngrams, filters) >= 1,
            f"KimCNN: ngrams={list(ngrams)}, filters={filters}: expected at least 1 each",
        )
        self.convolutions = nn.ModuleList(WordConvolution(dim_words, filters, n, 1, self.longest) for n in ngrams)
        self.head = nn.Linear(filters * len(ngrams), num_classes)

    @override
    def text_capsules(self, words: Tensor, lengths: Tensor) -> Capsules:
        """Return class capsules whose poses ``(B, J, 1)`` are the logits."""
        found = [cast(Tensor, each(words, lengths)[0]).amax(dim=1) for each in self.convolutions]  # none is below 0
        return capsules_of_logits(self.head(self.dropout(torch.cat(found, dim=1))))

    @override
    def word_votes(self, tokens: Tensor) -> Tensor:
        """Return what each feature adds to each logit, divided equally among the words of the window it is found in.

        Args:
            tokens: ``(B, T)``.

        Returns:
            ``(B, T, J)``, 0 at padding.
        """
        words, lengths = self.embedding(tokens), text_lengths(tokens)
        votes = words.new_zeros(*tokens.shape, self.num_classes)
        weights = self.head.weight.chunk(len(self.convolutions), dim=1)  # (J, F) each
        for each, weight in zip(self.convolutions, weights, strict=True):
            convolution = cast(WordConvolution, each)
            features, _ = convolution(words, lengths)  # (B, N, F)
            most, places = features.max(dim=1)
            added = torch.einsum("bf,jf->bfj", most, weight)
            of_windows = features.new_zeros(*features.shape[:2], self.num_classes)
            of_windows = of_windows.scatter_add(1, places.unsqueeze(-1).expand_as(added), added)
            votes = votes + convolution.spread(of_windows, tokens.shape[1])
        result: Tensor = votes * (tokens != PAD).unsqueeze(-1)
        return result
