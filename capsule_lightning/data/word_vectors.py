"""Vectors of words that were trained elsewhere: word2vec, as text or in its binary form, and GloVe.

Mikolov et al., Distributed Representations of Words and Phrases, NIPS 2013; Pennington, Socher & Manning, GloVe, EMNLP
2014.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from capsule_lightning.data.regular_files import open_regular
from capsule_lightning.errors import InputError, first_line, require

MOST_DIMS = 4096
"""Most numbers of a vector."""
MOST_VALUES = 2**28
"""Most numbers of all vectors of a vocabulary."""
LONGEST_LINE = 2**17
"""Most bytes of a line, and of a word in a binary file."""


def read_word_vectors(path: Path, words: Sequence[str]) -> Tensor:
    """Read the vectors of some words; the rest of the file is passed over, so that memory is that of the words.

    Args:
        path: ``.bin`` is word2vec's binary form: a line with the number of words and of dimensions, and then each word,
            a blank and its float32 numbers. Any other file is text: a word and its numbers in each line, with or
            without word2vec's first line.
        words: of the vocabulary, in the order of their ids.

    Returns:
        ``(V, D)`` float32; NaN for words that the file does not have.

    Raises:
        InputError: there is no such file, it has another form, or none of the words is in it.
    """
    places = {word: number for number, word in enumerate(words)}
    found: Tensor | None = None
    try:
        with open_regular(path) as file:
            for word, values in (_of_binary if path.suffix == ".bin" else _of_text)(file, path):
                if found is None:
                    size = len(words) * len(values)
                    require(size <= MOST_VALUES, f"{path}: {size:,} numbers for these words, at most {MOST_VALUES:,}")
                    found = torch.full((len(words), len(values)), torch.nan)
                place = places.pop(word, None)
                if place is not None:
                    found[place] = torch.from_numpy(values.astype(np.float32))
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise InputError(f"{path}: cannot be read ({reason.lower()}); expected vectors of words") from error
    if found is None or len(places) == len(words):
        raise InputError(
            f"{path}: has none of the {len(words):,} words of the vocabulary; give vectors of its language"
        )
    return found


def _of_text(file: IO[bytes], path: Path) -> Iterator[tuple[str, np.ndarray]]:
    dims, number = 0, 0
    while line := file.readline(LONGEST_LINE):
        number += 1
        cells = line.rstrip().split(b" ")
        if number == 1 and len(cells) == 2 and all(cell.isdigit() for cell in cells):
            continue  # word2vec states how many there are
        dims = dims or len(cells) - 1
        wrong = f"{path}, line {number}: expected a word and {dims or 'some'} numbers"
        require(1 <= dims <= MOST_DIMS and len(cells) > dims, wrong)
        try:
            values = np.array(cells[-dims:], dtype=np.float64)
        except ValueError as error:
            raise InputError(f"{wrong} ({first_line(error)[:80]})") from error
        require(bool((np.abs(values) < 1e30).all()), f"{wrong}, all of them finite")
        yield b" ".join(cells[:-dims]).decode("utf-8", "replace"), values


def _of_binary(file: IO[bytes], path: Path) -> Iterator[tuple[str, np.ndarray]]:
    head = file.readline(64).split()
    good = len(head) == 2 and all(cell.isdigit() and len(cell) < 12 for cell in head)
    require(good and 1 <= int(head[1]) <= MOST_DIMS, f"{path}: expected word2vec's first line, words and dimensions")
    count, dims = map(int, head)
    for number in range(1, count + 1):
        word = bytearray()
        while (byte := file.read(1)) not in (b" ", b""):
            word += byte
            require(len(word) <= LONGEST_LINE, f"{path}: word {number:,} does not end; fetch the file again")
        content = file.read(4 * dims)
        require(len(content) == 4 * dims, f"{path}: ends within word {number:,} of {count:,}; fetch the file again")
        values = np.frombuffer(content, dtype="<f4")
        require(bool(np.isfinite(values).all()), f"{path}: word {number:,} has numbers that are not finite")
        yield word.lstrip(b"\n").decode("utf-8", "replace"), values
