"""The 3,000 sentences of film, shop and restaurant reviews that come with the package: texts that need no download.

Kotzias, Denil, De Freitas & Smyth, From Group to Individual Labels Using Deep Features, KDD 2015; UCI Machine Learning
Repository, Sentiment Labelled Sentences, CC BY 4.0, https://doi.org/10.24432/C57604.
"""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

from capsule_lightning.data.text import TextDataModule, Tokenizer
from capsule_lightning.data.texts import Texts
from capsule_lightning.errors import require_one_of

FOLDER = Path(__file__).with_name("shipped_texts")
SOURCES = ("amazon", "imdb", "yelp")
NAMES = ("negative", "positive")


class ReviewSentencesDataModule(TextDataModule):
    """Sentences of reviews of products (Amazon), films (IMDb) and restaurants (Yelp), negative or positive.

    There are 1,000 of each source, half of them positive; a sentence that repeats one of the same source is left out.
    The collection has no test set of its own: the same fifth is the test set whatever the seed, see ``test_size``.
    `TextDataModule` describes the arguments that are not listed.

    Args:
        sources: which of ``amazon``, ``imdb`` and ``yelp`` to take.

    Raises:
        InputError: there is no such source; or what `TextDataModule` refuses.
    """

    name = "review_sentences"

    def __init__(
        self,
        sources: list[str] | None = None,
        tokenizer: Tokenizer = "words",
        vocabulary_size: int = 30000,
        min_count: int = 2,
        max_length: int = 60,
        vocabulary: str | None = None,
        by_length: bool = False,
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
            None,
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
        chosen = list(SOURCES) if sources is None else sources
        for source in chosen:
            require_one_of("sources", source, SOURCES)
        rows = [row for source in dict.fromkeys(chosen) for row in read_sentences(source)]
        self.take_texts(
            Texts(
                [sentence for _, sentence in rows],
                [(NAMES[label],) for label, _ in rows],
                ["train"] * len(rows),
                note=f"sentences of {', '.join(dict.fromkeys(chosen))} (Kotzias et al. 2015, CC BY 4.0)",
                names=NAMES,
            )
        )


def read_sentences(source: str) -> list[tuple[int, str]]:
    """Return label, 0 or 1, and text of the different sentences of a source."""
    with gzip.open(FOLDER / f"sentences_{source}.tsv.gz", "rt", encoding="utf-8", newline="") as file:
        rows = {text: int(label) for label, text in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)}
    return [(label, text) for text, label in rows.items()]
