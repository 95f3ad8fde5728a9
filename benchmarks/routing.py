"""Measure votes and routing alone, forward and backward, on each backend that the routing class has for the device.

The results are milliseconds and peak memory above the inputs (poses, weights and incoming gradient), and their ratio to
the plain backend ``torch``. Shapes start from the paper's MNIST layer and vary one size at a time: I children, J
parents, D x E dimensions.
"""

from __future__ import annotations

import argparse
import pkgutil
from collections.abc import Mapping
from contextlib import ExitStack
from importlib import import_module
from typing import Any, NamedTuple, get_args, get_type_hints

import torch
from measure import (
    PRECISIONS,
    Step,
    Worker,
    WorkerError,
    Workload,
    add_inner,
    add_turns,
    autocast,
    inner,
    interleave,
    memory_ratio,
    parser,
    positive,
    ratio,
    setting,
    spread,
    write,
)
from typing_extensions import override

import capsule_lightning.routing
from capsule_lightning.capsules import Capsules
from capsule_lightning.routing.base import Routing

REFERENCE = "torch"
ELSEWHERE = {"cpu": {"triton"}, "cuda": {"blocked", "native"}}
"""Backends that run on the other device only."""


Results = dict[str, dict[str, Any]]
"""Results of one shape by backend."""


class Shape(NamedTuple):
    """Sizes of a routed layer."""

    num_in: int
    dim_in: int
    num_out: int
    dim_out: int

    def __str__(self) -> str:
        return f"I={self.num_in} J={self.num_out} D={self.dim_in} E={self.dim_out}"


class RoutingStep(Workload):
    """Forward and backward of one routed layer.

    Args:
        routing: name of the class.
        backend: backend of the class; None if it has only one.
        shape: shape of the layer.
        batch_size: number of examples.
        precision: precision, as for the trainer.
    """

    def __init__(self, routing: str, backend: str | None, shape: Shape, batch_size: int, precision: str) -> None:
        self.routing, self.backend, self.shape = routing, backend, shape
        self.batch_size, self.precision = batch_size, precision

    def load(self, device: torch.device) -> None:
        """Make the inputs, which do not count as memory."""
        choice: dict[str, Any] = {} if self.backend is None else {"backend": self.backend}
        self.layer = routing_class(self.routing)(*self.shape, **choice).to(device)
        shape, batch = self.shape, self.batch_size
        poses = torch.rand(batch, shape.num_in, shape.dim_in, device=device) / shape.dim_in**0.5
        self.children = Capsules.from_vectors(poses)
        self.children.poses.requires_grad_()
        self.gradient = torch.randn(batch, shape.num_out, shape.dim_out, device=device)

    @override
    def build(self, device: torch.device) -> Step:
        def step() -> None:
            self.layer.zero_grad()
            self.children.poses.grad = None
            with autocast(device, self.precision):
                parents = self.layer(self.children).poses
            parents.backward(self.gradient.to(parents.dtype))

        return step


def routing_class(name: str) -> type[Routing]:
    """Return the class of a name in the package's folder of routings."""
    folder = capsule_lightning.routing
    for module in pkgutil.iter_modules(folder.__path__, f"{folder.__name__}."):
        found = getattr(import_module(module.name), name, None)
        if found is not None:
            routing: type[Routing] = found
            return routing
    raise SystemExit(f"no routing {name!r} in {folder.__name__}")


def backends(routing: type[Routing], device: str) -> list[str]:
    """Return the backends of a class for a device, the plain one first; empty if it has only one."""
    accepted = get_args(get_type_hints(routing.__init__).get("backend"))
    return [name for name in accepted if name != "auto" and name not in ELSEWHERE[device]]


def shapes(arguments: argparse.Namespace) -> list[Shape]:
    """Return the base shape, and the base shape with one size changed at a time."""
    base = Shape(*arguments.base)
    found = [
        base,
        *(base._replace(num_in=n) for n in arguments.num_in),
        *(base._replace(num_out=n) for n in arguments.num_out),
        *(base._replace(dim_in=d, dim_out=e) for d, e in arguments.dims),
    ]
    return list(dict.fromkeys(found))


def dims(word: str) -> tuple[int, int]:
    """Parse ``DxE``, for argparse."""
    d, e = word.split("x")
    return positive(d), positive(e)


def measure(workers: Mapping[str, Worker], workloads: Mapping[str, Workload], arguments: argparse.Namespace) -> Results:
    """Measure one shape on each backend, in turns; for a backend that fails, report the reason."""
    for name, workload in workloads.items():
        workers[name].send("start", workload)
    able: dict[str, Worker] = {}
    results: Results = {}
    for name, worker in workers.items():
        try:
            worker.receive()
            worker.turn(1)
            able[name] = worker
        except WorkerError as error:
            results[name] = {"error": str(error).splitlines()[-1]}
    times = interleave(able, arguments.repeats, arguments.warmup, inner(arguments))
    results |= {name: {"ms": spread(times[name]), **worker.summary()} for name, worker in able.items()}
    if REFERENCE in able:
        for name in able:
            results[name]["time_ratio"] = ratio(times[name], times[REFERENCE])
            results[name]["memory_ratio"] = memory_ratio(results[name]["peak_mib"], results[REFERENCE]["peak_mib"])
    return results


def cell(result: dict[str, Any]) -> str:
    """Return the row of the table for one shape on one backend."""
    if "error" in result:
        return str(result["error"])[:40]
    text = f"{result['ms']['median']:.2f} ms"
    text += "" if result["peak_mib"] is None else f" {result['peak_mib']:.0f} MiB"
    if "time_ratio" in result:
        memory = result["memory_ratio"]
        text += f" ({result['time_ratio']['median']:.2f}{'' if memory is None else f', {memory:.2f}'})"
    return text


def options() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parsed = parser("routing", __doc__)
    add_turns(parsed, repeats=9, warmup=2)
    add_inner(parsed)
    parsed.add_argument("--routing", default="DynamicRouting", help="name of the class (default: %(default)s)")
    parsed.add_argument("--backends", nargs="+", help="of the class (default: all that are for the device)")
    parsed.add_argument("--batch_size", type=positive, default=128, help="examples (default: %(default)s)")
    parsed.add_argument("--precision", choices=PRECISIONS, default="32-true", help="default: %(default)s")
    parsed.add_argument(
        "--base", nargs=4, type=positive, metavar=tuple("IDJE"), default=[1152, 8, 10, 16], help="the paper's layer"
    )
    parsed.add_argument(
        "--num_in", nargs="*", type=positive, metavar="I", default=[288, 576, 1152, 2304, 4608], help="to sweep"
    )
    parsed.add_argument(
        "--num_out", nargs="*", type=positive, metavar="J", default=[5, 10, 20, 50, 100], help="to sweep"
    )
    parsed.add_argument(
        "--dims", nargs="*", type=dims, metavar="DxE", default=[(4, 8), (8, 16), (16, 16), (16, 32)], help="to sweep"
    )
    return parsed


def main() -> None:
    """Measure, print the table, write the JSON."""
    arguments = options().parse_args()
    offered = backends(routing_class(arguments.routing), arguments.device)
    names: dict[str, str | None] = {name: name for name in arguments.backends or offered} or {arguments.routing: None}
    print(f"{'':32}" + "".join(f"{name:36}" for name in names) + f"(time, memory: of {REFERENCE})")
    found = []
    with ExitStack() as session:
        workers: dict[str, Worker] = {}
        for shape in shapes(arguments):
            if (
                arguments.device == "cpu" or not workers
            ):  # if memory is that of the process, start a fresh one each time
                session.close()
                workers = {name: session.enter_context(Worker(setting(arguments))) for name in names}
            workloads = {
                name: RoutingStep(arguments.routing, backend, shape, arguments.batch_size, arguments.precision)
                for name, backend in names.items()
            }
            results = measure(workers, workloads, arguments)
            found.append({**shape._asdict(), "backends": results})
            print(f"{shape!s:32}" + "".join(f"{cell(results[name]):36}" for name in names), flush=True)
    write(arguments, found)


if __name__ == "__main__":
    main()
