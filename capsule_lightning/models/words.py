"""What networks that read words share: the vectors of the words."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from capsule_lightning.errors import InputError
from capsule_lightning.layers.special_tokens import PAD
from capsule_lightning.models.base import CapsuleNet


class WordNet(CapsuleNet):
    """A network whose input are tokens, each of which becomes a vector that is learned, or given and kept."""

    @property
    @abstractmethod
    def word_embedding(self) -> nn.Embedding:
        """The vectors ``(V, D)`` of the tokens."""

    def word_votes(self, tokens: Tensor) -> Tensor | None:
        """Return what each word adds to each class, ``(B, T, J)``, 0 at padding; None of a network that cannot tell.

        Args:
            tokens: what the network takes, of T words a row.
        """
        return None

    def start_from(self, vectors: Tensor) -> None:
        """Begin with given vectors of the words.

        Args:
            vectors: ``(V, D)``; NaN for words of which none is known, which keep their random ones.

        Raises:
            InputError: the vocabulary or the dimensions are others than the network was built for.
        """
        weight = self.word_embedding.weight
        if vectors.shape != weight.shape:
            raise InputError(
                f"word vectors of shape {tuple(vectors.shape)}: this network has {len(weight):,} words of "
                f"{weight.shape[1]} dimensions; set --model.net.dim_words {vectors.shape[-1]}, or give other vectors"
            )
        with torch.no_grad():
            weight.copy_(torch.where(vectors.isnan(), weight.cpu(), vectors.to(weight.dtype)))
            weight[PAD] = 0
