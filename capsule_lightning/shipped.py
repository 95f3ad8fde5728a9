"""Configs and networks that come with the package, found by name."""

from __future__ import annotations

import difflib
from pathlib import Path

from capsule_lightning.errors import InputError, first_line

PROGRAM = "capsule_lightning"
PACKAGE = Path(__file__).parent
CONFIG_DIR = next((f for f in (PACKAGE / "configs", PACKAGE.parent / "configs") if f.is_dir()), PACKAGE)
"""The shipped configs: inside the package once it is installed, beside it in a checkout."""
PRETRAINED = PACKAGE / "sharing" / "pretrained"
"""The shipped networks; a README beside them says what they are."""


def config_names() -> list[str]:
    """The shipped configs, as ``--config`` takes them; sweeps are W&B's."""
    names = (path.relative_to(CONFIG_DIR) for path in CONFIG_DIR.rglob("*.yaml"))
    return sorted(name.as_posix() for name in names if name.parts[0] != "sweeps")


def shipped_files() -> list[str]:
    """Every shipped file, sweeps and the script for SLURM too; those of no folder first."""
    names = (
        path.relative_to(CONFIG_DIR).as_posix() for path in CONFIG_DIR.rglob("*") if path.suffix in (".yaml", ".sh")
    )
    return sorted(names, key=lambda name: (name.rpartition("/")[0], name))


def config_summary(name: str) -> str:
    """Return the comment at the top of a shipped file, its first paragraph; empty without one."""
    comment: list[str] = []
    for line in (CONFIG_DIR / name).read_text(encoding="utf-8").splitlines():
        if line.startswith("#!"):
            continue
        if not line.startswith("#") or (comment and line == "#"):
            break
        comment.append(line.removeprefix("#").strip())
    return " ".join(comment)


def nearest_config(name: str) -> str:
    """Ask whether the shipped file of the most similar name was meant, with or without its suffix."""
    files = shipped_files()
    stems = {file.rpartition(".")[0]: file for file in reversed(files)}
    found = difflib.get_close_matches(name, [*files, *stems], n=1, cutoff=0.7)
    return f"; did you mean {stems.get(found[0], found[0])!r}?" if found else ""


def find_config(name: str) -> str:
    """Find the user's file of that name, or else the shipped one.

    Args:
        name: a path, or the name of a shipped config with or without ``.yaml``.

    Raises:
        InputError: neither exists; the nearest names are given.

    Example:
        >>> Path(find_config("mnist")).name
        'mnist.yaml'
    """
    try:
        if Path(name).expanduser().is_file():
            return str(Path(name).expanduser())
        for shipped in (CONFIG_DIR / name, CONFIG_DIR / f"{name}.yaml"):
            if shipped.is_file():
                return str(shipped)
        here = ", which is a folder," if Path(name).expanduser().is_dir() else " here"
    except (OSError, RuntimeError, ValueError) as error:  # too long, of a user that does not exist, with a null byte
        raise InputError(f"no config {name[:100]!r}: {first_line(error)[:100]}; expected a YAML file") from error
    raise InputError(
        f"no config {name!r}{here} or among the shipped ones{nearest_config(name)}; expected a YAML "
        f"file, or a name that `{PROGRAM} configs` lists"
    )
