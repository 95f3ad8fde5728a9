"""The command ``report``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial

from capsule_lightning.cli.arguments import LightParser, add_network, network_chosen
from capsule_lightning.runs.results import from_here


def run(words: Sequence[str]) -> None:
    """``report [NETWORK] [--output FILE.html] [--data.root PATH] [--images FOLDER] [--overwrite]``."""
    parser = LightParser("report")
    add_network(parser)
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="ends in .html (default: report.html in the run's folder, or NAME.html here for a shared network); the "
        "numbers of the probe, or of classes, joints or lengths, lie beside it as CSV",
    )
    parser.add_argument(
        "--data.root",
        "--data.path",
        dest="root",
        metavar="PATH",
        help="folder or file of the data, if they have moved since training",
    )
    parser.add_argument(
        "--data.images",
        "--images",
        dest="images",
        metavar="FOLDER",
        help="test images FOLDER/<class>/* in place of the data set's; of a network for masks, boxes or joints "
        "a folder of pictures; none of a network that reads",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a report that is there")
    options = parser.options(words[1:])

    from capsule_lightning.report import report as write

    done = write(
        network_chosen(options),
        options.output,
        root=options.root,
        images=options.images,
        overwrite=options.overwrite,
        say=partial(print, file=sys.stderr, flush=True),
    )
    print(f"wrote {from_here(done.path)}, {done.size / 1e6:.1f} MB, to open in a browser")
    print(f"numbers: {from_here(done.table)}")
