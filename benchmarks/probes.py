"""Probe trained networks side by side: their class capsules, or the features of a control.

Each parameter is predicted from all numbers together (``whole``) and from the best single one, measured as R2 on images
that the probe was not fitted to; see `capsule_lightning.analysis.probe`. A network with many features needs more images
than the page of ``report`` uses, or the regression overfits.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from measure import PRECISIONS, autocast, parser, positive, write

from capsule_lightning.analysis.probe import probe_network
from capsule_lightning.report import TrainedNetwork, load_from_file, load_from_run
from capsule_lightning.report.measured import measure, spread_over_classes
from capsule_lightning.sharing.network_file import is_shared


def probed(trained: TrainedNetwork, count: int, precision: str) -> dict[str, Any]:
    """Probe one network, and measure its accuracy on all test images.

    Args:
        trained: the network and its test images.
        count: number of images that are probed, of all classes together.
        precision: precision of the network, as for the trainer.
    """
    some = spread_over_classes(trained.labels, count)
    with autocast(torch.device("cpu"), precision):
        found = probe_network(trained.net, trained.normalize, trained.pictures[some], trained.labels[some])
        classes = measure(trained.net, trained.normalize, trained.pictures).activations.argmax(dim=-1)
    return {
        "title": trained.title,
        "probed": found.what,
        "numbers": len(found.single),
        "steps": trained.facts.get("training steps"),
        "test_accuracy": float((classes == trained.labels).float().mean()),
        "whole": dict(zip(found.parameters, found.whole.tolist(), strict=True)),
        "best_single": dict(zip(found.parameters, found.single.amax(dim=0).tolist(), strict=True)),
    }


def main(words: Sequence[str] | None = None) -> None:
    """Probe the networks, print a table, write the JSON."""
    options = parser("probes", __doc__ or "")
    options.add_argument("networks", nargs="+", metavar="FILE", help="checkpoints of runs, or shared networks")
    options.add_argument("--root", help="folder of the data, where it has moved")
    options.add_argument("--images", type=positive, default=1000, help="to probe (default: %(default)s)")
    options.add_argument("--precision", choices=PRECISIONS, default="32-true", help="default: %(default)s")
    arguments = options.parse_args(words)
    torch.set_num_threads(arguments.threads)
    results = []
    for network in arguments.networks:
        take = load_from_file if is_shared(network) else load_from_run
        results.append(probed(take(Path(network), arguments.root), arguments.images, arguments.precision))
        title, whole, single = (results[-1][key] for key in ("title", "whole", "best_single"))
        print(f"{title}: {results[-1]['probed']}, test accuracy {100 * results[-1]['test_accuracy']:.2f} %")
        for name, value in whole.items():
            print(f"  {name:<10} all {value:6.3f}   best single {single[name]:6.3f}")
    arguments.networks, arguments.root = (
        [Path(network).name for network in arguments.networks],
        None,
    )  # without folders of this machine
    write(arguments, results)


if __name__ == "__main__":
    main()
