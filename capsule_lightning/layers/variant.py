"""The two forms of an algorithm whose paper and released code differ."""

from __future__ import annotations

from typing import Literal, get_args

from capsule_lightning.errors import require_one_of

Variant = Literal["paper", "official"]
"""``paper``: as the paper states the algorithm; ``official``: as the authors' released code computes it."""


def require_variant(mode: str, owner: str = "") -> None:
    """Raise unless ``mode`` is a `Variant`.

    Args:
        mode: what the user gave.
        owner: class whose argument it is, for the message; empty for a function's.

    Raises:
        InputError: ``mode`` is not a `Variant`.
    """
    require_one_of(f"{owner}: mode" if owner else "mode", mode, get_args(Variant))
