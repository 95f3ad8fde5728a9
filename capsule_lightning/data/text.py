"""What data sets of texts share, whatever lists the texts: the vocabulary, splits, and batches of ids."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from typing_extensions import override

from capsule_lightning.data.division import Division
from capsule_lightning.data.image_trees import in_order
from capsule_lightning.data.label_sets import padded
from capsule_lightning.data.length_loader import LengthLoader
from capsule_lightning.data.loader import ExactLoader, StoredBatch
from capsule_lightning.data.module import DataModule, Split
from capsule_lightning.data.row_splits import RowSplits
from capsule_lightning.data.shares import Share
from capsule_lightning.data.subwords import BytePairVocabulary
from capsule_lightning.data.text_store import TextStore
from capsule_lightning.data.texts import Texts
from capsule_lightning.data.texts_to_predict import read_texts_to_predict
from capsule_lightning.data.to_predict import unknown
from capsule_lightning.data.tokens import SPECIAL, UNKNOWN, TextBatch
from capsule_lightning.data.vocabulary import Vocabulary, WordVocabulary
from capsule_lightning.data.vocabulary_files import VOCABULARY, read_vocabulary, require_same_vocabulary, vocabulary_of
from capsule_lightning.data.word_vectors import read_word_vectors
from capsule_lightning.errors import printable, require, require_one_of, some_of

Tokenizer = Literal["words", "byte_pairs"]


class TextDataModule(DataModule):
    """Texts with one class each, or any number of classes, as ids of a vocabulary.

    The vocabulary is made of the texts that are trained on, and of no others: ``words`` takes whole words and marks in
    lower case, see `words_of`; ``byte_pairs`` takes pieces of words, see `BytePairVocabulary`. What it does not have is
    one id, `UNKNOWN`. Of a longer text the first ``max_length`` ids are taken; an empty one is one `UNKNOWN`. How many
    there are of both is told before training. Checkpoints and shared networks hold the vocabulary.

    A subclass calls `take_texts` at the end of its constructor.

    Args:
        tokenizer: ``words`` or ``byte_pairs``.
        vocabulary_size: most ids of the vocabulary.
        min_count: how often a word, or a pair that is joined, must occur in the texts to train on.
        max_length: most ids of a text.
        vocabulary: a run's ``vocabulary.json``, checkpoint or shared network whose vocabulary is taken; null to make
            one. ``test`` and ``predict`` take that of their network.
        by_length: train on batches of texts of like length, see `LengthLoader`: less padding, and another order.
        class_names: names of the classes, in their order; null for those of the labels to train on, in that of the
            alphabet, or of their numbers if all are whole numbers.
        test_size: number or fraction of the texts that form the test set if none are listed as such; the choice is
            stratified and the same for every seed.
        folds: number of parts, stratified and the same for every seed, one of which is the test set in place of
            ``test_size`` texts; null for none.
        fold: which of the ``folds`` parts to test on, from 0.
        batch_size, val_size, seed, balanced: see `DataModule`; texts that are listed to validate on are validated on,
            whatever number ``val_size`` is above 0.
        texts: a file of texts without labels, for ``predict`` in place of the test texts: one in each line, ``-`` for
            standard input, or a table with a column ``text``.
        word_vectors: a file of vectors that training begins with, see `read_word_vectors`: word2vec's or GloVe's, of as
            many dimensions as the network's ``dim_words``. Other words begin at random, as all do if it is null;
            ``--model.net.static true`` keeps them as they are.

    Attributes:
        num_labels: 1; 0 if a text may have any number of labels.

    Raises:
        InputError: a value is out of range; the texts to train on have fewer than two classes; others have a class that
            these lack.
    """

    name: str
    num_labels: int = 1
    text_column = "text"
    example_name = "text"

    def __init__(
        self,
        tokenizer: Tokenizer = "words",
        vocabulary_size: int = 30000,
        min_count: int = 2,
        max_length: int = 200,
        vocabulary: str | None = None,
        by_length: bool = False,
        class_names: list[str] | None = None,
        test_size: float | int = 0.2,
        folds: int | None = None,
        fold: int = 0,
        batch_size: int = 50,
        val_size: float | int = 0.1,
        seed: int | None = None,
        balanced: bool = False,
        texts: str | None = None,
        word_vectors: str | None = None,
    ) -> None:
        super().__init__(batch_size, val_size, seed, balanced)
        require_one_of("tokenizer", tokenizer, get_args(Tokenizer))
        least = len(SPECIAL) + 1
        require(vocabulary_size >= least, f"vocabulary_size={vocabulary_size}: expected at least {least} ids")
        require(min_count >= 1, f"min_count={min_count}: expected at least 1, how often a word must occur")
        require(max_length >= 1, f"max_length={max_length}: expected at least 1 id of a text")
        require(texts != "", "texts='': expected a file of texts, or - for standard input")
        self.tokenizer: Tokenizer = tokenizer
        self.vocabulary_size, self.min_count, self.max_length = vocabulary_size, min_count, max_length
        self.by_length, self.asked_names = by_length, class_names
        require(word_vectors != "", "word_vectors='': expected a file of vectors, or null")
        require(
            word_vectors is None or tokenizer == "words",
            f"word_vectors={word_vectors}, tokenizer={tokenizer}: they are of whole words; set --data.tokenizer words",
        )
        self.division, self.predict_path = Division(test_size, folds, fold, "text"), texts
        self.vectors_path = None if word_vectors is None else Path(os.path.expanduser(word_vectors))
        self._vocabulary = None if vocabulary is None else read_vocabulary(Path(os.path.expanduser(vocabulary)))
        self.predicted: Sequence[str] = ()
        self.odd: dict[str, tuple[int, int]] = {}  # of each split, how many texts are empty, and how many are cut

    def take_texts(self, found: Texts) -> None:
        """Take over the texts, learn their classes, and refuse what cannot be split.

        Raises:
            InputError: see the class.
        """
        train = {name for each, part in zip(found.labels, found.parts, strict=True) if part == "train" for name in each}
        self.class_names = self.asked_names or list(found.names) or in_order(train)
        names = self.class_names
        require(
            len(set(names)) == len(names) >= 2,
            f"{self.title}: the classes are {some_of(names) or 'none'}; expected two or more, all of them different",
        )
        unknown_names = sorted({name for each in found.labels for name in each} - set(names))
        lacking = "that are not among --data.class_names" if self.asked_names else "that no text to train on has"
        require(
            not unknown_names,
            f"{self.title}: labels {lacking}: {some_of(unknown_names)}; expected {some_of(names)}; add such texts to "
            "train on, or take these out",
        )
        require(
            not (found.several and self.balanced),
            "balanced=true: texts of any number of classes are not drawn by class; set it to false",
        )
        self.found, self.num_labels = found, 0 if found.several else 1
        number_of = {name: number for number, name in enumerate(names)}
        sets = [[number_of[name] for name in each] for each in found.labels]
        most = max([1, *map(len, sets)])
        labels = padded(sets, most) if found.several else torch.tensor([each[0] for each in sets])
        self.division.require_possible(found.own_parts)
        self.splits = RowSplits(
            self.title,
            labels,
            found.parts,
            found.groups,
            found.own_parts,
            names,
            self.division,
            self.val_size,
        )
        self.splits.require_enough()

    @property
    def title(self) -> str:
        """What the data are called."""
        return self.name

    @property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary, made when it is first asked for unless a file gives it."""
        if self._vocabulary is None:
            places = self.splits.places("train")
            kept, _ = self.splits.hold_out(self.seed)
            texts = (self.readable(self.found.texts[place]) for place in places[kept].tolist())
            make = WordVocabulary.trained if self.tokenizer == "words" else BytePairVocabulary.trained
            self._vocabulary = make(texts, self.vocabulary_size, self.min_count)
        return self._vocabulary

    @cached_property
    def word_vectors(self) -> Tensor | None:
        """Vectors ``(V, D)`` of the vocabulary that training begins with, NaN for words without; None for none."""
        return None if self.vectors_path is None else read_word_vectors(self.vectors_path, self.vocabulary.tokens)

    def pieces(self, text: str) -> list[str]:
        """Return what each id of a text, see `stored`, was made of, as a person reads it."""
        return self.vocabulary.pieces(text)[: self.max_length] or [""]

    def readable(self, text: str) -> str:
        """Return what of a text is for reading, of which the vocabulary is made: all of it, unless overridden."""
        return text

    @property
    @override
    def in_shape(self) -> tuple[int, int]:
        """``(V, L)``: how many different ids there are, and the most ids of a text."""
        return len(self.vocabulary), self.max_length

    @override
    def open(self, split: Split) -> TextStore:
        places = self.splits.places(split)
        return self.stored(split, self.texts_of(split), self.splits.labels[places])

    def texts_of(self, split: str) -> Sequence[str]:
        """Return the texts of a split, as they are and in the order of its store."""
        if split == "predict":
            return self.predicted
        return [self.found.texts[place] for place in self.splits.places(split).tolist()]  # type: ignore[arg-type]

    def stored(self, split: str, texts: Sequence[str], labels: Tensor) -> TextStore:
        """Return texts as ids, cut to ``max_length``, and count what is odd about them."""
        ids = [self.vocabulary.encode(text) for text in texts]
        self.odd[split] = sum(not each for each in ids), sum(len(each) > self.max_length for each in ids)
        return TextStore.of([each[: self.max_length] or [UNKNOWN] for each in ids], labels)

    @override
    def setup(self, stage: str | None = None) -> None:
        if stage == "predict" and self.predict_path is not None:
            self.predicted = read_texts_to_predict(self.predict_path, self.text_column)
            self.stores["predict"] = self.stored("predict", self.predicted, unknown(len(self.predicted)))
        else:
            super().setup(stage)

    @override
    def hold_out(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        return self.splits.hold_out(self.seed)

    @override
    def example_weights(self) -> Tensor | None:
        if not self.found.weights:
            return None
        return torch.tensor(self.found.weights, dtype=torch.float64)[self.splits.places("train")]

    @override
    def kind_of_loader(self, training: bool) -> type[ExactLoader]:
        return LengthLoader if training and self.by_length else super().kind_of_loader(training)

    @override
    def on_after_batch_transfer(self, batch: StoredBatch | TextBatch, dataloader_idx: int) -> TextBatch:
        if isinstance(batch, TextBatch):
            return batch
        weights = self.weights_of(batch.indices) if batch.draws is not None else None
        shares = () if weights is None else (Share(batch.labels, weights),)
        return TextBatch(batch.inputs, batch.labels, batch.indices, shares)

    @override
    def name_of(self, index: int) -> str:
        """Return the text of a test or a prediction."""
        if self.predicted:
            return printable(self.predicted[index])
        return printable(self.found.texts[int(self._test_places[index])])

    @property
    def _test_places(self) -> Tensor:
        if not hasattr(self, "_tested"):
            self._tested = self.splits.places("test")
        return self._tested

    @override
    def origin_of(self, part: str) -> str:
        origin = self.splits.origin_of(part)
        return super().origin_of(part) if origin is None else origin

    @override
    def describe(self) -> str:
        """Return what has been read so far: texts, classes, vocabulary, splits, and what is odd about the texts."""
        if len(self._train):
            self.store("test")
        found, size = self.found, len(self.vocabulary) - len(SPECIAL)
        what = "words and marks" if self.vocabulary.kind == WordVocabulary.kind else "byte pairs"
        lines = [f"{self.title}: {len(found.texts):,} texts of {self.num_classes} classes, {size:,} {what}"]
        lines += [self.describe_splits()] + ([found.note] if found.note else [])
        if "train" in self.stores and isinstance(self.stores["train"], TextStore):
            lengths = self.stores["train"].lengths
            share = (self.stores["train"].ids == UNKNOWN).float().mean().item()
            lines.append(
                f"{int(lengths.median())} ids in a text to train on, {int(lengths.max())} in the longest; {share:.1%} "
                "are unknown"
            )
        if "word_vectors" in self.__dict__ and self.word_vectors is not None:
            known = int((~self.word_vectors[:, 0].isnan()).sum())
            lines.append(f"{known:,} of the {size:,} have vectors in {self.vectors_path}")
        empty, cut = (sum(each[place] for each in self.odd.values()) for place in (0, 1))
        lines += [f"{empty:,} texts are empty, and are one unknown word"] if empty else []
        lines += [f"{cut:,} texts are longer, and end after --data.max_length {self.max_length} ids"] if cut else []
        return "\n  ".join(map(printable, lines))

    @override
    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        return {**state, VOCABULARY: self.vocabulary.plain()} if state else state

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the split of a run.

        Raises:
            InputError: the run has another vocabulary, or the state is not one of a data module.
        """
        if isinstance(state_dict, dict) and VOCABULARY in state_dict:
            require_same_vocabulary(vocabulary_of(state_dict[VOCABULARY], "the checkpoint"), self.vocabulary)
        super().load_state_dict(state_dict)
