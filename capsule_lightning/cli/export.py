"""The command ``export``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from capsule_lightning.cli.arguments import LightParser, add_network, network_chosen
from capsule_lightning.runs.results import from_here
from capsule_lightning.shipped import PROGRAM


def run(words: Sequence[str]) -> None:
    """``export [NETWORK] [--output FILE] [--overwrite]``: write a trained network to a file of its own."""
    parser = LightParser(
        "export", "in Python:\n  from capsule_lightning.sharing.export import load_network\n  net = load_network(FILE)"
    )
    add_network(parser)
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="ends in .safetensors (default: beside the checkpoint), weights and what rebuilds the network here; or in "
        '.onnx, which other programs run (pip install "capsule_lightning[onnx]")',
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    parser.add_argument("--half", action="store_true", help="weights in float16, half the size; for .safetensors")
    options = parser.options(words[1:])

    from capsule_lightning.sharing.export import export as write

    done = write(network_chosen(options), options.output, options.overwrite, options.half)
    print(f"wrote {from_here(done.path)}: {done.parameters:,} parameters, {done.size / 1e6:.1f} MB")
    if done.unknown is not None:
        print(f"{PROGRAM}: the file does not state {done.unknown}", file=sys.stderr)
