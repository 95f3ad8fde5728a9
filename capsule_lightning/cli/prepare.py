"""The command ``prepare``."""

from __future__ import annotations

from collections.abc import Sequence

from capsule_lightning.cli.arguments import LightParser
from capsule_lightning.errors import InputError, nearest


def run(words: Sequence[str]) -> None:
    """``prepare NAME [--root FOLDER]``: fetch and decode a data set, so that training needs no network."""
    parser = LightParser("prepare")
    parser.add_argument("name", nargs="?", help="name of the data set, such as mnist")
    parser.add_argument(
        "--data.root",
        "--root",
        dest="root",
        metavar="FOLDER",
        help="folder of the data; else $CAPSULE_LIGHTNING_DATA, else data/",
    )
    options = parser.options(words[1:])

    from capsule_lightning.components.names import import_components
    from capsule_lightning.data.named import NamedDataModule

    import_components()
    known = {c.name: c for c in NamedDataModule.__subclasses__()}
    if options.name not in known:
        names = sorted(known)
        what = "prepare needs the name of a data set" if options.name is None else f"no data set {options.name!r}"
        raise InputError(f"{what}; expected one of {', '.join(names)}{nearest(options.name or '', names)}")
    folder = known[options.name](root=options.root).write_prepared()
    print(f"{options.name} is ready: {folder}")
