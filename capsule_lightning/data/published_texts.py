"""Published sets of texts, read from the files that their authors gave out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, get_args

from typing_extensions import override

from capsule_lightning.data.published_files import READERS
from capsule_lightning.data.text import TextDataModule, Tokenizer
from capsule_lightning.data.texts import transferred
from capsule_lightning.errors import require_one_of

Published = Literal["mr", "subj", "cr", "sst2", "sst5", "trec", "ag_news", "reuters10"]


class PublishedTextDataModule(TextDataModule):
    """Sets of texts of the literature, by their usual files in a folder; nothing is downloaded.

    | set | files | split |
    | --- | --- | --- |
    | ``mr`` | ``rt-polarity.pos``, ``rt-polarity.neg`` (Pang & Lee 2005) | ``folds`` or ``test_size`` |
    | ``subj`` | ``quote.tok.gt9.5000``, ``plot.tok.gt9.5000`` (Pang & Lee 2004) | the same |
    | ``cr`` | ``custrev.pos``, ``custrev.neg`` (Hu & Liu 2004) | the same |
    | ``sst2``, ``sst5`` | ``train.txt``, ``dev.txt``, ``test.txt``: trees (Socher et al. 2013) | its own |
    | ``trec`` | ``train_5500.label``, ``TREC_10.label`` (Li & Roth 2002), the 6 coarse classes | its own |
    | ``ag_news`` | ``train.csv``, ``test.csv`` without a first line of names (Zhang et al. 2015) | its own |
    | ``reuters10`` | ``reut2-*.sgm`` of Reuters-21578, the ten largest topics, ModApte split | its own |

    Files that are not in UTF-8 are read in Latin-1, as they were given out. `TextDataModule` describes the arguments
    that are not listed.

    Args:
        set: which of them.
        root: folder of the files.
        test_on_several: train and validate on the texts of one class and test on those of several, see `transferred`;
            for Reuters.

    Raises:
        InputError: a file is missing or has another form, or what `TextDataModule` refuses.
    """

    name = "published_texts"

    def __init__(
        self,
        set: Published = "mr",
        root: str = "data",
        test_on_several: bool = False,
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
        super().__init__(
            tokenizer,
            vocabulary_size,
            min_count,
            max_length,
            vocabulary,
            by_length,
            class_names,
            test_size,
            folds,
            fold,
            batch_size,
            val_size,
            seed,
            balanced,
            texts,
            word_vectors,
        )
        require_one_of("set", set, get_args(Published))
        self.set, self.root = set, Path(os.path.expanduser(root))
        found = READERS[set](self.root)
        self.take_texts(transferred(found, self.title) if test_on_several else found)

    @property
    @override
    def title(self) -> str:
        return f"{self.set} in {self.root}"
