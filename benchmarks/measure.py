"""Time and memory of alternatives, measured in one run, so that a drift of the machine's speed affects all of them.

What is timed is a `Workload`. A `Worker` runs it in a process of its own and is told when to take a turn, so that the
alternatives take turns (A, B, A, B, ...), and each has its own peak of memory and its own allocator.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from capsule_lightning import __version__
from capsule_lightning.errors import InputError

Step = Callable[[], Tensor | None]
"""One repetition of what is timed; it returns the loss, if there is one."""

PRECISIONS = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
"""The type that convolutions are computed in, by precision of the trainer."""

RESULTS = Path(__file__).parent / "results"
MIB = 2**20


class Workload(ABC):
    """Something to time, set up in two stages so that memory is counted from the right moment. Must be picklable."""

    def load(self, device: torch.device) -> None:  # noqa: B027
        """Import and read what does not count as the workload's memory; does nothing by default."""

    @abstractmethod
    def build(self, device: torch.device) -> Step:
        """Allocate everything else and return the function to repeat."""

    def facts(self) -> dict[str, Any]:
        """Return what the results should report about the workload; called after ``build``."""
        return {}


@dataclass(frozen=True)
class Setting:
    """How a worker runs.

    Attributes:
        device: ``cpu`` or ``cuda``.
        threads: number of CPU threads.
        keep_heap: keep memory between steps (`capsule_lightning.kernels.heap`), or leave the allocator as it is.
        seed: seed of the random numbers.
    """

    device: str
    threads: int
    keep_heap: bool
    seed: int


class Bench:
    """Runs one workload at a time in this process, one turn on each call.

    Args:
        setting: how workloads run; it applies to the process, so it is the same for all benches in it.
    """

    def __init__(self, setting: Setting) -> None:
        prepare(setting)
        self.setting, self.device = setting, torch.device(setting.device)
        self.workload: Workload | None = None
        self.step: Step | None = None
        self.loss: Tensor | None = None
        _use_runtime(self.device)

    def start(self, workload: Workload) -> None:
        """Load and build a workload in place of the previous one."""
        self.workload = self.step = self.loss = None
        if "torch._dynamo" in sys.modules:  # what was compiled for other workloads counts against a limit
            torch.compiler.reset()
        workload.load(self.device)
        gc.collect()
        self.before = begin_peak(self.device)
        torch.manual_seed(self.setting.seed)
        self.workload, self.step = workload, workload.build(self.device)

    def turn(self, count: int) -> float:
        """Return milliseconds per repetition, over ``count`` repetitions."""
        assert self.step is not None
        milliseconds, self.loss = timed(self.step, count, self.device)
        return milliseconds

    def summary(self) -> dict[str, Any]:
        """Return the workload's facts, its peak memory in MiB (None if unknown) and its last loss, if it has one."""
        assert self.workload is not None
        peak = _peak(self.device)
        known = None if peak is None or self.before is None else (peak - self.before) / MIB
        summary = {**self.workload.facts(), "peak_mib": known}
        return summary if self.loss is None else {**summary, "loss": float(self.loss)}


class WorkerError(RuntimeError):
    """Something went wrong in a worker; the last line of the message is the summary."""


class Worker:
    """A `Bench` in a fresh process.

    Args:
        setting: how it runs.
    """

    def __init__(self, setting: Setting) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, setting))
        self._process.start()
        theirs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def send(self, request: str, *arguments: object) -> None:
        """Send a request without waiting; `receive` returns the answer."""
        with suppress(BrokenPipeError):  # `receive` reports that the process has ended
            self._connection.send((request, arguments))

    def receive(self) -> Any:
        """Return the answer to the oldest request.

        Raises:
            WorkerError: the request failed, or the process has ended.
        """
        try:
            failed, answer = self._connection.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            raise WorkerError(f"the process ended with status {self._process.exitcode}") from None
        if failed:
            raise WorkerError(answer)
        return answer

    def turn(self, count: int) -> float:
        """Return milliseconds per repetition, see `Bench.turn`."""
        self.send("turn", count)
        return float(self.receive())

    def summary(self) -> dict[str, Any]:
        """Return facts, peak memory and last loss, see `Bench.summary`."""
        self.send("summary")
        answer: dict[str, Any] = self.receive()
        return answer

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.join()


def start(workers: Mapping[str, Worker], workloads: Mapping[str, Workload]) -> None:
    """Give each worker its workload; all load and build at the same time."""
    for name, workload in workloads.items():
        workers[name].send("start", workload)
    for name in workloads:
        workers[name].receive()


def interleave(workers: Mapping[str, Bench | Worker], repeats: int, warmup: int, inner: int) -> dict[str, list[float]]:
    """Let all workers take turns, after a warm-up.

    Args:
        workers: workers that have their workloads.
        repeats: turns of each worker.
        warmup: repetitions before the first turn; at least as many as a turn has.
        inner: repetitions in a turn.

    Returns:
        For each worker, milliseconds per repetition in each turn.
    """
    for worker in workers.values():
        worker.turn(max(warmup, inner))
    times: dict[str, list[float]] = {name: [] for name in workers}
    for _ in range(repeats):
        for name, worker in workers.items():
            times[name].append(worker.turn(inner))
    return times


def timed(step: Step, count: int, device: torch.device) -> tuple[float, Tensor | None]:
    """Return milliseconds per repetition, and what the last one returned.

    On a GPU, this is the time between two events of its own clock, the second of them after all work is done.
    """
    last: Tensor | None = None
    if device.type == "cuda":
        first, final = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize(device)
        first.record()
        for _ in range(count):
            last = step()
        final.record()
        torch.cuda.synchronize(device)
        return first.elapsed_time(final) / max(1, count), last
    before = time.perf_counter()
    for _ in range(count):
        last = step()
    return 1000 * (time.perf_counter() - before) / max(1, count), last


def repeat(step: Step, device: torch.device, repeats: int, warmup: int, inner: int) -> list[float]:
    """Return milliseconds per repetition in each of ``repeats`` turns, in this process, after a warm-up."""
    timed(step, max(warmup, inner), device)
    return [timed(step, inner, device)[0] for _ in range(repeats)]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median, minimum, quartiles and number of some values.

    Example:
        >>> spread([3.0, 1.0, 2.0])
        {'median': 2.0, 'min': 1.0, 'q1': 1.5, 'q3': 2.5, 'repeats': 3}
    """
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else 3 * [*values]
    return {"median": median, "min": min(values), "q1": lower, "q3": upper, "repeats": len(values)}


def ratio(values: Sequence[float], to: Sequence[float]) -> dict[str, float]:
    """Return the spread of the ratios between turns that followed each other."""
    return spread([value / other for value, other in zip(values, to, strict=True)])


def memory_ratio(peak: float | None, to: float | None) -> float | None:
    """Return the ratio of two peaks; None unless both are known."""
    return None if peak is None or to is None else peak / to


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the context that the trainer computes the loss in."""
    dtype = PRECISIONS[precision]
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def _serve(connection: Connection, setting: Setting) -> None:
    """Answer requests until the other end is closed."""
    bench = Bench(setting)
    with suppress(EOFError, OSError, KeyboardInterrupt):  # the other end has closed
        while True:
            request, arguments = connection.recv()
            try:
                answer = (False, getattr(bench, request)(*arguments))
            except Exception as error:
                answer = (True, f"{traceback.format_exc()}\n{reason(error)}")
            connection.send(answer)


def reason(error: BaseException) -> str:
    """Return an error as one line; if wrong input caused it, that message of the package."""
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, InputError):
            return str(chain).replace("\n", " ")
        chain = chain.__cause__ or chain.__context__
    return f"{type(error).__name__}: {error}".replace("\n", " ")


def prepare(setting: Setting) -> None:
    """Apply a setting to this process."""
    if setting.keep_heap:
        from capsule_lightning.kernels.heap import keep_heap

        keep_heap()
    torch.set_num_threads(setting.threads)
    torch.manual_seed(setting.seed)


def _use_runtime(device: torch.device) -> None:
    """Make the libraries load their code, which does not count as a workload's memory."""
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 8)).to(device)
    optimizer = torch.optim.Adam(net.parameters())
    for precision in ("32-true", "bf16-mixed"):
        with autocast(device, precision):
            loss = net(torch.rand(2, 1, 8, 8, device=device)).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def begin_peak(device: torch.device) -> int | None:
    """Reset the peak and return the bytes in use now."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    with suppress(
        AttributeError, OSError, TypeError
    ):  # give free memory back to the kernel, so that only used memory counts
        ctypes.CDLL(None).malloc_trim(0)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # reset the high-water mark to the resident memory
    return _resident("VmRSS")


def _peak(device: torch.device) -> int | None:
    """Return the most bytes in use since `begin_peak`."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _resident("VmHWM")


def _resident(field: str) -> int | None:
    """Return a field of the kernel's account of this process, in bytes; None if there is no such account.

    ``ru_maxrss`` is not used, because a process inherits it from its parent.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def parser(name: str, description: str) -> argparse.ArgumentParser:
    """Return a parser with the options that every benchmark has.

    Args:
        name: of the benchmark, and of its JSON file.
        description: what it measures.
    """
    options = argparse.ArgumentParser(description=description)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    options.add_argument("--device", choices=("cpu", "cuda"), default=device, help="default: %(default)s")
    options.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: %(default)s")
    options.add_argument(
        "--out", type=Path, default=RESULTS / f"{name}.json", help=f"default: {name}.json in benchmarks/results"
    )
    return options


def add_turns(options: argparse.ArgumentParser, repeats: int, warmup: int) -> None:
    """Add the options about repetitions, with their defaults."""
    options.add_argument("--repeats", type=positive, default=repeats, help="timed turns (default: %(default)s)")
    options.add_argument(
        "--warmup", type=int, default=warmup, help="repetitions before the first turn (default: %(default)s)"
    )
    options.add_argument("--seed", type=int, default=0, help="of weights and inputs (default: %(default)s)")


def add_inner(options: argparse.ArgumentParser) -> None:
    """Add the option ``--inner``, see `inner`."""
    options.add_argument(
        "--inner", type=positive, default=None, help="repetitions a turn (default: 1 on the CPU, else 20)"
    )


def inner(arguments: argparse.Namespace) -> int:
    """Return the repetitions in a turn: many on a GPU, whose queue must fill, and if one is too short to time."""
    return arguments.inner or (20 if arguments.device == "cuda" else 1)


def add_compile(options: argparse.ArgumentParser) -> None:
    """Add the option ``--compile``: None or a mode of ``torch.compile``."""
    options.add_argument(
        "--compile",
        nargs="?",
        const="default",
        metavar="MODE",
        help="compile the package's network and loss, with that mode of torch.compile",
    )


def add_config(options: argparse.ArgumentParser) -> None:
    """Add the options that choose a config of the package, see `config_words`."""
    options.add_argument(
        "--config", action="append", metavar="NAME", help="of the package, may be repeated (default: mnist.yaml)"
    )
    options.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="as on its command line: data.seed=1"
    )


def config_words(arguments: argparse.Namespace) -> list[str]:
    """Return what `add_config` has read as words of the package's command line, with the default filled in."""
    arguments.config = arguments.config or ["mnist.yaml"]
    words = [word for name in arguments.config for word in ("--config", name)]
    return words + [f"--{pair}" for pair in arguments.set]


def positive(word: str) -> int:
    """Return a whole number of at least 1, for argparse."""
    number = int(word)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number}: expected at least 1")
    return number


def setting(arguments: argparse.Namespace, keep_heap: bool = True) -> Setting:
    """Return how a worker runs, from the options of `parser`."""
    return Setting(arguments.device, arguments.threads, keep_heap, arguments.seed)


def earlier(arguments: argparse.Namespace, besides: Sequence[str] = ()) -> dict[str, Any]:
    """Return the results in ``--out`` of an earlier call, to go on from; empty unless commit and options are the same.

    Args:
        arguments: of the command line.
        besides: options that may differ.
    """
    if not arguments.out.exists():
        return {}
    record = json.loads(arguments.out.read_text())
    now = json.loads(json.dumps({"arguments": _words(arguments), "environment": environment(arguments.device)}))
    options = [
        {name: word for name, word in each["arguments"].items() if name not in besides} for each in (record, now)
    ]
    commits = [(each["environment"]["commit"], each["environment"]["dirty"]) for each in (record, now)]
    same = options[0] == options[1] and commits[0] == commits[1] and commits[0][1] is False
    found: dict[str, Any] = record["results"] if same else {}
    return found


def _words(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the options of the command line without folders of this machine."""
    return {name: value for name, value in vars(arguments).items() if not isinstance(value, Path)}


def write(arguments: argparse.Namespace, results: object, told: bool = True) -> None:
    """Write the results and their provenance to ``--out``, and say so unless ``told`` is false."""
    words = _words(arguments)
    record = {
        "benchmark": Path(sys.argv[0]).stem,
        "environment": environment(arguments.device),
        "seed": words.get("seed", words.get("seeds")),
        "threads": arguments.threads,
        "arguments": words,
        "results": results,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=2) + "\n")
    if told:
        print(f"written: {arguments.out}")


def environment(device: str) -> dict[str, Any]:
    """Return versions, commit and hardware, and how busy the machine was."""
    commit, changes = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--", ".", ":!benchmarks/results")
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "lightning": _version("lightning"),
        "torchvision": _version("torchvision"),
        "capsule_lightning": __version__,
        "commit": commit,
        "dirty": None if changes is None else bool(changes),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "cuda": torch.version.cuda if device == "cuda" else None,
        "cpu": _cpu_model(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cpu_count": os.cpu_count(),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "cudnn_allow_tf32": torch.backends.cudnn.allow_tf32,
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *words], cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True, timeout=60
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _cpu_model() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
