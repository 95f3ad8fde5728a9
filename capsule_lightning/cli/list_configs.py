"""The command ``configs``."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence

from capsule_lightning.cli.arguments import LightParser
from capsule_lightning.errors import InputError
from capsule_lightning.shipped import CONFIG_DIR, PROGRAM, config_summary, nearest_config, shipped_files

WIDE = 110  # characters in a line that is written to a file


def run(words: Sequence[str]) -> None:
    """List the shipped configs, or print one of them: ``configs [NAME]``.

    Raises:
        InputError: there is no such config.
    """
    parser = LightParser(
        "configs",
        f"examples:\n  python -m {PROGRAM} configs\n  python -m {PROGRAM} configs mnist.yaml > mine.yaml\n"
        f"  python -m {PROGRAM} configs cluster/slurm.sh > slurm.sh",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="print this file, to be copied and changed")
    name = parser.options(words[1:]).name
    print(listing() if name is None else content(name), end="")


def content(name: str) -> str:
    """Return the text of a shipped file.

    Args:
        name: as `listing` has it, with or without ``.yaml``.

    Raises:
        InputError: there is no such file.
    """
    known = shipped_files()
    for each in (name, f"{name}.yaml"):
        if each in known:
            return (CONFIG_DIR / each).read_text(encoding="utf-8")
    raise InputError(f"configs: no config {name!r}{nearest_config(name)}; `{PROGRAM} configs` lists them")


def listing() -> str:
    """Return the names of the shipped files, folder after folder, each with what it is."""
    names = shipped_files()
    width = min(shutil.get_terminal_size((WIDE, 24)).columns, WIDE)
    first = max(map(len, names)) + 2
    lines: list[str] = []
    for folder in dict.fromkeys(name.rpartition("/")[0] for name in names):
        lines += ["", f"{folder}:"] if folder else ["whole experiments:"]
        for name in names:
            if name.rpartition("/")[0] == folder:
                short = textwrap.shorten(config_summary(name), max(width - first - 2, 20), placeholder=" …")
                lines.append(f"  {name:<{first}}{short}".rstrip())
    return "\n".join([*lines, "", f"copy one: python -m {PROGRAM} configs mnist.yaml > mine.yaml", ""])
