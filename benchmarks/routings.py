"""Compare all routing algorithms in the same network on the same data: test accuracy, parameters, time per step.

Each is trained by ``python -m capsule_lightning fit`` with its shipped overlay, timed from the command to the end
of the test; then its training step is timed by itself. Prints the table of `docs/routings_and_networks.md`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

from measure import Worker, add_config, config_words, parser, positive, setting, spread, start, write
from step import PackageStep
from time_to_accuracy import train

from capsule_lightning.shipped import CONFIG_DIR

OVERLAYS = sorted(path.stem for path in CONFIG_DIR.glob("routing/*.yaml"))


def cost(words: list[str], batch_size: int, repeats: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the parameters of the network without its decoder, and milliseconds per training step."""
    with Worker(setting(arguments)) as worker:
        start({"step": worker}, {"step": PackageStep(words, batch_size)})
        worker.turn(5)
        milliseconds = [worker.turn(1) for _ in range(repeats)]
        summary = worker.summary()
    return {"parameters": summary["parameters"], "decoder": summary["decoder"], "step_ms": spread(milliseconds)}


def row(name: str, found: dict[str, Any]) -> str:
    """Return a line of the table."""
    accuracies = [100 * run["test_accuracy"] for run in found["runs"]]
    deviation = f" ± {statistics.stdev(accuracies):.2f}" if len(accuracies) > 1 else ""
    seconds = statistics.mean(run["seconds"] for run in found["runs"])
    return (
        f"| `{name}` | {statistics.mean(accuracies):.2f}{deviation} | {found['parameters'] - found['decoder']:,} | "
        f"{found['step_ms']['median']:.1f} | {seconds:.0f} |"
    )


def options() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parsed = parser("routings", __doc__)
    add_config(parsed)
    parsed.add_argument("--routings", nargs="+", choices=OVERLAYS, default=OVERLAYS, help="default: all")
    parsed.add_argument("--seeds", nargs="+", type=int, default=[0], help="one run each (default: 0)")
    parsed.add_argument("--seed", type=int, default=0, help="of the timed step (default: 0)")
    parsed.add_argument("--batch_size", type=positive, default=64, help="of the timed step (default: %(default)s)")
    parsed.add_argument("--repeats", type=positive, default=20, help="timed steps (default: %(default)s)")
    return parsed


def main() -> None:
    """Train and time each routing, print the table as it grows, write the JSON."""
    arguments = options().parse_args()
    arguments.config = arguments.config or ["digits.yaml"]
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    accelerator = "gpu" if arguments.device == "cuda" else "cpu"
    found: dict[str, Any] = {}
    print("| routing | test accuracy, % | parameters | ms a step | seconds in all |\n| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as scratch:
        for name in arguments.routings:
            words = [*config_words(arguments), "--config", f"routing/{name}.yaml"]
            runs = [
                train([*words, f"--trainer.accelerator={accelerator}"], seed, Path(scratch) / name, None)
                for seed in arguments.seeds
            ]
            found[name] = {"runs": runs, **cost(words, arguments.batch_size, arguments.repeats, arguments)}
            print(row(name, found[name]), flush=True)
    write(arguments, found)


if __name__ == "__main__":
    main()
