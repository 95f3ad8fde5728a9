"""The contract of every network that translates, which `TranslationTask` trains and `search` asks word by word."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, Self

import torch
from torch import Tensor, nn
from typing_extensions import override

from capsule_lightning.errors import InputError, require
from capsule_lightning.layers.special_tokens import END, SPECIAL
from capsule_lightning.models.translation_search import translate


class Answer(NamedTuple):
    """What a network says of the words of a target, each from the words before it.

    Attributes:
        logits: ``(B, T, V)``, of the next word.
        past, future: ``(B, T, V)``, of the words up to that one and of those after it, in any order; None of a network
            without capsules for them.
    """

    logits: Tensor
    past: Tensor | None = None
    future: Tensor | None = None


class Memory(Protocol):
    """What a network keeps of sources while it translates them."""

    def of(self, rows: Tensor) -> Self:
        """Return that of some rows ``(M)`` of the batch."""


class Progress(Protocol):
    """What a network keeps of the words of translations so far."""

    def of(self, rows: Tensor) -> Self:
        """Return that of some rows ``(M)`` of the batch."""


class TranslationNet(nn.Module, ABC):
    """A network from the tokens of a source and of a target so far to the next token.

    Args:
        in_shape: ``(L,)``, most tokens of a sentence, without those for its beginning and its end.
        num_classes: size of the vocabulary, V, which source and target share.

    Attributes:
        most_tokens: most tokens of a row, with the one for the beginning or the end.
        reader: turns sentences into the ids that `predict` translates; None for ids ``(B, S)``. `load_network` sets one
            that knows the vocabulary.
        writer: turns the ids ``(T)`` of a translation into a text.

    Raises:
        InputError: a size is below what a sentence needs.
    """

    class_names: Sequence[str] = ()
    """There are none."""

    def __init__(self, in_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        require(
            len(in_shape) == 1 and in_shape[0] >= 1,
            f"in_shape={tuple(in_shape)}: expected (tokens,), at least 1; give data of two languages",
        )
        require(num_classes > len(SPECIAL), f"num_classes={num_classes}: expected a vocabulary of at least 5 tokens")
        self.in_shape, self.num_classes = tuple(in_shape), num_classes
        self.most_tokens = in_shape[0] + 1
        self.reader: Callable[[Any], Tensor] | None = None
        self.writer: Callable[[Tensor], str] | None = None

    @abstractmethod
    def answer(self, source: Tensor, target: Tensor) -> Answer:
        """Return what it says of ``source (B, S)`` and ``target (B, T)``, which begins with `BEGIN`."""

    @abstractmethod
    def read(self, source: Tensor) -> Memory:
        """Return what it keeps of sources ``(B, S)``."""

    @abstractmethod
    def step(self, words: Tensor, memory: Memory, before: Progress | None) -> tuple[Tensor, Progress]:
        """Return logits ``(B, V)`` of the words after ``words (B)``, and what it keeps of all words so far."""

    @torch.no_grad()
    def predict(self, texts: Any, batch_size: int = 64, beam: int = 4) -> list[str]:
        """Return translations of sentences; that of an empty one is empty.

        Args:
            texts: whatever `reader` takes: a sentence, or several.
            batch_size: sentences at a time.
            beam: see `translate`.

        Raises:
            InputError: the network knows no vocabulary, because `load_network` has not made it.
        """
        if self.reader is None or self.writer is None:
            raise InputError("this network knows no vocabulary; load it with load_network, or call translate with ids")
        source, training = self.reader(texts).to(next(self.parameters()).device), self.training
        self.eval()
        try:
            found = [row for part in torch.split(source, batch_size) for row in translate(self, part, beam).cpu()]
        finally:
            self.train(training)
        return ["" if ids[0] == END else self.writer(row) for ids, row in zip(source, found, strict=True)]

    @override
    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Return logits ``(B, T, V)`` of the word after each word of ``target (B, T)``.

        Args:
            source: ``(B, S)`` int64; `PAD` is left out of everything.
            target: ``(B, T)`` int64, begins with `BEGIN`. Word t changes no logit before it.
        """
        return self.answer(source, target).logits
