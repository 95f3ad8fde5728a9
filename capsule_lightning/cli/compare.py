"""The command ``compare``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from capsule_lightning.cli.arguments import LightParser
from capsule_lightning.comparison.groups import compare
from capsule_lightning.comparison.runs import METRIC, find_runs, read_run, read_wandb
from capsule_lightning.comparison.tables import new_console, show
from capsule_lightning.errors import InputError
from capsule_lightning.runs.folders import expanded
from capsule_lightning.runs.results import require_free, require_name_of_no_run
from capsule_lightning.shipped import PROGRAM


def run(words: Sequence[str]) -> None:
    """Compare finished runs in folders or in W&B, or those of a study, which are made first: ``compare``.

    Raises:
        InputError: wrong input.
        SystemExit: with status 1 if a run of a study failed; with 128 + the signal that ended the study.
    """
    options = options_parser().options(words[1:])
    if options.wandb is not None and (options.config is not None or options.folders):
        raise InputError("compare: --wandb takes runs from W&B alone; leave out --config and folders")
    if options.config is not None and len(options.folders) > 1:
        raise InputError("compare: --config takes one folder, of all experiments; leave the others out")
    if options.fit and options.config is None:
        raise InputError("compare: --fit adds words to the runs of a study; say which by --config STUDY")
    if options.publish and options.wandb is None:
        raise InputError("compare: --publish makes a report of runs in W&B; say which by --wandb ENTITY/PROJECT")
    output, csv_file = (None if path is None else Path(path) for path in (options.output, options.csv))
    for option, path in (("--csv", csv_file), ("--output", output and output / "comparison.csv")):
        if path is not None:
            require_name_of_no_run(path, option)
            require_free(path, options.overwrite, option)
    by, metric, also = options.by or [], options.metric, options.also or []
    console, status = new_console(), 0
    if options.config is not None:
        from capsule_lightning.cli import main
        from capsule_lightning.cli.check import check
        from capsule_lightning.comparison.study import read_study
        from capsule_lightning.comparison.study_processes import run_study

        study = read_study(options.config, options.fit or "")
        folders, status = run_study(study, expanded((options.folders or ["runs"])[0], "folder"), console, main, check)
        runs = [read_run(folder) for folder in folders]
        by, metric, also = by or study.keys, metric or study.metric, also or study.also
        output = output or folders[0].parent / "comparison"
    elif options.wandb is not None:
        runs = read_wandb(options.wandb)
    else:
        runs = [read_run(folder) for folder in find_runs(options.folders or ["runs"])]
    found = compare(runs, metric or METRIC, by, also)
    show(found, console, output, csv_file)
    if options.publish:
        from capsule_lightning.comparison.wandb_report import publish

        report, workspace = publish(found, options.wandb)
        console.print(f"report:    {report}\nworkspace: {workspace}", markup=False, soft_wrap=True)
    if status:
        raise SystemExit(status)


def options_parser() -> LightParser:
    """The options of the command."""
    parser = LightParser(
        "compare",
        f"""examples:
  python -m {PROGRAM} compare runs/digits --by model.net.routing --output comparison
  python -m {PROGRAM} compare --config studies/digits_routings.yaml
  python -m {PROGRAM} compare --config studies/audit.yaml --fit "--data.table photos/labels.csv"
  python -m {PROGRAM} compare --wandb me/capsule_lightning --by routing""",
    )
    parser.add_argument(
        "folders",
        nargs="*",
        metavar="FOLDER",
        help="folders of runs, of experiments or of all (default: runs); with --config, the folder of the study's runs",
    )
    parser.add_argument(
        "--config", metavar="STUDY", help="a study, run first: what is done is kept, what was cut goes on"
    )
    parser.add_argument("--wandb", metavar="ENTITY/PROJECT", help="finished runs in W&B instead of folders")
    parser.add_argument(
        "--publish", action="store_true", help="of --wandb: make the comparison a report and a saved workspace in W&B"
    )
    parser.add_argument(
        "--by",
        action="append",
        metavar="KEY",
        help="what tells the groups apart, may be repeated (default: all that differs, seeds aside)",
    )
    parser.add_argument("--metric", help=f"last value of each run (default: that of the study, or {METRIC})")
    parser.add_argument(
        "--also",
        action="append",
        metavar="METRIC",
        help="show another metric with its interval, or several, such as 'test/coverage/*'; may be repeated",
    )
    parser.add_argument("--fit", metavar="WORDS", help="of --config: more words of fit for all runs of the study")
    parser.add_argument(
        "--output", metavar="FOLDER", help="gets comparison.csv, scores.png, learning_curves.png and more tables"
    )
    parser.add_argument("--csv", metavar="FILE", help="gets the table")
    parser.add_argument("--overwrite", action="store_true", help="replace what --output and --csv wrote before")
    return parser
