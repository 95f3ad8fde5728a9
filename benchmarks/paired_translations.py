"""Compare the translations of runs by sacrebleu's paired bootstrap: is the difference to the first more than chance?

Each group is a name and the folders of its runs, such as one for each seed, whose test sentences are taken one after
the other. All groups have as many runs, in the same order, of the same test set:

    python benchmarks/paired_translations.py none=runs/a,runs/b linear=runs/c,runs/d
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.significance import PairedTest


def read(folder: Path) -> tuple[list[str], list[str]]:
    """Return translations and references of the test of a run."""
    lines = (folder / "test_translations.tsv").read_text(encoding="utf-8").split("\n")[1:-1]
    rows = [line.split("\t") for line in lines]
    return [row[1] for row in rows], [row[2] for row in rows]


def compared(groups: dict[str, list[Path]], samples: int) -> dict[str, Any]:
    """Return by group and metric the score, half its 95 % interval, and the probability of such a difference by chance.

    Raises:
        SystemExit: groups have other test sentences.
    """
    systems: list[tuple[str, list[str]]] = []
    references: list[str] = []
    for name, folders in groups.items():
        pairs = [read(folder) for folder in folders]
        wanted = [text for _, theirs in pairs for text in theirs]
        if references and wanted != references:
            raise SystemExit(f"{name}: other test sentences than those of the first group, or other numbers of runs")
        references = wanted
        systems.append((name, [text for ours, _ in pairs for text in ours]))
    metrics = {"BLEU": BLEU(references=[references]), "chrF2": CHRF(references=[references])}
    signatures, results = PairedTest(systems, metrics, references=None, test_type="bs", n_samples=samples)()
    found: dict[str, Any] = {}
    for metric in metrics:
        signature = str(signatures[metric]) if metric in signatures else ""
        values = results[metric]
        found[metric] = {
            "signature": signature,
            **{
                name: {
                    field: None if getattr(each, of) is None else float(getattr(each, of))
                    for field, of in (("score", "score"), ("mean", "mean"), ("interval", "ci"), ("p", "p_value"))
                }
                for (name, _), each in zip(systems, values, strict=True)
            },
        }
    return found


def main() -> None:
    """Compare, and print JSON."""
    parsed = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parsed.add_argument("groups", nargs="+", metavar="NAME=FOLDER[,FOLDER...]", help="the first is the control")
    parsed.add_argument("--samples", type=int, default=1000, help="of the bootstrap (default: %(default)s)")
    arguments = parsed.parse_args()
    split = (group.partition("=") for group in arguments.groups)
    groups = {name: [Path(folder) for folder in folders.split(",")] for name, _, folders in split}
    print(json.dumps(compared(groups, arguments.samples), indent=2))


if __name__ == "__main__":
    main()
