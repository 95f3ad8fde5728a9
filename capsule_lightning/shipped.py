"""Configs and networks that come with the package, found by name."""

from __future__ import annotations

from pathlib import Path

from capsule_lightning.errors import InputError, nearest

PROGRAM = "capsule_lightning"
PACKAGE = Path(__file__).parent
CONFIG_DIR = next((f for f in (PACKAGE / "configs", PACKAGE.parent / "configs") if f.is_dir()), PACKAGE)
"""The shipped configs: inside the package once it is installed, beside it in a checkout."""
PRETRAINED = PACKAGE / "sharing" / "pretrained"
"""The shipped networks; a README beside them says what they are."""
TEST_DIGITS = PRETRAINED / "mnist_test_200.npz"
"""The first 20 test images of each class of MNIST, to show a network with where MNIST is not."""


def config_names() -> list[str]:
    """The shipped configs, as ``--config`` takes them; sweeps are W&B's."""
    names = (path.relative_to(CONFIG_DIR) for path in CONFIG_DIR.rglob("*.yaml"))
    return sorted(name.as_posix() for name in names if name.parts[0] != "sweeps")


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
    if Path(name).expanduser().is_file():
        return str(Path(name).expanduser())
    for shipped in (CONFIG_DIR / name, CONFIG_DIR / f"{name}.yaml"):
        if shipped.is_file():
            return str(shipped)
    here = ", which is a folder," if Path(name).expanduser().is_dir() else " here"
    raise InputError(
        f"no config {name!r}{here} or among the shipped ones{nearest(name, config_names())}; expected a YAML file, or "
        f"a name that `{PROGRAM} configs` lists"
    )
