"""What the ids of a text stand for: a vocabulary of words, and what every vocabulary has."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from typing_extensions import override

from capsule_lightning.data.tokens import SPECIAL, UNKNOWN
from capsule_lightning.errors import require

WORD = re.compile(r"\w+(?:['\u2019]\w+)*|[^\w\s]")
MOST_TOKENS = 2**20
"""Most tokens of a vocabulary that is read from a file."""
LONGEST = 2**10
"""Most characters of one of them."""


def words_of(text: str) -> list[str]:
    """Return the words and marks of a text, in lower case.

    A word is a run of letters and digits, also of several that apostrophes join; every other character that is not
    blank is a mark by itself.

    Example:
        >>> words_of("It's good -- isn't it?")
        ["it's", 'good', '-', '-', "isn't", 'it', '?']
    """
    return WORD.findall(text.lower())


class Vocabulary(ABC):
    """Turns texts into ids and back.

    Args:
        tokens: what each id stands for, those of `SPECIAL` first.

    Attributes:
        tokens: the same.

    Raises:
        InputError: they are no such tokens.
    """

    kind: ClassVar[str]
    """What it is called in files."""

    def __init__(self, tokens: Sequence[str]) -> None:
        require(
            tuple(tokens[: len(SPECIAL)]) == SPECIAL and all(isinstance(token, str) for token in tokens),
            f"the vocabulary does not begin with {', '.join(SPECIAL)}: take one that a run has written",
        )
        self.tokens = list(tokens)
        self.ids = {token: number for number, token in enumerate(self.tokens)}
        require(
            len(self.ids) == len(self.tokens) <= MOST_TOKENS and max(map(len, self.tokens)) <= LONGEST,
            f"a vocabulary of {len(self.tokens):,} tokens, {len(self.ids):,} of them different: expected at most "
            f"{MOST_TOKENS:,}, each once and of at most {LONGEST:,} characters",
        )

    def __len__(self) -> int:
        """Return the number of ids, V."""
        return len(self.tokens)

    def __eq__(self, other: object) -> bool:
        """Return whether another vocabulary makes the same ids of every text."""
        return isinstance(other, Vocabulary) and self.plain() == other.plain()

    __hash__ = None  # type: ignore[assignment]

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, none of an empty one."""

    @abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids, without those that are no part of a text."""

    @abstractmethod
    def pieces(self, text: str) -> list[str]:
        """Return what each id of a text was made of, as a person reads it."""

    def plain(self) -> dict[str, Any]:
        """Return all of it as plain values, which `capsule_lightning.data.vocabulary_files` reads back."""
        return {"kind": self.kind, "tokens": self.tokens}


class WordVocabulary(Vocabulary):
    """Words and marks, see `words_of`; words that it does not have are `UNKNOWN`.

    Example:
        >>> vocabulary = WordVocabulary.trained(["a good film", "a bad film"], size=100, min_count=2)
        >>> vocabulary.encode("A film!"), vocabulary.decode([4, 5])
        ([4, 5, 1], 'a film')
    """

    kind = "words"

    @classmethod
    def trained(cls, texts: Iterable[str], size: int, min_count: int = 1) -> WordVocabulary:
        """Return the most frequent words of texts; of equally frequent ones, the first in the alphabet.

        Args:
            texts: to train on.
            size: most ids, those of `SPECIAL` included.
            min_count: how often a word must occur.
        """
        counts = Counter(word for text in texts for word in words_of(text))
        frequent = sorted(
            (word for word in counts if counts[word] >= min_count), key=lambda word: (-counts[word], word)
        )
        short = [word for word in frequent if len(word) <= LONGEST and word not in SPECIAL]
        return cls([*SPECIAL, *short[: size - len(SPECIAL)]])

    @override
    def encode(self, text: str) -> list[int]:
        return [self.ids.get(word, UNKNOWN) for word in words_of(text)]

    @override
    def decode(self, ids: Iterable[int]) -> str:
        return " ".join(self.tokens[number] for number in ids if number == UNKNOWN or number >= len(SPECIAL))

    @override
    def pieces(self, text: str) -> list[str]:
        return words_of(text)
