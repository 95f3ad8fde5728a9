"""Sentences to translate, in one vocabulary of byte pairs that both languages share."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from capsule_lightning.data.loader import ExactLoader, StoredBatch
from capsule_lightning.data.module import DataModule, Split
from capsule_lightning.data.pair_splits import PairSplits
from capsule_lightning.data.pair_store import PairStore
from capsule_lightning.data.parallel_text import Columns, PairFiles, ParallelText, two_files
from capsule_lightning.data.subwords import LEAST, BytePairVocabulary, tokenizers_library
from capsule_lightning.data.targets import TranslationBatch
from capsule_lightning.data.texts_to_predict import read_texts_to_predict
from capsule_lightning.data.token_loader import ROWS, TokenLoader, cut_to_longest, short_enough
from capsule_lightning.data.vocabulary import Vocabulary
from capsule_lightning.data.vocabulary_files import VOCABULARY, read_vocabulary, vocabulary_of
from capsule_lightning.errors import printable, require


class TranslationDataModule(DataModule):
    """Pairs of sentences: verses of the Bible that come with the package, a table, or two files.

    The embedded verses are 5,692 short ones of the King James Bible and the Reina-Valera of 1909 (both in the public
    domain), Isaiah and Acts to validate on and Job to test on. In two files the translation of each line is in the same
    line of the other file. A table has two columns of sentences; one whose name ends in ``.tsv`` or ``.tsv.gz`` has
    cells between tabs, taken as they are.

    Source and target share a vocabulary of byte pairs, trained on the sentences to train on and no others. Checkpoints
    hold it, so that ``test`` and ``predict`` need no sentences to train on.

    Pairs with an empty side are left out. A pair with a side of more than ``max_length`` tokens is left out of training
    and validation; in tests and predictions its source is cut there. How many there are is told before training.

    Args:
        table: a table of pairs; null for none.
        source_column, target_column: names of the table's columns.
        split_column: column that says ``train``, ``val`` or ``test``; null for none.
        group_column: column whose equal cells stay in one split, such as a book; null for the source sentence.
        source, target: two files with a sentence in each line; null for none.
        val_source, val_target, test_source, test_target: the same, to validate and to test on; null to split them off.
        test_size: number or fraction of the pairs that form the test set if none are listed as such; whole groups, the
            same for every seed.
        vocabulary_size: ids of the vocabulary, V: the network has as many, also if texts give fewer.
        vocabulary: a run's ``vocabulary.json``, whose vocabulary is taken; null to train one. ``test`` and
            ``predict`` take that of their network.
        max_length: most tokens of a sentence.
        batch_tokens: tokens of a training batch of all processes together, padding included: as many sentences as fit,
            a multiple of 8.
        batch_size: sentences at a time in evaluation and prediction.
        texts: a file of sentences for ``predict`` in place of the test set: one in each line, ``-`` for standard
            input, or a table with the column ``source_column``.
        val_size, seed: see `DataModule`; whole groups are held out.

    Raises:
        InputError: a value is out of range; a file, a column or ``tokenizers`` is missing, a file is not UTF-8, files
            have unlike numbers of lines; or a vocabulary is too large.
    """

    name = "translation"
    for_task = "TranslationTask"
    example_name = "sentence"
    class_names: Sequence[str] = ()
    """There are none; ``num_classes`` is the size of the vocabulary."""

    def __init__(
        self,
        table: str | None = None,
        source_column: str = "source",
        target_column: str = "target",
        split_column: str | None = None,
        group_column: str | None = None,
        source: str | None = None,
        target: str | None = None,
        val_source: str | None = None,
        val_target: str | None = None,
        test_source: str | None = None,
        test_target: str | None = None,
        test_size: float | int = 0.05,
        vocabulary_size: int = 8000,
        vocabulary: str | None = None,
        max_length: int = 100,
        batch_tokens: int = 4096,
        batch_size: int = 64,
        texts: str | None = None,
        val_size: float | int = 0.05,
        seed: int | None = None,
    ) -> None:
        super().__init__(batch_size, val_size, seed)
        require(max_length >= 1, f"max_length={max_length}: expected at least 1 token of a sentence")
        require(
            batch_tokens >= ROWS * (max_length + 1),
            f"batch_tokens={batch_tokens}: expected at least {ROWS * (max_length + 1)}, {ROWS} sentences of "
            f"max_length={max_length} tokens and their end",
        )
        require(vocabulary_size >= LEAST, f"vocabulary_size={vocabulary_size}: expected at least {LEAST}, all bytes")
        require(
            test_size > 0 and (not isinstance(test_size, float) or test_size < 1 or test_size.is_integer()),
            f"test_size={test_size}: expected a fraction below 1 or a number of pairs",
        )
        require(texts != "", "texts='': expected a file of sentences, or - for standard input")
        require(table is None or (source is None and target is None), "table, source: both are given; give one of them")
        require(
            source is not None or (test_source is None and val_source is None),
            "val_source, test_source: are for files; give --data.source and --data.target too, or --data.split_column",
        )
        self.columns = Columns(source_column, target_column, split_column, group_column)
        self.files = PairFiles(
            None if table is None else Path(os.path.expanduser(table)),
            self.columns,
            two_files("source", source, target),
            two_files("val_source", val_source, val_target),
            two_files("test_source", test_source, test_target),
        )
        self.test_size, self.vocabulary_size, self.max_length = test_size, vocabulary_size, max_length
        self.batch_tokens, self.predict_path = batch_tokens, texts
        tokenizers_library()
        self._vocabulary: Vocabulary | None = None
        if vocabulary is not None:
            self._vocabulary = self._usable(read_vocabulary(Path(os.path.expanduser(vocabulary))), vocabulary)
        self._is_chosen = vocabulary is not None

    @property
    @override
    def in_shape(self) -> tuple[int]:
        """``(L,)``, most tokens of a sentence."""
        return (self.max_length,)

    @property
    @override
    def num_classes(self) -> int:
        """V, ids of the vocabulary."""
        return self.vocabulary_size

    @cached_property
    def text(self) -> ParallelText:
        """All pairs, read when they are first needed, without those that have an empty side."""
        return self.files.read()

    @cached_property
    def splits(self) -> PairSplits:
        """Which of them each split has."""
        return PairSplits(self.text, self.val_size, self.test_size)

    @override
    def open(self, split: Split) -> PairStore:
        places = self.splits.places[split]
        require(places, f"{self.text.title}: no pairs to {split} on; list some, or change --data.test_size")
        return PairStore([self.text.sources[n] for n in places], [self.text.targets[n] for n in places])

    @override
    def setup(self, stage: str | None = None) -> None:
        """Read what the stage needs; texts become ids once the vocabulary of the checkpoint is known."""
        if stage == "predict" and self.predict_path is not None:
            sources = read_texts_to_predict(self.predict_path, self.columns.source)
            self.stores["predict"] = PairStore(sources, [""] * len(sources))
        else:
            super().setup(stage)

    @override
    def hold_out(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        return self.splits.hold_out(self.seed)

    @override
    def use_split(self, train: Tensor, val: Tensor) -> None:
        require(len(train), f"val_size={self.val_size}: leaves no pair to train on; lower --data.val_size")
        self._train, self._val, self._record = train, val, None

    # The vocabulary.

    @property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary, trained when it is first asked for unless a file or a checkpoint gives it."""
        if self._vocabulary is None:
            store = self.pairs("train")
            if not len(self._train):
                self.use_split(*self.hold_out(store.labels))
            places = self._train.tolist()
            sentences = (text for n in places for text in (store.sources[n], store.targets[n]))
            self._vocabulary = BytePairVocabulary.trained(sentences, self.vocabulary_size)
        return self._vocabulary

    def _usable(self, found: Vocabulary, source: str) -> Vocabulary:
        """Return a vocabulary from elsewhere, unless it is of another kind or too large."""
        require(
            isinstance(found, BytePairVocabulary),
            f"{source}: its vocabulary is of {found.kind}, and translation needs byte pairs; take that of one",
        )
        require(
            len(found) <= self.vocabulary_size,
            f"{source}: its vocabulary has {len(found):,} ids, more than vocabulary_size={self.vocabulary_size}: set "
            f"--data.vocabulary_size {len(found)}",
        )
        return found

    @override
    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        return {**state, VOCABULARY: self.vocabulary.plain()} if state else state

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with split and vocabulary of a run.

        Raises:
            InputError: ``vocabulary`` names another vocabulary; or the state is not one of a data module.
        """
        super().load_state_dict(state_dict)
        if not isinstance(state_dict, dict) or VOCABULARY not in state_dict:
            return
        known = self._usable(vocabulary_of(state_dict[VOCABULARY], "the checkpoint"), "the checkpoint")
        require(
            not self._is_chosen or known == self._vocabulary,
            "vocabulary: is another one than the checkpoint's, whose network knows its ids alone; leave "
            "--data.vocabulary out",
        )
        self._vocabulary = known

    # Batches.

    def pairs(self, split: str) -> PairStore:
        """Return the pairs of a split; ``val`` are among those of ``train``."""
        name = "train" if split == "val" else split
        store = self.stores[name] if name in self.stores else self.store("test" if name == "test" else "train")
        assert isinstance(store, PairStore)
        return store

    def encoded(self, split: str) -> PairStore:
        """Return the pairs of a split with their ids."""
        store = self.pairs(split)
        store.encode(self.vocabulary, self.max_length)
        return store

    @property
    @override
    def steps_per_epoch(self) -> int:
        return len(self.loader("train", self._train, training=True))

    @override
    def require_whole_shares(self, processes: int) -> None:
        """Refuse more processes than a batch is sure to have sentences.

        Raises:
            InputError: there are more than 8.
        """
        require(
            processes <= ROWS,
            f"devices={processes}: a batch may have {ROWS} sentences; expected at most {ROWS} processes",
        )

    @override
    def loader(self, split: str, subset: Tensor | None = None, training: bool = False) -> ExactLoader:
        store, (rank, world_size) = self.encoded(split), self.process
        subset = torch.arange(len(store)) if subset is None else subset
        subset = subset[short_enough(store.lengths[subset], self.max_length)] if split == "train" else subset
        return TokenLoader(
            store,
            subset,
            self.batch_size,
            lengths=store.lengths.amax(dim=1) + 1,
            batch_tokens=self.batch_tokens,
            training=training,
            seed=self.seed,
            rank=rank,
            world_size=world_size,
        )

    @override
    def on_before_batch_transfer(self, batch: StoredBatch | TranslationBatch, dataloader_idx: int) -> TranslationBatch:
        """Cut sources and targets to the longest of the batch, on the host."""
        return batch if isinstance(batch, TranslationBatch) else cut_to_longest(batch)

    # What is told.

    def said(self, ids: Tensor) -> str:
        """Return the text of the ids ``(T)`` of a translation."""
        return self.vocabulary.decode(ids.tolist()).strip()

    @override
    def origin_of(self, part: str) -> str:
        if part in self.text.own_parts:
            return f" ({self.text.own_parts[part]})"
        return f" (--data.test_size {self.test_size})" if part == "test" else super().origin_of(part)

    @override
    def describe(self) -> str:
        """Return what has been read so far: pairs, vocabulary, splits, and what is left out."""
        text = self.text
        lines = [f"{text.title}: {len(text.sources):,} pairs, {len(self.vocabulary):,} byte pairs for both languages"]
        if len(self.vocabulary) < self.vocabulary_size:
            lines.append(f"{self.vocabulary_size - len(self.vocabulary):,} of --data.vocabulary_size are not used")
        if len(self._train):
            self.encoded("test")
        lines.append(self.describe_splits())
        if text.empty:
            lines.append(f"{text.empty:,} more have an empty side and are left out")
        if len(self._train):
            lengths, tests = self.encoded("train").lengths, self.pairs("test").lengths[:, 0]
            long = int((lengths.amax(dim=1) > self.max_length).sum())
            cut = int((tests > self.max_length).sum())
            lines.append(
                f"{lengths.float().mean():.0f} tokens in a sentence, {self.steps_per_epoch:,} batches an epoch"
            )
            if long:
                lines.append(
                    f"{long:,} longer than --data.max_length {self.max_length} are not trained or validated on"
                )
            if cut:
                lines.append(f"{cut:,} sources to test on are longer and end there")
        return "\n  ".join(map(printable, lines))
