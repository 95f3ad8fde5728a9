"""Compare the translations of runs by sacrebleu's paired bootstrap: is the difference to the first more than chance?

Each group is a name and the folders of its runs, such as one for each seed, whose test sentences are taken one after
the other. All groups have as many runs, in the same order, of the same test set. `--copying` adds the sources as they
are, the least that a translation has to beat:

    python benchmarks/paired_translations.py none=runs/a,runs/b linear=runs/c,runs/d --copying --output layers.csv
"""

from __future__ import annotations

import argparse
import csv
import json
import shlex
from pathlib import Path
from typing import Any, NamedTuple

from measure import environment
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.significance import PairedTest

COPYING = "copying"


class Tested(NamedTuple):
    """The test of a run, one text a sentence."""

    sources: list[str]
    translations: list[str]
    references: list[str]


def read(folder: Path) -> Tested:
    """Return what the test of a run wrote; of a ``fit``, it lies in the run's folder."""
    path = folder if (folder / "test_translations.tsv").is_file() else folder / "test"
    lines = (path / "test_translations.tsv").read_text(encoding="utf-8").split("\n")[1:-1]
    rows = [line.split("\t") for line in lines]
    return Tested(*([row[place] for row in rows] for place in range(3)))


def compared(groups: dict[str, list[Tested]], samples: int) -> list[dict[str, Any]]:
    """Return for each group and metric the scores of its runs, and of all together.

    Each row has the score of all sentences, half its 95 % interval, the probability of such a difference to the first
    group by chance, and what the library calls this way of counting.

    Raises:
        SystemExit: groups have other test sentences.
    """
    wanted: list[str] = []
    for name, runs in groups.items():
        references = [text for run in runs for text in run.references]
        if wanted and wanted != references:
            raise SystemExit(f"{name}: other test sentences than those of the first group, or other numbers of runs")
        wanted = references
    systems = [(name, [text for run in runs for text in run.translations]) for name, runs in groups.items()]
    metrics = {"BLEU": BLEU(references=[wanted]), "chrF2": CHRF(references=[wanted])}
    signatures, results = PairedTest(systems, metrics, references=None, test_type="bs", n_samples=samples)()
    rows = []
    for metric, scorer in (("BLEU", BLEU()), ("chrF2", CHRF())):
        for (name, runs), found in zip(groups.items(), results[metric], strict=True):
            alone = [scorer.corpus_score(run.translations, [run.references]).score for run in runs]
            rows.append(
                {
                    "group": name,
                    "metric": metric,
                    "runs": len(runs),
                    "score": float(found.score),
                    "interval": None if found.ci is None else float(found.ci),
                    "p": None if found.p_value is None else float(found.p_value),
                    "of_each_run": " ".join(f"{score:.2f}" for score in alone),
                    "signature": str(signatures[metric]),
                }
            )
    return rows


def main() -> None:
    """Compare, print JSON, and write a table if one is asked for."""
    parsed = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parsed.add_argument("groups", nargs="+", metavar="NAME=FOLDER[,FOLDER...]", help="the first is the control")
    parsed.add_argument("--copying", action="store_true", help="compare the sources as they are, too")
    parsed.add_argument("--samples", type=int, default=1000, help="of the bootstrap (default: %(default)s)")
    parsed.add_argument("--output", type=Path, help="a CSV of the results and of what made them")
    arguments = parsed.parse_args()
    split = (group.partition("=") for group in arguments.groups)
    groups = {name: [read(Path(folder)) for folder in folders.split(",")] for name, _, folders in split}
    if arguments.copying:
        first = next(iter(groups.values()))
        groups[COPYING] = [run._replace(translations=run.sources) for run in first]
    rows = compared(groups, arguments.samples)
    print(json.dumps(rows, indent=2))
    if arguments.output is not None:
        made = environment("cpu")
        words = [*arguments.groups, *["--copying"] * arguments.copying, f"--samples={arguments.samples}"]
        command = shlex.join(["python", "benchmarks/paired_translations.py", *words])
        about = {key: made[key] for key in ("commit", "cpu", "torch", "time")} | {"command": command}
        with arguments.output.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, [*rows[0], *about])
            table.writeheader()
            table.writerows({**row, **about} for row in rows)


if __name__ == "__main__":
    main()
