"""What networks for relations between two entities of a sentence share: words, places, encoder and attention.

Zhang N. et al., Attention-Based Capsule Networks with Dynamic Routing for Relation Extraction, EMNLP 2018 (arXiv
1812.11321); Zhang X., Li, Jia & Zhao, Multi-Labeled Relation Extraction with Attentive Capsule Network, AAAI 2019
(arXiv 1811.04354).
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from typing_extensions import override

from capsule_lightning.capsules import Capsules
from capsule_lightning.errors import InputError, require, require_one_of
from capsule_lightning.layers.precision import full_precision
from capsule_lightning.layers.special_tokens import PAD
from capsule_lightning.layers.token_windows import first_places, text_lengths
from capsule_lightning.models.words import WordNet

WordEncoder = Literal["lstm", "cnn"]


@full_precision
def entity_attention(states: Tensor, first: Tensor, second: Tensor, here: Tensor) -> Tensor:
    """Return how much each word counts, ``softmax_i(h_i . (h_e1 + h_e2))`` over the words of a sentence.

    Args:
        states: ``(B, T, H)``, h.
        first, second: ``(B, T)`` bool, true at the head of each entity.
        here: ``(B, T)`` bool, true at words; the others count nothing.

    Returns:
        ``(B, T)``, rows of which sum to 1.

    Source: Zhang X. et al. 2019 (arXiv 1811.04354).
    """
    heads = first.to(states.dtype) + second.to(states.dtype)
    query = torch.einsum("bt,bth->bh", heads, states)
    scores = torch.einsum("bth,bh->bt", states, query)
    return scores.masked_fill(~here, -torch.inf).softmax(dim=1)


class RelationNet(WordNet):
    """A network that turns a sentence with two marked entities into class capsules of relations.

    Each word is its vector beside one for its distance from either entity; a BiLSTM or a convolution reads them.
    Padding has no say.

    Args:
        in_shape: ``(V, P, L)``: tokens of the vocabulary, ids of distances, of which ``P // 2`` is distance 0 and 0 is
            padding, and words of the longest sentence; stated by the data.
        num_classes: relations, J; stated by the data.
        encoder: ``lstm`` for a BiLSTM, ``cnn`` for a convolution over three words with ReLU.
        hidden: dimensions of what the encoder makes of a word, H; even for ``lstm``, half for each direction.
        attention: weigh words by `entity_attention`; ``false`` for all alike.
        dim_words: dimensions of a word's vector.
        dim_places: dimensions of the vector of a distance.
        dropout: dropout rate of words and places, in [0, 1].
        static: keep the vectors of the words as they are, rather than train them.

    Raises:
        InputError: the shape is none of such sentences, or a value is out of range.
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        num_classes: int,
        *,
        encoder: WordEncoder,
        hidden: int,
        attention: bool,
        dim_words: int,
        dim_places: int,
        dropout: float,
        static: bool,
    ) -> None:
        super().__init__(in_shape, num_classes)
        name = type(self).__name__
        require_one_of(f"{name}: encoder", encoder, get_args(WordEncoder))
        sizes = {"hidden": hidden, "dim_words": dim_words, "dim_places": dim_places}
        for argument, size in sizes.items():
            require(size >= 1, f"{name}: {argument}={size}: expected at least 1")
        require(
            encoder == "cnn" or hidden % 2 == 0,
            f"{name}: hidden={hidden}: expected an even number for encoder=lstm, half for each direction",
        )
        require(0 <= dropout <= 1, f"{name}: dropout={dropout}: expected a fraction in [0, 1]")
        words, places, self.longest = self.in_shape
        self.attention, self.dropout = attention, nn.Dropout(dropout)
        self.words = nn.Embedding(words, dim_words, padding_idx=PAD)
        self.words.weight.requires_grad_(not static)
        self.places = nn.ModuleList(nn.Embedding(places, dim_places, padding_idx=PAD) for _ in range(2))
        dim = dim_words + 2 * dim_places
        self.encoder: nn.Module
        if encoder == "lstm":
            self.encoder = nn.LSTM(dim, hidden // 2, batch_first=True, bidirectional=True)
        else:
            self.encoder = nn.Conv1d(dim, hidden, 3, padding=1)

    @property
    @override
    def word_embedding(self) -> nn.Embedding:
        return self.words

    @abstractmethod
    def relation_capsules(self, states: Tensor, weights: Tensor, lengths: Tensor) -> Capsules:
        """Return the class capsules.

        Args:
            states: ``(B, T, H)``, 0 at padding.
            weights: ``(B, T)``, how much each word counts, 0 at padding; rows sum to 1.
            lengths: ``(B)``, words of each sentence.
        """

    def states(self, sentences: Tensor, lengths: Tensor) -> Tensor:
        """Return what the encoder makes of each word of ``(B, 3, T)``: ``(B, T, H)``, 0 at padding."""
        parts = [self.words(sentences[:, 0])]
        parts += [embed(sentences[:, 1 + n]) for n, embed in enumerate(self.places)]
        words = self.dropout(torch.cat(parts, dim=-1))
        here = first_places(lengths, words.shape[1]).unsqueeze(-1)
        if isinstance(self.encoder, nn.LSTM):
            packed = pack_padded_sequence(words, lengths.clamp_min(1).cpu(), batch_first=True, enforce_sorted=False)
            states, _ = pad_packed_sequence(self.encoder(packed)[0], batch_first=True, total_length=words.shape[1])
        else:
            states = F.relu(self.encoder((words * here).transpose(1, 2))).transpose(1, 2)
        return states * here

    @override
    def class_capsules(self, images: Tensor) -> Capsules:
        """Return ``poses (B, J, E), activations (B, J)`` of sentences ``(B, 3, T)``."""
        return self.relation_capsules(*self.read(images))

    def read(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return states, weights and lengths, see `relation_capsules`, of sentences ``(B, 3, T)``."""
        lengths = text_lengths(images[:, 0])
        states, here = self.states(images, lengths), first_places(lengths.clamp_min(1), images.shape[2])
        if self.attention:
            zero = self.in_shape[1] // 2
            weights = entity_attention(states, images[:, 1] == zero, images[:, 2] == zero, here)
        else:
            weights = here / here.sum(dim=1, keepdim=True)
        return states, weights, lengths

    @staticmethod
    @override
    def require_shape(in_shape: tuple[int, ...]) -> None:
        require(
            len(in_shape) == 3 and in_shape[0] >= 2 and in_shape[1] >= 2 and in_shape[2] >= 1,
            f"in_shape={tuple(in_shape)}: expected (tokens of the vocabulary, ids of distances, words of the longest "
            "sentence), as a data module of relations states",
        )

    @override
    def require_inputs(self, images: Tensor) -> None:
        if images.ndim != 3 or images.shape[1] != 3 or images.shape[2] < 1 or images.is_floating_point():
            raise InputError(
                f"sentences of shape {tuple(images.shape)}, {images.dtype}: expected whole numbers (batch, 3, words): "
                "tokens, and ids of the distances from both entities"
            )

    @override
    def example_inputs(self, size: int) -> Tensor:
        words, places, longest = self.in_shape
        tokens = torch.randint(1, words, (size, longest))
        heads = torch.randint(longest, (size, 2, 1))
        reach = (places - 2) // 2
        distances = (torch.arange(longest) - heads).clamp(-reach, reach) + places // 2
        return torch.cat([tokens.unsqueeze(1), distances], dim=1)
