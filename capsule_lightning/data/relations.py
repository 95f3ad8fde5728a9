"""What data sets of relations share: sentences whose two entities are marked, as ids of words and of distances."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from typing_extensions import override

from capsule_lightning.data.loader import StoredBatch
from capsule_lightning.data.marked_sentences import MarkedSentence, cut, unmarked
from capsule_lightning.data.module import Split
from capsule_lightning.data.relation_store import RelationBatch, RelationStore
from capsule_lightning.data.split_folders import Part
from capsule_lightning.data.text import TextDataModule, Tokenizer
from capsule_lightning.data.text_store import TextStore
from capsule_lightning.data.texts import Texts
from capsule_lightning.data.tokens import UNKNOWN
from capsule_lightning.errors import require


class RelationDataModule(TextDataModule):
    """Sentences with two marked entities, and the relation between these.

    Of a sentence that is longer than ``max_length`` the words around its entities are taken, as far as they fit; the
    first entity is always among them. All sentences about a pair of entities, where a file says which they are, are on
    one side of a split. ``predict`` takes sentences that are marked with ``<e1>...</e1>`` and ``<e2>...</e2>``.
    `TextDataModule` describes the arguments that are not listed.

    Args:
        reach: the greatest distance of a word from an entity, in words, that has a vector of its own.

    Raises:
        InputError: what `TextDataModule` refuses, or ``reach`` is below 1.
    """

    example_name = "sentence"

    def __init__(
        self,
        reach: int = 50,
        tokenizer: Tokenizer = "words",
        vocabulary_size: int = 30000,
        min_count: int = 2,
        max_length: int = 120,
        vocabulary: str | None = None,
        by_length: bool = False,
        class_names: list[str] | None = None,
        test_size: float | int = 0.2,
        batch_size: int = 50,
        val_size: float | int = 0.1,
        seed: int | None = None,
        balanced: bool = False,
        texts: str | None = None,
        word_vectors: str | None = None,
    ) -> None:
        super().__init__(
            tokenizer,
            vocabulary_size,
            min_count,
            max_length,
            vocabulary,
            by_length,
            class_names,
            test_size,
            None,
            0,
            batch_size,
            val_size,
            seed,
            balanced,
            texts,
            word_vectors,
        )
        require(reach >= 1, f"reach={reach}: expected at least 1 word")
        self.reach = reach

    def take_sentences(
        self,
        train: Sequence[MarkedSentence],
        test: Sequence[MarkedSentence],
        names: Sequence[str],
        note: str,
    ) -> None:
        """Take over what files say, see `take_texts`; without sentences to test on, a part of the others is.

        Raises:
            InputError: both sides have sentences about one pair of entities, or what `take_texts` refuses.
        """
        shared = {each.pair for each in train if each.pair} & {each.pair for each in test}
        require(
            not shared,
            f"{self.title}: {len(shared):,} pairs of entities are in the training and in the test set, whose facts a "
            "network would know; take them out of one",
        )
        parts: list[Part] = [*["train"] * len(train), *["test"] * len(test)]  # type: ignore[list-item]
        rows = [*train, *test]
        self.take_texts(
            Texts(
                [each.text for each in rows],
                [(each.relation,) for each in rows],
                parts,
                [each.pair for each in rows] if any(each.pair for each in rows) else (),
                {"test": "a file of their own"} if test else {},
                note,
                names=names,
            )
        )

    @property
    @override
    def in_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """``(V, P, L)``: different ids of words and of distances, and the most words of a sentence."""
        return len(self.vocabulary), 2 * self.reach + 2, self.max_length

    @override
    def readable(self, text: str) -> str:
        return unmarked(text)

    @override
    def open(self, split: Split) -> RelationStore:
        store = super().open(split)
        assert isinstance(store, RelationStore)
        groups = self.found.groups
        if groups:
            number_of = {name: number for number, name in enumerate(dict.fromkeys(groups))}
            places = self.splits.places(split).tolist()
            store.bags = torch.tensor([number_of[groups[place]] for place in places], dtype=torch.int64)
        return store

    @override
    def stored(self, split: str, texts: Sequence[str], labels: Tensor) -> TextStore:
        rows, heads, long = [], [], 0
        for number, text in enumerate(texts, start=1):
            ids, places = self.encoded(text, f"sentence {number}")
            long += len(ids) > self.max_length
            first = self.first_word(len(ids), places)
            rows.append(ids[first : first + self.max_length])
            heads.append([place - first for place in places])
        self.odd[split] = 0, long
        store = TextStore.of(rows, labels)
        where = torch.tensor(heads, dtype=torch.int64).view(-1, 2)
        return RelationStore(store.ids, store.offsets, labels, where, torch.arange(len(labels)), self.reach)

    def first_word(self, count: int, places: tuple[int, int]) -> int:
        """Return the first word that is taken of ``count``, given the last word of each entity."""
        first = max(0, min(places) - max(0, self.max_length - (max(places) - min(places)) - 1) // 2)
        return min(first, max(0, count - self.max_length), min(places))

    @override
    def pieces(self, text: str) -> list[str]:
        found: list[str] = []
        for number, part in enumerate(cut(text).parts):
            found += self.vocabulary.pieces(part) or [part] * (number in (1, 3))
        first = self.first_word(len(found), self.encoded(text)[1])
        return found[first : first + self.max_length]

    def encoded(self, text: str, place: str = "a sentence") -> tuple[list[int], tuple[int, int]]:
        """Return the ids of a marked sentence, and the last word of the first and of the second entity.

        Raises:
            InputError: it is not marked.
        """
        parts, order = cut(text, place)
        ids: list[int] = []
        heads = {}
        for number, part in enumerate(parts):
            found = self.vocabulary.encode(part)
            ids += found or [UNKNOWN] * (number in (1, 3))
            if number in (1, 3):
                heads[order[number // 2]] = len(ids) - 1
        return ids, (heads[1], heads[2])

    @override
    def on_after_batch_transfer(self, batch: StoredBatch | RelationBatch, dataloader_idx: int) -> RelationBatch:  # type: ignore[override]
        if isinstance(batch, RelationBatch):
            return batch
        found = super().on_after_batch_transfer(batch, dataloader_idx)
        return RelationBatch(found.tokens[:, :3], found.labels, found.tokens[:, 3, 0], found.indices, found.shares)
