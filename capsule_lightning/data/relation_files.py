"""Published sets of relations, by the files that they were given out in."""

from __future__ import annotations

import os
from pathlib import Path

from capsule_lightning.data.marked_sentences import read_nyt, read_semeval
from capsule_lightning.data.relations import RelationDataModule

OTHER = "Other"
DIRECTIONS = "(e1,e2)", "(e2,e1)"
NO_RELATION = "NA"


class SemEvalDataModule(RelationDataModule):
    """SemEval-2010 Task 8: nine relations with direction, and ``Other``, between nominals of a sentence.

    The two directions of a relation are neighbors among the classes and ``Other`` is the last, as `RelationMetrics`
    needs them. `RelationDataModule` describes the arguments that are not listed.

    Args:
        path: the file to train on, ``TRAIN_FILE.TXT``.
        test_path: ``TEST_FILE_FULL.TXT``; null to test on a part of the other.

    Raises:
        InputError: a file is missing or has another form.
    """

    name = "semeval_2010_task_8"

    def __init__(
        self,
        path: str = "TRAIN_FILE.TXT",
        test_path: str | None = None,
        reach: int = 50,
        vocabulary_size: int = 30000,
        min_count: int = 1,
        max_length: int = 100,
        vocabulary: str | None = None,
        by_length: bool = False,
        test_size: float | int = 0.2,
        batch_size: int = 50,
        val_size: float | int = 0.1,
        seed: int | None = None,
        balanced: bool = False,
        texts: str | None = None,
        word_vectors: str | None = None,
    ) -> None:
        super().__init__(
            reach,
            "words",
            vocabulary_size,
            min_count,
            max_length,
            vocabulary,
            by_length,
            None,
            test_size,
            batch_size,
            val_size,
            seed,
            balanced,
            texts,
            word_vectors,
        )
        train = read_semeval(Path(os.path.expanduser(path)))
        test = [] if test_path is None else read_semeval(Path(os.path.expanduser(test_path)))
        plain = sorted({each.relation.removesuffix(DIRECTIONS[0]).removesuffix(DIRECTIONS[1]) for each in train})
        names = [f"{name}{direction}" for name in plain if name != OTHER for direction in DIRECTIONS]
        self.take_sentences(train, test, [*names, OTHER], f"sentences of {path}")


class NYTDataModule(RelationDataModule):
    """NYT-10 of Riedel et al. 2010: sentences of a newspaper, whose relations a knowledge base suggests.

    Sentences about one pair are a bag. ``NA``, no relation, is the first class. `RelationDataModule` describes the
    arguments that are not listed.

    Args:
        path: the file to train on, in Riedel's columns or in OpenNRE's JSON lines.
        test_path: the file to test on; null to test on a part of the other.

    Raises:
        InputError: a file is missing or has another form, or pairs are in both.
    """

    name = "nyt_10"

    def __init__(
        self,
        path: str = "train.txt",
        test_path: str | None = None,
        reach: int = 50,
        vocabulary_size: int = 100000,
        min_count: int = 2,
        max_length: int = 120,
        vocabulary: str | None = None,
        by_length: bool = False,
        test_size: float | int = 0.2,
        batch_size: int = 128,
        val_size: float | int = 0.1,
        seed: int | None = None,
        balanced: bool = False,
        texts: str | None = None,
        word_vectors: str | None = None,
    ) -> None:
        super().__init__(
            reach,
            "words",
            vocabulary_size,
            min_count,
            max_length,
            vocabulary,
            by_length,
            None,
            test_size,
            batch_size,
            val_size,
            seed,
            balanced,
            texts,
            word_vectors,
        )
        train = read_nyt(Path(os.path.expanduser(path)))
        test = [] if test_path is None else read_nyt(Path(os.path.expanduser(test_path)))
        known = {each.relation for each in train}
        names = [NO_RELATION, *sorted(known - {NO_RELATION})]
        test = [each for each in test if each.relation in known]  # what training never saw is no fact to find
        self.take_sentences(train, test, names, f"sentences of {path}")
