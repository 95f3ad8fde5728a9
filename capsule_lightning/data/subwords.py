"""A vocabulary of byte pairs, trained and applied by the library ``tokenizers``.

Sennrich, Haddow & Birch, Neural Machine Translation of Rare Words with Subword Units, ACL 2016 (arXiv 1508.07909),
Algorithm 1; over bytes, as in Radford et al., Language Models are Unsupervised Multitask Learners, 2019, section 2.2.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from typing_extensions import override

from capsule_lightning.data.tokens import SPECIAL
from capsule_lightning.data.vocabulary import MOST_TOKENS, Vocabulary
from capsule_lightning.errors import InputError, first_line, require

LEAST = 256 + len(SPECIAL)
"""Fewest ids: one for each byte, of which every text is made, and those that are no part of a text."""


class BytePairVocabulary(Vocabulary):
    """Pieces of words, joined from bytes pair by pair; every text can be said in them, letter case included.

    Args:
        tokens: the pieces, as the library writes bytes, after those of `SPECIAL`.
        merges: pairs of pieces that are joined, the most frequent first.

    Raises:
        InputError: ``tokenizers`` is not installed, or these are no such pieces.
    """

    kind = "byte_pairs"

    def __init__(self, tokens: Sequence[str], merges: Sequence[Sequence[str]]) -> None:
        super().__init__(tokens)
        require(
            len(merges) <= MOST_TOKENS
            and all(
                isinstance(pair, list | tuple) and len(pair) == 2 and all(isinstance(half, str) for half in pair)
                for pair in merges
            ),
            "merges of the vocabulary: expected a list of pairs of pieces; take a vocabulary that a run has written",
        )
        self.merges = [list(pair) for pair in merges]
        library = tokenizers_library()
        try:
            model = library.models.BPE(self.ids, [(left, right) for left, right in self.merges])
        except Exception as error:  # the library raises the bare class
            raise InputError(
                f"the vocabulary's pieces cannot be joined ({first_line(error)}); take one that a run has written"
            ) from error
        self._tokenizer = prepared(library, model)

    @classmethod
    def trained(cls, texts: Iterable[str], size: int, min_count: int = 2) -> BytePairVocabulary:
        """Return the pieces that most frequent pairs are joined to.

        Args:
            texts: to train on.
            size: ids, `LEAST` or more; fewer come out if texts have no more pairs.
            min_count: how often a pair must occur to be joined.

        Raises:
            InputError: ``tokenizers`` is not installed, or the size is too small.
        """
        require(size >= LEAST, f"vocabulary_size={size}: expected at least {LEAST} for byte pairs, one for each byte")
        library = tokenizers_library()
        tokenizer = prepared(library, library.models.BPE())
        trainer = library.trainers.BpeTrainer(
            vocab_size=size,
            min_frequency=min_count,
            special_tokens=list(SPECIAL),
            initial_alphabet=sorted(library.pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        model = json.loads(tokenizer.to_str())["model"]
        return cls(sorted(model["vocab"], key=model["vocab"].get), model["merges"])

    @override
    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    @override
    def decode(self, ids: Iterable[int]) -> str:
        known = range(len(SPECIAL), len(self.tokens))  # a network may have more ids than texts gave
        pieces = [self.tokens[number] for number in ids if number in known]
        text: str = self._tokenizer.decoder.decode(pieces)
        return text.removeprefix(" ")

    @override
    def pieces(self, text: str) -> list[str]:
        found = self._tokenizer.encode(text, add_special_tokens=False).tokens
        return [self._tokenizer.decoder.decode([piece]).strip() for piece in found]

    @override
    def plain(self) -> dict[str, Any]:
        return {**super().plain(), "merges": self.merges}


def prepared(library: Any, model: Any) -> Any:
    """Return a tokenizer of a model; what it does to texts before and after is ours, whatever a file says."""
    tokenizer = library.Tokenizer(model)
    tokenizer.normalizer = library.normalizers.NFC()
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = library.decoders.ByteLevel()
    return tokenizer


def tokenizers_library() -> Any:
    """Return the library.

    Raises:
        InputError: it is not installed.
    """
    try:
        import tokenizers
    except ImportError as error:
        raise InputError(
            'byte pairs need the library tokenizers: pip install "capsule_lightning[text]", or set --data.tokenizer '
            "words"
        ) from error
    return tokenizers
