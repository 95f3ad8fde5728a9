"""Which unusual configurations the user has written or trusted, so that resuming them is asked about once.

Most runs name only what can do no harm, and are never written down here.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

STATE_VARIABLE = "XDG_STATE_HOME"


def is_trusted(config: Path) -> bool:
    """Return whether a run's configuration is, to the last byte, one that the user has written or trusted.

    Args:
        config: the file.
    """
    try:
        return _digest(config) in _list().read_text().split()
    except (OSError, RuntimeError, ValueError):
        return False


def trust(config: Path) -> None:
    """Note that the user has written or trusted a configuration; without a place for the note, nothing happens.

    Args:
        config: the file.
    """
    with suppress(OSError, RuntimeError, ValueError):
        if not is_trusted(config):
            _list().parent.mkdir(parents=True, exist_ok=True)
            with _list().open("a") as file:
                file.write(f"{_digest(config)}\n")


def _digest(config: Path) -> str:
    return hashlib.sha256(config.read_bytes()).hexdigest()


def _list() -> Path:
    """The list of digests, in the user's own folder."""
    state = os.environ.get(STATE_VARIABLE) or "~/.local/state"
    return Path(state).expanduser() / "capsule_lightning" / "trusted_runs"
