"""The two exceptions whose message is all that the command line prints, and what such messages are made of."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


def printable(text: str) -> str:
    r"""Return a text in one line that a terminal shows as it is: what cannot be printed becomes an escape.

    Example:
        >>> printable("a" + chr(10) + "b" + chr(27) + "[2J"), printable("caf" + chr(0xDCE9))
        ('a\\nb\\x1b[2J', 'caf\\udce9')
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class InputError(ValueError):
    """A value given by the user cannot be used; the message names it, what was expected and what to do. Status 2."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class StoppedError(RuntimeError):
    """Training cannot go on; the message says at which step, why and what to do. Status 1."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


def require(condition: object, message: str) -> None:
    """Raise unless a condition holds.

    Args:
        condition: anything that is true or false.
        message: what the user gave, what was expected and what to do.

    Raises:
        InputError: the condition is false.
    """
    if not condition:
        raise InputError(message)


def require_one_of(name: str, word: object, known: Sequence[str]) -> None:
    """Raise unless a word is one of those that an option knows.

    Args:
        name: the option, as the message should call it.
        word: what the user gave.
        known: what the option knows.

    Raises:
        InputError: ``word`` is not one of them.

    Example:
        >>> require_one_of("mode", "papr", ["paper", "official"])
        Traceback (most recent call last):
        capsule_lightning.errors.InputError: mode='papr': expected one of paper, official
    """
    require(word in known, f"{name}={word!r}: expected one of {', '.join(known)}")


def nearest(word: str, words: Sequence[str], least: float = 0.5) -> str:
    """Ask whether the most similar of some words was meant; empty if none is similar.

    Args:
        word: what the user gave.
        words: what there is.
        least: how similar a word must be to be named, in [0, 1].

    Example:
        >>> nearest("routng", ["routing", "decoder"]), nearest("mnist", ["SVHNDataModule", "MNISTDataModule"])
        ("; did you mean 'routing'?", "; did you mean 'MNISTDataModule'?")
    """
    known = {each.lower(): each for each in reversed(words)}
    found = difflib.get_close_matches(word.lower(), known, n=1, cutoff=least)
    return f"; did you mean {known[found[0]]!r}?" if found else ""


def some_of(names: Sequence[str], most: int = 10, room: int = 500) -> str:
    """Return the first names of a list in few characters, and how many more there are.

    Example:
        >>> some_of(["a.png", "b.png", "c.png"], most=2)
        'a.png, b.png and 1 more'
    """
    shown = [name if len(name) <= room else f"...{name[-room:]}" for name in map(printable, names[:most])]
    while len(shown) > 1 and len(", ".join(shown)) > room:
        shown.pop()
    return ", ".join(shown) + (f" and {len(names) - len(shown):,} more" if len(shown) < len(names) else "")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the error's type if it has none.

    Example:
        >>> first_line(ValueError("it is wrong" + chr(10) + "details")), first_line(KeyError())
        ('it is wrong', 'KeyError')
    """
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
