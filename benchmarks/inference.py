"""Measure what trained networks take to answer: images a second of whole batches, and the latency of one image.

Networks are those of shipped configs without decoder and with random weights, written to a file as `export` would.
``plain`` is the plain form in evaluation mode; ``load_network`` calls the network that the function loads, with images
as floats; ``predict`` gives its method pixels from 0 to 255 and gets classes, names, lengths and poses; ``ONNX`` is the
exported network in its runtime (the extra ``onnx``), with the same number of threads. Each runs in a process of its
own, in turns with the others. The results are written after each network: called again with the same options at the
same commit, it goes on.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import safetensors.torch
import torch
from measure import (
    Step,
    Worker,
    Workload,
    add_turns,
    earlier,
    interleave,
    memory_ratio,
    parser,
    positive,
    ratio,
    reason,
    setting,
    spread,
    start,
    write,
)
from plain import PlainCapsNet
from plain_forms.deepcaps import DeepCaps
from plain_forms.efficient_capsnet import EfficientCapsNet
from torch import nn
from typing_extensions import override

WAYS = ("plain", "load_network", "predict", "ONNX")


class Compared(NamedTuple):
    """A config's network and its plain form."""

    config: str
    plain: Callable[[], nn.Module]


NETWORKS = {
    "CapsNet": Compared("mnist.yaml", PlainCapsNet),
    "Efficient-CapsNet": Compared("mnist_fast.yaml", partial(EfficientCapsNet, strides=(1, 2, 1, 1))),
    "DeepCaps": Compared("cifar10_deepcaps.yaml", DeepCaps),
}


def write_network(config: str, folder: Path) -> tuple[int, ...]:
    """Write the network of a config, without decoder, as a shared file and as ONNX; return the shape of an image."""
    from capsule_lightning.cli.configs import resolve
    from capsule_lightning.components.build import build
    from capsule_lightning.data.trained_on import TrainedOn
    from capsule_lightning.errors import InputError
    from capsule_lightning.sharing.metadata import metadata_of
    from capsule_lightning.sharing.onnx import onnx_model

    resolved = resolve(["fit", "--config", config, "--model.lr_scheduler=null"])
    task = build(resolved).task
    net, slot = task.net.eval(), resolved["model"]["init_args"]["net"]
    net.decoder, slot["init_args"]["decoder"] = None, None
    shape = tuple(net.in_shape)
    images = TrainedOn(
        name=config,
        class_names=[str(number) for number in range(net.num_classes)],
        in_shape=list(shape),
        stored_shape=list(shape),
        num_labels=1,
        normalization="none",
    )
    recipe = {"net": slot, "in_shape": shape, "num_classes": net.num_classes}
    metadata = {**{key: json.dumps(value) for key, value in recipe.items()}, **metadata_of(images)}
    safetensors.torch.save_file(net.state_dict(), folder / "net.safetensors", {"format": "pt", **metadata})
    try:
        (folder / "net.onnx").write_bytes(onnx_model(net, metadata))
    except (InputError, ImportError) as error:
        print(f"{config} without ONNX: {reason(error)}", flush=True)
    return shape


class Answering(Workload):
    """A network answering images.

    Args:
        network: a key of `NETWORKS`.
        way: one of `WAYS`.
        folder: what `write_network` has written to.
        shape: of an image.
        batch_size: images at once.
    """

    def __init__(self, network: str, way: str, folder: Path, shape: tuple[int, ...], batch_size: int) -> None:
        self.network, self.way, self.folder, self.shape, self.batch_size = network, way, folder, shape, batch_size

    @override
    def load(self, device: torch.device) -> None:
        """Import what answers, which does not count as memory, and make the images."""
        if self.way == "ONNX":
            import_module("onnxruntime")
        elif self.way != "plain":
            import_module("capsule_lightning.sharing.export")
        self.images = torch.rand(self.batch_size, *self.shape)

    @override
    def build(self, device: torch.device) -> Step:
        answer = {"plain": self._plain, "ONNX": self._onnx}.get(self.way, self._package)()

        def step() -> None:
            with torch.inference_mode():
                answer()

        return step

    def _plain(self) -> Callable[[], Any]:
        net = NETWORKS[self.network].plain().eval()
        return lambda: net(self.images)

    def _package(self) -> Callable[[], Any]:
        from capsule_lightning.sharing.export import load_network

        net = load_network(self.folder / "net.safetensors")
        pixels = (255 * self.images).to(torch.uint8)
        return (lambda: net.predict(pixels)) if self.way == "predict" else (lambda: net(self.images))

    def _onnx(self) -> Callable[[], Any]:
        runtime: Any = import_module("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = runtime.InferenceSession(self.folder / "net.onnx", options, providers=["CPUExecutionProvider"])
        images = self.images.numpy()
        return lambda: session.run(None, {"images": images})


def measure(network: str, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return, by number of images and by way, times and memory, and their ratios to the plain form's."""
    shape = write_network(NETWORKS[network].config, folder)
    ways = [way for way in WAYS if way != "ONNX" or (folder / "net.onnx").exists()]
    found: dict[str, Any] = {}
    for batch_size, count in ((arguments.batch_size, 1), (1, arguments.inner)):
        with ExitStack() as session:  # fresh processes, whose peaks are their own
            workers = {way: session.enter_context(Worker(setting(arguments))) for way in ways}
            start(workers, {way: Answering(network, way, folder, shape, batch_size) for way in ways})
            times = interleave(workers, arguments.repeats, arguments.warmup, count)
            peaks = {way: worker.summary()["peak_mib"] for way, worker in workers.items()}
        found[str(batch_size)] = {
            way: {
                "ms": spread(times[way]),
                "images_per_s": 1000 * batch_size / spread(times[way])["median"],
                "peak_mib": peaks[way],
                "time_ratio": ratio(times[way], times["plain"]),
                "memory_ratio": memory_ratio(peaks[way], peaks["plain"]),
            }
            for way in ways
        }
    return found


def row(network: str, way: str, found: dict[str, Any]) -> str:
    """Return a row of the table."""
    many, one = (found[key][way] for key in found)
    ratios = [
        f"{each['median']:.2f} ({each['q1']:.2f} to {each['q3']:.2f})"
        for each in (many["time_ratio"], one["time_ratio"])
    ]
    ms = one["ms"]
    return (
        f"| {network} | {way} | {many['images_per_s']:,.0f} | {ratios[0]} | {ms['median']:.1f} "
        f"({ms['q1']:.1f} to {ms['q3']:.1f}) | {ratios[1]} |"
    )


def options() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parsed = parser("inference", __doc__)
    parsed.set_defaults(device="cpu")
    add_turns(parsed, repeats=5, warmup=1)
    parsed.add_argument(
        "--inner", type=positive, default=5, help="answers to one image in a turn (default: %(default)s)"
    )
    parsed.add_argument("--batch_size", type=positive, default=256, help="images of a batch (default: %(default)s)")
    parsed.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="default: all")
    parsed.add_argument(
        "--minutes", type=float, default=float("inf"), help="begin no other network after so many (default: no end)"
    )
    return parsed


def main() -> None:
    """Measure, print the table, write the JSON after each network."""
    arguments = options().parse_args()
    print(
        f"| network | way | images/s, batch {arguments.batch_size} | time, of plain | ms, one image | time, of plain |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    end = time.monotonic() + 60 * arguments.minutes
    found = earlier(arguments, besides=("minutes", "networks"))
    for network in arguments.networks:
        if network not in found:
            if time.monotonic() > end:
                print(f"{network} is left: call it again to go on", flush=True)
                continue
            with TemporaryDirectory() as folder:
                found[network] = measure(network, Path(folder), arguments)
            write(arguments, found, told=False)
        for way in found[network][str(arguments.batch_size)]:
            print(row(network, way, found[network]), flush=True)


if __name__ == "__main__":
    main()
