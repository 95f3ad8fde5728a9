"""A small Transformer whose layers and heads may be put together by routing, and whose source may be routed."""

from __future__ import annotations

from math import log, sqrt
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from capsule_lightning.errors import InputError, require
from capsule_lightning.layers.special_tokens import PAD
from capsule_lightning.models.attention import DecoderLayer, EncoderLayer, KeysValues, Layout
from capsule_lightning.models.past_future import Guided, PastFuture
from capsule_lightning.models.state_aggregation import LayerAggregation, RoutingFactory
from capsule_lightning.models.translation import Answer, Memory, Progress, TranslationNet


class SourceMemory(NamedTuple):
    """What is kept of sources while they are translated; see `Memory`.

    Attributes:
        seen: for each layer of the decoder, keys and values of the source's words.
        mask: ``(B, 1, 1, S)`` bool, which words are no padding.
        votes: ``(B, S, 6, 60)``; None without capsules of past and future.
    """

    seen: list[KeysValues]
    mask: Tensor
    votes: Tensor | None

    def of(self, rows: Tensor) -> SourceMemory:
        """Return that of some rows ``(M)`` of the batch."""
        votes = None if self.votes is None else self.votes.index_select(0, rows)
        return SourceMemory([each.of(rows) for each in self.seen], self.mask.index_select(0, rows), votes)


class WordsSoFar(NamedTuple):
    """Keys and values of the words of a translation so far, for each layer; see `Progress`."""

    seen: list[KeysValues]

    def of(self, rows: Tensor) -> WordsSoFar:
        """Return those of some rows ``(M)`` of the batch."""
        return WordsSoFar([each.of(rows) for each in self.seen])


class Transformer(TranslationNet):
    """Encoder and decoder with normalization before each part, one embedding for source, target and output.

    Args:
        in_shape: ``(L,)``, most tokens of a sentence.
        num_classes: size of the vocabulary, V.
        dim: dimensions of a state, d.
        num_heads: heads of each attention.
        num_layers: layers of the encoder, and of the decoder.
        hidden: hidden units of the feed-forward parts.
        dropout: dropout rate, also of the attention's weights.
        layer_aggregation: what replaces the state of the top layer, in encoder and decoder: null for nothing;
            ``linear`` for a sum of all layers' states, each through a matrix of its own; or a routing, whose children
            are the states of all layers at one position (Dou et al. 2019, arXiv 1902.05770).
        layer_parents: parents of that routing, N, of d / N dimensions each. Dou et al. have 512 of 1 dimension.
        head_aggregation: null for the usual output projection of each attention; or a routing of its heads in place of
            it (Li et al. 2019, arXiv 1904.03100).
        head_parents: parents of that routing.
        past_future: whether the source is routed to capsules of past and future on top of the decoder, see
            `PastFuture`.

    Raises:
        InputError: a value is out of range, or a routing does not take these sizes.

    Example:
        >>> net = Transformer((20,), 50, dim=32, num_heads=2, num_layers=2, hidden=64, layer_aggregation="linear")
        >>> net(torch.tensor([[5, 6, 3]]), torch.tensor([[2, 7]])).shape
        torch.Size([1, 2, 50])
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        num_classes: int,
        *,
        dim: int = 256,
        num_heads: int = 4,
        num_layers: int = 3,
        hidden: int = 1024,
        dropout: float = 0.1,
        layer_aggregation: RoutingFactory | str | None = None,
        layer_parents: int = 16,
        head_aggregation: RoutingFactory | None = None,
        head_parents: int = 16,
        past_future: bool = False,
    ) -> None:
        super().__init__(in_shape, num_classes)
        layout = Layout(dim, num_heads, hidden, dropout, head_aggregation, head_parents)
        layout.require_possible()
        require(num_layers >= 1, f"num_layers={num_layers}: expected at least 1")
        self.embedding = nn.Embedding(num_classes, dim)
        nn.init.normal_(self.embedding.weight, std=dim**-0.5)
        self.register_buffer("places", sinusoids(self.most_tokens, dim), persistent=False)
        self.dropout = nn.Dropout(dropout)
        self.encoder = nn.ModuleList(EncoderLayer(layout) for _ in range(num_layers))
        self.encoder_top = LayerAggregation(num_layers, dim, layer_aggregation, layer_parents)
        self.decoder = nn.ModuleList(DecoderLayer(layout) for _ in range(num_layers))
        self.decoder_top = LayerAggregation(num_layers, dim, layer_aggregation, layer_parents)
        self.past_future = PastFuture(layout) if past_future else None

    def _embedded(self, tokens: Tensor, start: int = 0) -> Tensor:
        """Return the states of tokens ``(B, T)`` before the first layer, of which ``start`` are before these."""
        end = start + tokens.shape[1]
        if end > self.most_tokens:
            raise InputError(
                f"a sentence of {end} tokens: this network takes at most {self.most_tokens}; cut it, or train with "
                "a higher --data.max_length"
            )
        places: Tensor = self.places[start:end]  # type: ignore[index]
        states = self.embedding(tokens) * sqrt(self.embedding.embedding_dim) + places
        result: Tensor = self.dropout(states)
        return result

    def encoded(self, source: Tensor) -> Tensor:
        """Return the encoder's states ``(B, S, d)`` of sources ``(B, S)``."""
        mask = (source != PAD)[:, None, None]
        states, every = self._embedded(source), []
        for layer in self.encoder:
            states = layer(states, mask)
            every.append(states)
        result: Tensor = self.encoder_top(every)
        return result

    @override
    def read(self, source: Tensor) -> SourceMemory:
        states, mask = self.encoded(source), source != PAD
        seen = [layer.cross.look_at(states) for layer in self.decoder]  # type: ignore[operator,union-attr]
        votes = None if self.past_future is None else self.past_future.votes(states, mask)
        return SourceMemory(seen, mask[:, None, None], votes)

    def _decoded(
        self, target: Tensor, memory: SourceMemory, before: WordsSoFar | None = None
    ) -> tuple[Tensor | Guided, WordsSoFar]:
        """Return the decoder's normalized states, guided if they are, and what later words need to see of these."""
        start = 0 if before is None else before.seen[0].keys.shape[2]
        states, every, seen = self._embedded(target, start), [], []
        for number, layer in enumerate(self.decoder):
            earlier = None if before is None else before.seen[number]
            states, kept = layer(states, memory.seen[number], memory.mask, earlier)
            every.append(states)
            seen.append(kept)
        top = self.decoder_top(every)
        if self.past_future is None:
            return top, WordsSoFar(seen)
        assert memory.votes is not None
        return self.past_future(top, memory.votes), WordsSoFar(seen)

    def _logits(self, states: Tensor) -> Tensor:
        return F.linear(states, self.embedding.weight)

    @override
    def answer(self, source: Tensor, target: Tensor) -> Answer:
        top, _ = self._decoded(target, self.read(source))
        if not isinstance(top, Guided):
            return Answer(self._logits(top))
        assert self.past_future is not None
        past, future = self.past_future.words(top)
        return Answer(self._logits(top.states), self._logits(past), self._logits(future))

    @override
    def step(self, words: Tensor, memory: Memory, before: Progress | None) -> tuple[Tensor, Progress]:
        assert isinstance(memory, SourceMemory)
        assert before is None or isinstance(before, WordsSoFar)
        top, seen = self._decoded(words.unsqueeze(1), memory, before)
        states = top.states if isinstance(top, Guided) else top
        return self._logits(states[:, -1]), seen


def sinusoids(count: int, dim: int) -> Tensor:
    """Return ``(count, dim)``: sine and cosine of a position, of wavelengths from 2 pi to 20,000 pi.

    Source: Vaswani et al. 2017 (arXiv 1706.03762), section 3.5.
    """
    rates = torch.exp(torch.arange(0, dim, 2) * (-log(10_000) / dim))
    angles = torch.arange(count).unsqueeze(1) * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)
