"""Layers of a Transformer whose attention can put its heads together by routing, and can be asked one word at a time.

Vaswani, Shazeer, Parmar, Uszkoreit, Jones, Gomez, Kaiser & Polosukhin, Attention Is All You Need, NeurIPS 2017 (arXiv
1706.03762); normalized before each part, as Wang et al., ACL 2019 (arXiv 1906.01787).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from capsule_lightning.errors import require
from capsule_lightning.models.state_aggregation import RoutedAggregation, RoutingFactory


class KeysValues(NamedTuple):
    """What an attention looks at.

    Attributes:
        keys, values: ``(B, H, S, d / H)``.
    """

    keys: Tensor
    values: Tensor

    def followed_by(self, more: KeysValues) -> KeysValues:
        """Return these and those of later positions."""
        return KeysValues(*(torch.cat(pair, dim=2) for pair in zip(self, more, strict=True)))

    def of(self, rows: Tensor) -> KeysValues:
        """Return those of some rows ``(M)`` of the batch."""
        return KeysValues(self.keys.index_select(0, rows), self.values.index_select(0, rows))


class Layout(NamedTuple):
    """How the layers of a Transformer are made.

    Attributes:
        dim: dimensions of a state, d.
        num_heads: heads of an attention, H.
        hidden: hidden units of the feed-forward part.
        dropout: dropout rate.
        head_aggregation: null for the usual output projection, which is a linear map of the heads; or a routing.
        num_parents: parents of that routing.
    """

    dim: int
    num_heads: int
    hidden: int
    dropout: float
    head_aggregation: RoutingFactory | None
    num_parents: int

    def require_possible(self) -> None:
        """Refuse sizes that cannot be.

        Raises:
            InputError: a size is below 1, H does not divide d, or the rate is no share.
        """
        for name in ("dim", "num_heads", "hidden"):
            require(getattr(self, name) >= 1, f"{name}={getattr(self, name)}: expected at least 1")
        require(
            self.dim % (2 * self.num_heads) == 0,
            f"num_heads={self.num_heads}: expected a number of heads that divides the {self.dim} dimensions of a state "
            "(--model.net.dim) into even parts",
        )
        require(0 <= self.dropout < 1, f"dropout={self.dropout}: expected a rate of 0 or more and less than 1")


class Attention(nn.Module):
    """Attention of several heads.

    Args:
        layout: see `Layout`.
    """

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        dim = layout.dim
        self.num_heads, self.dropout = layout.num_heads, layout.dropout
        self.query, self.key, self.value = (nn.Linear(dim, dim) for _ in range(3))
        self.output = nn.Linear(dim, dim) if layout.head_aggregation is None else None
        self.aggregation = (
            None
            if layout.head_aggregation is None
            else RoutedAggregation(
                layout.num_heads, dim // layout.num_heads, dim, layout.head_aggregation, layout.num_parents
            )
        )
        for linear in (self.query, self.key, self.value):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def look_at(self, states: Tensor) -> KeysValues:
        """Return keys and values of states ``(B, S, d)``."""
        return KeysValues(self._by_head(self.key(states)), self._by_head(self.value(states)))

    def _by_head(self, states: Tensor) -> Tensor:
        return torch.unflatten(states, -1, (self.num_heads, -1)).transpose(1, 2)

    def weights(self, states: Tensor, seen: KeysValues, mask: Tensor | None = None) -> Tensor:
        """Return how much each head sees of each position, ``(B, H, T, S)``, rows of which sum to 1; see `forward`."""
        query = self._by_head(self.query(states))
        scores = torch.einsum("bhtd,bhsd->bhts", query, seen.keys) * query.shape[-1] ** -0.5
        result: Tensor = (scores if mask is None else scores.masked_fill(~mask, -torch.inf)).softmax(dim=-1)
        return result

    @override
    def forward(self, states: Tensor, seen: KeysValues, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        """Return what each state sees.

        Args:
            states: ``(B, T, d)``.
            seen: keys and values of S positions.
            mask: ``(B, 1, 1, S)`` bool, what may be seen; None for all.
            causal: whether position t sees positions up to t alone, S = T.

        Returns:
            ``(B, T, d)``.
        """
        dropout = self.dropout if self.training else 0.0
        heads = F.scaled_dot_product_attention(
            self._by_head(self.query(states)), *seen, attn_mask=mask, dropout_p=dropout, is_causal=causal
        ).transpose(1, 2)  # (B, T, H, d / H)
        result: Tensor
        if self.aggregation is not None:
            result = self.aggregation(heads)
        else:
            assert self.output is not None
            result = self.output(heads.flatten(-2))
        return result


class FeedForward(nn.Sequential):
    """Two linear maps with ReLU between them, at each position by itself.

    Args:
        dim_in: dimensions of what it is given.
        layout: see `Layout`; the result has ``dim`` dimensions.
    """

    def __init__(self, dim_in: int, layout: Layout) -> None:
        super().__init__(
            nn.Linear(dim_in, layout.hidden),
            nn.ReLU(),
            nn.Dropout(layout.dropout),
            nn.Linear(layout.hidden, layout.dim),
        )


class EncoderLayer(nn.Module):
    """Attention among the words of a sentence, then a feed-forward part, each added to what it was given.

    Args:
        layout: see `Layout`.
    """

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.attention, self.feed_forward = Attention(layout), FeedForward(layout.dim, layout)
        self.norms = nn.ModuleList(nn.LayerNorm(layout.dim) for _ in range(2))
        self.dropout = nn.Dropout(layout.dropout)

    @override
    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Return states ``(B, S, d)`` after the layer; the mask ``(B, 1, 1, S)`` says what may be seen."""
        normal = self.norms[0](states)
        states = states + self.dropout(self.attention(normal, self.attention.look_at(normal), mask))
        result: Tensor = states + self.dropout(self.feed_forward(self.norms[1](states)))
        return result


class DecoderLayer(nn.Module):
    """Attention to the words so far, attention to the source, and a feed-forward part.

    Args:
        layout: see `Layout`.
    """

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.attention, self.cross = Attention(layout), Attention(layout)
        self.feed_forward = FeedForward(layout.dim, layout)
        self.norms = nn.ModuleList(nn.LayerNorm(layout.dim) for _ in range(3))
        self.dropout = nn.Dropout(layout.dropout)

    @override
    def forward(
        self, states: Tensor, source: KeysValues, mask: Tensor, before: KeysValues | None = None
    ) -> tuple[Tensor, KeysValues]:
        """Return the states after the layer, and keys and values of all words so far.

        Args:
            states: ``(B, T, d)``; T = 1 if there are words before.
            source: of the source's S words.
            mask: ``(B, 1, 1, S)`` bool, which of them are no padding.
            before: of the words before these; None if there are none.
        """
        normal = self.norms[0](states)
        seen = self.attention.look_at(normal)
        seen = seen if before is None else before.followed_by(seen)
        states = states + self.dropout(self.attention(normal, seen, causal=before is None))
        states = states + self.dropout(self.cross(self.norms[1](states), source, mask))
        return states + self.dropout(self.feed_forward(self.norms[2](states))), seen
