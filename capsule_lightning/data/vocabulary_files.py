"""Vocabularies in files: a run's ``vocabulary.json``, a checkpoint, or a shared network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors

from capsule_lightning.data.regular_files import open_regular
from capsule_lightning.data.subwords import BytePairVocabulary
from capsule_lightning.data.vocabulary import Vocabulary, WordVocabulary
from capsule_lightning.errors import InputError, first_line, require
from capsule_lightning.runs.checkpoint_files import TRAINED_ON, require_checkpoint
from capsule_lightning.runs.plain_json import parse_json

VOCABULARY = "vocabulary"
"""Under which a checkpoint's description of the training data, and a shared network's metadata, have the vocabulary."""
FILE = "vocabulary.json"
"""Name of the file in the folder of a run."""
MOST_BYTES = 2**26
"""Size of the largest vocabulary that is read."""


def vocabulary_of(said: Any, source: str | Path) -> Vocabulary:
    """Return a vocabulary from what `Vocabulary.plain` has made of it, checked.

    Args:
        said: plain values, which may be from elsewhere.
        source: the file that they are from, for messages.

    Raises:
        InputError: they are something else, or ``tokenizers`` is needed and not installed.
    """
    kinds: dict[str, Any] = {each.kind: each for each in (WordVocabulary, BytePairVocabulary)}
    wanted = {"tokens"} | ({"merges"} if isinstance(said, dict) and said.get("kind") == "byte_pairs" else set())
    good = isinstance(said, dict) and said.get("kind") in kinds and said.keys() == {"kind", *wanted}
    good = good and all(isinstance(said[name], list) for name in wanted)
    good = good and all(isinstance(token, str) for token in said["tokens"])
    require(
        good, f"{source}: holds no vocabulary; expected a run's {FILE}, its checkpoint, or a shared network of text"
    )
    try:
        found: Vocabulary = kinds[said["kind"]](**{name: said[name] for name in wanted})
    except (InputError, TypeError) as error:
        raise InputError(f"{source}: {first_line(error)}") from error
    return found


def vocabulary_text(vocabulary: Vocabulary) -> str:
    """Return a vocabulary as the text of a JSON file."""
    return json.dumps(vocabulary.plain(), ensure_ascii=False)


def read_vocabulary(path: Path) -> Vocabulary:
    """Read a vocabulary.

    Args:
        path: a run's ``vocabulary.json``, a checkpoint, or a ``.safetensors`` file of ``export``.

    Raises:
        InputError: there is no such file, or it holds no vocabulary.
    """
    if path.suffix == ".ckpt":
        return vocabulary_of((require_checkpoint(path).get(TRAINED_ON) or {}).get(VOCABULARY), path)
    expected = f"expected a run's {FILE}, a checkpoint or a .safetensors file"
    try:
        if path.suffix == ".safetensors":
            with safetensors.safe_open(path, framework="pt") as shared:
                text = (shared.metadata() or {}).get(VOCABULARY, "null")
        else:
            with open_regular(path) as file:
                text = file.read(MOST_BYTES + 1).decode("utf-8")
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise InputError(f"{path}: cannot be read as a vocabulary ({reason}); {expected}") from error
    return vocabulary_of(parse_json(text, path, expected, MOST_BYTES), path)


def require_same_vocabulary(wanted: Vocabulary, given: Vocabulary, source: str = "the checkpoint") -> None:
    """Refuse another vocabulary than that of a trained network, whose embedding would mean other words.

    Args:
        wanted: of the network.
        given: of the data.
        source: of the network, for the message.

    Raises:
        InputError: they differ; the first difference is named.
    """
    if wanted == given:
        return
    pairs = zip(wanted.tokens, given.tokens, strict=False)
    shown = next(
        (f"{a!r} and not {b!r} is number {n}" for n, (a, b) in enumerate(pairs) if a != b), "the rest is alike"
    )
    require(
        False,
        f"{source}: its vocabulary has {len(wanted):,} ids of {wanted.kind}, and that of these data {len(given):,} of "
        f"{given.kind} ({shown}); take the data that it was trained on, or its vocabulary: --data.vocabulary {source}",
    )
