"""Networks for relations: capsules of relations, and their control with a linear layer on the same encoder."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from capsule_lightning.capsules import Capsules
from capsule_lightning.errors import require
from capsule_lightning.layers.special_tokens import PAD
from capsule_lightning.layers.squash import squash
from capsule_lightning.layers.token_windows import first_places, spread
from capsule_lightning.models.cnn import capsules_of_logits
from capsule_lightning.models.relations import RelationNet, WordEncoder
from capsule_lightning.models.text_capsnet import OFFSET
from capsule_lightning.models.vote_scale import scale_votes
from capsule_lightning.models.word_votes import child_votes
from capsule_lightning.routing.base import Routing
from capsule_lightning.routing.stabilized import StabilizedRouting


class RelationCapsNet(RelationNet):
    """A network of primary capsules of every two neighboring words, and a class capsule for each relation.

    With `StabilizedRouting`, whose amendment multiplies the couplings of a child by its activation, and ``attention``,
    children count by what the entities make of their words: the coupling is ``alpha_i c_ij``. All children share one
    vote matrix for each relation.

    Args:
        in_shape, num_classes, encoder, hidden, attention, dim_words, dim_places, dropout, static: see
            `RelationNet`.
        routing: called with ``(children, dim, num_classes, dim_out)``; one that does not look at the activations of
            children does not see the attention.
        types: types of primary capsules at each place.
        dim: dimensions of a primary capsule.
        dim_out: dimensions of a class capsule.

    Raises:
        InputError: a size is below 1, or what `RelationNet` refuses.

    Source: Zhang N. et al. 2018 (arXiv 1812.11321) for the layers and their sizes, Zhang X. et al. 2019 (arXiv
    1811.04354) for the attention within routing.

    Example:
        >>> net = RelationCapsNet((5000, 202, 120), 19)
        >>> net(net.example_inputs(2)).poses.shape
        torch.Size([2, 19, 16])
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        num_classes: int,
        *,
        encoder: WordEncoder = "lstm",
        routing: Callable[[int, int, int, int], Routing] = StabilizedRouting,
        hidden: int = 300,
        attention: bool = True,
        types: int = 32,
        dim: int = 8,
        dim_out: int = 16,
        dim_words: int = 50,
        dim_places: int = 5,
        dropout: float = 0.5,
        static: bool = False,
    ) -> None:
        super().__init__(
            in_shape,
            num_classes,
            encoder=encoder,
            hidden=hidden,
            attention=attention,
            dim_words=dim_words,
            dim_places=dim_places,
            dropout=dropout,
            static=static,
        )
        for argument, size in {"types": types, "dim": dim, "dim_out": dim_out}.items():
            require(size >= 1, f"RelationCapsNet: {argument}={size}: expected at least 1")
        self.types, self.dim = types, dim
        self.primary = nn.Conv1d(hidden, types * dim, 2)
        make: Callable[..., Routing] = routing
        self.routing = make(self.longest * types, dim, num_classes, dim_out, vote_weights=1)
        # at first the capsules of one type are alike at all words, whose weights sum to 1
        scale_votes(self.routing, activation=1 / self.longest, different=types)

    def relation_children(self, states: Tensor, weights: Tensor, lengths: Tensor) -> Capsules:
        """Return the primary capsules of each word and the next, ordered by place and then by type; 0 at padding."""
        features = self.primary(F.pad(states, (0, 0, 0, 1)).transpose(1, 2)).transpose(1, 2)
        here = first_places(lengths, states.shape[1])
        poses = (
            squash(features.reshape(*features.shape[:2], self.types, self.dim), offset=OFFSET) * here[..., None, None]
        )
        counted = (weights * here).unsqueeze(-1).expand(-1, -1, self.types)
        poses, activations = poses.flatten(1, 2), counted.flatten(1, 2).to(poses.dtype)
        if not self.routing.any_number:
            missing = max(0, self.routing.num_in - poses.shape[1])
            poses = F.pad(poses, (0, 0, 0, missing))[:, : self.routing.num_in]
            activations = F.pad(activations, (0, missing))[:, : self.routing.num_in]
        return Capsules(poses, activations)

    @override
    def relation_capsules(self, states: Tensor, weights: Tensor, lengths: Tensor) -> Capsules:
        parents: Capsules = self.routing(self.relation_children(states, weights, lengths))
        return parents

    @override
    def word_votes(self, tokens: Tensor) -> Tensor:
        """Return what each child adds to each class, see `child_votes`, divided equally between its two words.

        Args:
            tokens: ``(B, 3, T)``.

        Returns:
            ``(B, T, J)``, 0 at padding.
        """
        words = tokens[:, 0]
        added = child_votes(self.routing, self.relation_children(*self.read(tokens)))  # (B, I, J)
        of_pairs = added.reshape(len(added), -1, self.types, added.shape[-1]).sum(dim=2)  # (B, T, J)
        return spread(of_pairs, 2, 1, words.shape[1]) * (words != PAD).unsqueeze(-1)


class RelationLinear(RelationNet):
    """The encoder of `RelationCapsNet`, the mean of its states by attention, and a linear layer: the control.

    Poses are the logits and activations their softmax: train it with `CrossEntropyLoss` of logits.

    Args:
        in_shape, num_classes, encoder, hidden, attention, dim_words, dim_places, dropout, static: see
            `RelationNet`.

    Raises:
        InputError: what `RelationNet` refuses.
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        num_classes: int,
        *,
        encoder: WordEncoder = "lstm",
        hidden: int = 300,
        attention: bool = True,
        dim_words: int = 50,
        dim_places: int = 5,
        dropout: float = 0.5,
        static: bool = False,
    ) -> None:
        super().__init__(
            in_shape,
            num_classes,
            encoder=encoder,
            hidden=hidden,
            attention=attention,
            dim_words=dim_words,
            dim_places=dim_places,
            dropout=dropout,
            static=static,
        )
        self.head = nn.Linear(hidden, num_classes)

    @override
    def relation_capsules(self, states: Tensor, weights: Tensor, lengths: Tensor) -> Capsules:
        """Return class capsules whose poses ``(B, J, 1)`` are the logits."""
        return capsules_of_logits(self.head(torch.einsum("bt,bth->bh", weights.to(states.dtype), states)))

    @override
    def word_votes(self, tokens: Tensor) -> Tensor:
        """Return what the state of each word, by its weight, adds to each logit.

        Args:
            tokens: ``(B, 3, T)``.

        Returns:
            ``(B, T, J)``, 0 at padding.
        """
        states, weights, _ = self.read(tokens)
        votes: Tensor = F.linear(states * weights.to(states.dtype).unsqueeze(-1), self.head.weight)
        return votes
