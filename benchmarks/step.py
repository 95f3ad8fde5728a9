"""Measure one training step of a config's network beside the plain step of `plain.py`, in the same run.

The results are milliseconds per step, images per second and peak memory above the runtime. Network, loss
and optimizer are built by the package itself, so that what is timed is what trains. Images are random and stay on the
device: `data.py` measures how they get there.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from measure import (
    PRECISIONS,
    Step,
    Worker,
    WorkerError,
    Workload,
    add_compile,
    add_config,
    add_inner,
    add_turns,
    autocast,
    config_words,
    inner,
    interleave,
    memory_ratio,
    parser,
    positive,
    ratio,
    setting,
    spread,
    start,
    write,
)
from plain import IN_SHAPE, NUM_CLASSES, PlainStep
from torch import Tensor
from typing_extensions import override


class PackageStep(Workload):
    """A training step of the network of a config.

    Args:
        words: options of ``fit`` that choose the network.
        batch_size: images in a step.
        precision: precision, as for the trainer.
        mode: mode of ``torch.compile`` for network and loss; None not to compile them.
    """

    def __init__(
        self, words: Sequence[str], batch_size: int, precision: str = "32-true", mode: str | None = None
    ) -> None:
        self.words, self.batch_size, self.precision, self.mode = list(words), batch_size, precision, mode

    def load(self, device: torch.device) -> None:
        """Import the package and resolve the config."""
        from capsule_lightning.cli.configs import resolve

        self.config = resolve(["fit", *self.words, "--model.lr_scheduler=null"])

    @override
    def build(self, device: torch.device) -> Step:
        from capsule_lightning.components.build import build

        self.task = task = build(self.config).task.to(device).train()
        self.batch = task.example_batch(self.batch_size)
        optimizer = task.configure_optimizers()
        assert isinstance(optimizer, torch.optim.Optimizer)  # there is no schedule
        scaler = torch.amp.GradScaler(device.type, enabled=self.precision == "16-mixed")
        loss_of = self.loss if self.mode is None else torch.compile(self.loss, mode=self.mode)

        def step() -> Tensor:
            optimizer.zero_grad()
            with autocast(device, self.precision):
                loss = loss_of()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            return loss.detach()

        return step

    def loss(self) -> Tensor:
        """Return the loss of the batch, which the task minimizes."""
        return self.task.losses(self.task.output(self.batch), self.batch)["loss"]

    @override
    def facts(self) -> dict[str, Any]:
        task = self.task
        return {
            "in_shape": list(task.in_shape),
            "num_classes": task.num_classes,
            "parameters": sum(p.numel() for p in task.parameters()),
            "decoder": sum(p.numel() for p in task.net.decoder.parameters()) if task.net.decoder else 0,
        }


def options() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parsed = parser("step", __doc__)
    add_turns(parsed, repeats=15, warmup=3)
    add_config(parsed)
    add_compile(parsed)
    add_inner(parsed)
    parsed.add_argument("--batch_size", type=positive, default=128, help="images a step (default: %(default)s)")
    parsed.add_argument(
        "--precision",
        nargs="+",
        choices=PRECISIONS,
        default=["32-true", "bf16-mixed"],
        help="of the network, whatever the config says (default: 32-true bf16-mixed)",
    )
    parsed.add_argument(
        "--heap",
        choices=("keep", "default"),
        default="keep",
        help="CPU: memory kept between steps, as `fit` does, the plain step under the default allocator beside it "
        "(default); or the default allocator for all",
    )
    return parsed


def main() -> None:
    """Measure, print a table, write the JSON."""
    arguments = options().parse_args()
    kept = arguments.heap == "keep"
    workloads: dict[str, Workload] = {
        precision: PackageStep(config_words(arguments), arguments.batch_size, precision, arguments.compile)
        for precision in arguments.precision
    }
    plain = {"plain": kept}
    if kept and arguments.device == "cpu":
        plain["plain, default allocator"] = False
    with ExitStack() as stack:
        workers = {name: stack.enter_context(Worker(setting(arguments, kept))) for name in workloads}
        start(workers, workloads)
        facts = workers[arguments.precision[0]].summary()
        if (facts["in_shape"], facts["num_classes"]) == (list(IN_SHAPE), NUM_CLASSES):
            yardsticks: dict[str, Workload] = {name: PlainStep(arguments.batch_size) for name in plain}
            beside = {name: stack.enter_context(Worker(setting(arguments, plain[name]))) for name in plain}
            start(beside, yardsticks)
            workers = {**beside, **workers}
        else:
            print(f"no plain step beside: it is for images of {IN_SHAPE} in {NUM_CLASSES} classes")
        times = interleave(workers, arguments.repeats, arguments.warmup, inner(arguments))
        summaries = {name: worker.summary() for name, worker in workers.items()}

    steps: dict[str, dict[str, Any]] = {
        name: {
            "ms": spread(times[name]),
            "images_per_s": 1000 * arguments.batch_size / spread(times[name])["median"],
            **summaries[name],
        }
        for name in workers
    }
    ratios: list[dict[str, Any]] = [
        {
            "of": name,
            "to": yardstick,
            "time": ratio(times[name], times[yardstick]),
            "memory": memory_ratio(summaries[name]["peak_mib"], summaries[yardstick]["peak_mib"]),
        }
        for name in workloads
        for yardstick in workers
        if yardstick in plain
    ]
    print(f"{'':26}{'ms a step':>10}{'quartiles':>19}{'images/s':>11}{'peak MiB':>10}")
    for name, found in steps.items():
        ms, peak = found["ms"], found["peak_mib"]
        print(
            f"{name:26}{ms['median']:10.2f}{ms['q1']:10.2f} -{ms['q3']:7.2f}{found['images_per_s']:11,.0f}"
            f"{'-' if peak is None else format(peak, '.0f'):>10}"
        )
    for pair in ratios:
        memory = "" if pair["memory"] is None else f", memory {pair['memory']:.3f}"
        print(f"{pair['of']} / {pair['to']}: time {pair['time']['median']:.3f}{memory}")
    write(arguments, {"steps": steps, "ratios": ratios})


if __name__ == "__main__":
    try:
        main()
    except WorkerError as error:
        raise SystemExit(str(error).splitlines()[-1]) from error
