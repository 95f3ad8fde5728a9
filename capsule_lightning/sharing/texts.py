"""Texts that a trained network is asked about, wherever its training texts are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from capsule_lightning.data.module import Split
from capsule_lightning.data.text import TextDataModule
from capsule_lightning.data.text_store import TextStore
from capsule_lightning.data.tokens import END, UNKNOWN
from capsule_lightning.data.trained_on import TrainedOn
from capsule_lightning.data.vocabulary_files import vocabulary_of
from capsule_lightning.errors import InputError, require


class GivenTextsDataModule(TextDataModule):
    """Texts for ``predict``; classes and vocabulary are those of the network, which states them.

    Args:
        class_names: names of the network's classes.
        vocabulary: the network's file.
        max_length: most ids of a text.
        texts: a file with a text in each line, ``-`` for standard input, or a table.
        text_column: the table's column.
        batch_size: texts at a time.
        num_labels: 1; 0 if the network names any number of classes.
    """

    name = "given_texts"

    def __init__(
        self,
        class_names: list[str],
        vocabulary: str,
        max_length: int = 200,
        texts: str | None = None,
        text_column: str = "text",
        batch_size: int = 50,
        num_labels: int = 1,
    ) -> None:
        super().__init__(
            max_length=max_length, vocabulary=vocabulary, batch_size=batch_size, val_size=0, seed=0, texts=texts
        )
        self.class_names, self.text_column, self.num_labels = list(class_names), text_column, num_labels

    @override
    def open(self, split: Split) -> TextStore:
        raise InputError(f"{self.name}: have no {split} texts; choose other data with --data")


class TextReader:
    """Turns texts into the input of a network.

    Args:
        images: what the network was trained on.
        source: the network's file, for messages.

    Raises:
        InputError: it was trained on no texts.
    """

    def __init__(self, images: TrainedOn, source: str) -> None:
        self.images, self.max_length = images, images.in_shape[1]
        self.vocabulary = vocabulary_of(images.vocabulary, source)

    def __call__(self, texts: Any) -> Tensor:
        """Return the ids ``(B, L)`` int64 of a text, or of several; ids are returned as they are.

        Raises:
            InputError: they are something else.
        """
        return texts if isinstance(texts, Tensor) else padded_ids([self.ids(text) for text in several(texts)])

    def ids(self, text: str) -> list[int]:
        """Return the ids of a text, at least one."""
        return self.vocabulary.encode(text)[: self.max_length] or [UNKNOWN]


class SentenceReader:
    """Turns sentences into what a network translates, and translations into texts.

    Args:
        images: what the network was trained on.
        source: the network's file, for messages.
    """

    def __init__(self, images: TrainedOn, source: str) -> None:
        self.images, self.max_length = images, images.in_shape[0]
        self.vocabulary = vocabulary_of(images.vocabulary, source)

    def __call__(self, texts: Any) -> Tensor:
        """Return the ids ``(B, S)`` int64 of a sentence, or of several, with `END`; ids are returned as they are.

        Raises:
            InputError: they are something else.
        """
        if isinstance(texts, Tensor):
            return texts
        ids = (self.vocabulary.encode(text) if text.strip() else [] for text in several(texts))
        return padded_ids([[*each[: self.max_length], END] for each in ids])

    def write(self, ids: Tensor) -> str:
        """Return the text of the ids ``(T)`` of a translation."""
        return self.vocabulary.decode(ids.tolist()).strip()


def several(texts: Any) -> Sequence[str]:
    """Return a text, or several, as a list.

    Raises:
        InputError: they are something else.
    """
    given: Sequence[Any] = [texts] if isinstance(texts, str) else list(texts)
    require(given and all(isinstance(text, str) for text in given), "no texts: expected a text, or several")
    return given


def padded_ids(ids: Sequence[Sequence[int]]) -> Tensor:
    """Return lists of ids as ``(B, L)`` int64."""
    return TextStore.of(ids, torch.zeros(len(ids))).take(torch.arange(len(ids)))
