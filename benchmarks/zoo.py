"""Measure networks and routings of papers beside plain forms of what their authors' code computes, in turns.

Each is run forwards and backwards, as in a training step, without loss, optimizer and decoder, which are the same for
both: a network from images to the activations of its class capsules, a layer from random children to its parents, with
the gradients of the children. `plain_forms` holds the plain ones, in float32; ours are built from the shipped configs.
Each pair runs in two fresh processes that take turns. The results are milliseconds, peak memory above the runtime, and
the ratios of both. They are written after each pair: called again with the same options at the same commit, it goes on.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import torch
from measure import (
    PRECISIONS,
    Step,
    Worker,
    Workload,
    add_inner,
    add_turns,
    autocast,
    earlier,
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
from plain_forms.deepcaps import DeepCaps
from plain_forms.efficient_capsnet import EfficientCapsNet, SelfAttention
from plain_forms.em import EMCapsules, EMNet
from plain_forms.heinsen import MatrixLayer, VectorLayer
from plain_forms.inverted_attention import AttentionNet
from plain_forms.self_routing import SelfRoutingCapsules, SelfRoutingNet
from plain_forms.variational_bayes import BayesCapsules, BayesNet
from torch import Tensor, nn
from typing_extensions import override

FORMS = ("plain", "ours")


class Pair(NamedTuple):
    """A network or layer, and its plain form with the same parameters in the same order.

    Attributes:
        plain: makes the plain form, which is called with images and returns activations; or with poses and activations
            of children, and returns those of parents, or their poses alone.
        ours: makes ours.
        shape: of an image, or of the poses of all children.
        batch_size: images in a step.
        is_layer: whether it is a layer.
    """

    plain: Callable[[], nn.Module]
    ours: Callable[[], nn.Module]
    shape: tuple[int, ...]
    batch_size: int
    is_layer: bool = False

    def inputs(self, batch_size: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
        """Return random images, or poses and activations of children, which then have gradients."""
        if not self.is_layer:
            return [torch.rand(batch_size, *self.shape, dtype=dtype)]
        poses = torch.randn(batch_size, *self.shape, dtype=dtype) / self.shape[-1] ** 0.5
        activations = torch.rand(batch_size, *self.shape[:-1], dtype=dtype)
        return [poses.requires_grad_(), activations.requires_grad_()]

    def outputs(self, form: str, net: nn.Module, inputs: list[Tensor]) -> tuple[Tensor, ...]:
        """Return activations of class capsules, or what the layer returns, of either form."""
        from capsule_lightning.capsules import Capsules

        if form == "plain":
            found = net(*inputs)
            return found if self.is_layer else (found,)
        return tuple(net(Capsules(*inputs))) if self.is_layer else (net(*inputs).activations,)


def network(config: str, *words: str) -> nn.Module:
    """Return the network of a shipped config, as `fit` would train it but for its decoder."""
    from capsule_lightning.cli.configs import resolve
    from capsule_lightning.components.build import build

    net = build(resolve(["fit", "--config", config, "--model.lr_scheduler=null", *words])).task.net
    net.decoder = None
    return net


def layer(config: str) -> nn.Module:
    """Return the first convolutional capsule layer of a shipped config."""
    found: nn.Module = network(config).layers[0]
    return found


def routing(config: str) -> nn.Module:
    """Return the routing of a shipped config's class capsules."""
    found: nn.Module = network(config).routing
    return found


def heinsen_matrices() -> nn.Module:
    """Return the routing of 2019 for 4x4 poses."""
    from capsule_lightning.routing.heinsen_matrix import HeinsenMatrixRouting

    return HeinsenMatrixRouting(1152, 16, 10, 16)


def heinsen_vectors() -> nn.Module:
    """Return the routing of 2022 as in ``routing/heinsen_vector.yaml``, without its read-out."""
    from capsule_lightning.routing.heinsen_vector import HeinsenVectorRouting

    return HeinsenVectorRouting(1152, 8, 10, 16, readout=False)


def of_network(plain: Callable[[], nn.Module], config: str, shape: tuple[int, ...], batch_size: int) -> Pair:
    """Return the pair of a config's network."""
    return Pair(plain, partial(network, config), shape, batch_size)


EM, BAYES = "smallnorb_matrix_capsules.yaml", "smallnorb_variational_bayes.yaml"
ATTENTION, SELF_ROUTING = "cifar10_inverted_attention.yaml", "cifar10_self_routing.yaml"
PAIRS = {
    "EM routing, network": of_network(EMNet, EM, (2, 32, 32), 8),
    "EM routing, layer": Pair(partial(EMCapsules, 32, 32, 3, 2), partial(layer, EM), (14, 14, 32, 16), 8, True),
    "variational Bayes, network": of_network(BayesNet, BAYES, (2, 32, 32), 32),
    "variational Bayes, layer": Pair(
        partial(BayesCapsules, 8, 16, 3, 2), partial(layer, BAYES), (14, 14, 8, 16), 32, True
    ),
    "inverted attention, network": of_network(AttentionNet, ATTENTION, (3, 32, 32), 16),
    "self-routing, network": of_network(SelfRoutingNet, SELF_ROUTING, (3, 32, 32), 64),
    "self-routing, layer": Pair(
        partial(SelfRoutingCapsules, 32, 32, 3, 2, 1), partial(layer, SELF_ROUTING), (8, 8, 32, 16), 64, True
    ),
    "Heinsen, matrices": Pair(partial(MatrixLayer, 1152, 10), heinsen_matrices, (1152, 16), 64, True),
    "Heinsen, vectors": Pair(partial(VectorLayer, 1152, 8, 10, 16), heinsen_vectors, (1152, 8), 128, True),
    "DeepCaps, network": of_network(DeepCaps, "cifar10_deepcaps.yaml", (3, 64, 64), 16),
    "Efficient-CapsNet, network": of_network(EfficientCapsNet, "mnist_efficient.yaml", (1, 28, 28), 64),
    "Efficient-CapsNet, routing": Pair(
        partial(SelfAttention, 16, 8, 10, 16), partial(routing, "mnist_efficient.yaml"), (16, 8), 64, True
    ),
}


class ZooStep(Workload):
    """Forward and backward of one form of a pair.

    Args:
        name: a key of `PAIRS`.
        form: ``plain`` or ``ours``.
        batch_size: images in a step; None for that of the pair.
        precision: of ours, as for the trainer; the plain form is in float32.
    """

    def __init__(self, name: str, form: str, batch_size: int | None, precision: str) -> None:
        self.name, self.form = name, form
        self.batch_size = batch_size or PAIRS[name].batch_size
        self.precision = precision if form == "ours" else "32-true"

    @override
    def load(self, device: torch.device) -> None:
        """Import what builds the network, which does not count as memory."""
        if self.form == "ours":
            PAIRS[self.name].ours()

    @override
    def build(self, device: torch.device) -> Step:
        pair = PAIRS[self.name]
        net = (pair.ours if self.form == "ours" else pair.plain)().to(device).train()
        self.parameters = sum(parameter.numel() for parameter in net.parameters())
        inputs = [each.detach().to(device).requires_grad_(pair.is_layer) for each in pair.inputs(self.batch_size)]
        upstream: list[Tensor] = []

        def step() -> None:
            net.zero_grad()
            for each in inputs:
                each.grad = None
            with autocast(device, self.precision):
                outputs = [each for each in pair.outputs(self.form, net, inputs) if each.requires_grad]
            if not upstream:
                upstream.extend(torch.randn_like(each) / each.numel() for each in outputs)
            torch.autograd.backward(outputs, upstream)

        return step

    @override
    def facts(self) -> dict[str, Any]:
        return {"parameters": self.parameters}


def measure(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the times and memory of both forms of a pair, and their ratios."""
    with ExitStack() as session:  # fresh processes, whose peaks are their own
        workers = {form: session.enter_context(Worker(setting(arguments))) for form in FORMS}
        start(workers, {form: ZooStep(name, form, arguments.batch_size, arguments.precision) for form in FORMS})
        times = interleave(workers, arguments.repeats, arguments.warmup, inner(arguments))
        found: dict[str, Any] = {
            form: {"ms": spread(times[form]), **worker.summary()} for form, worker in workers.items()
        }
    return {
        "batch_size": arguments.batch_size or PAIRS[name].batch_size,
        **found,
        "time_ratio": ratio(times["ours"], times["plain"]),
        "memory_ratio": memory_ratio(found["ours"]["peak_mib"], found["plain"]["peak_mib"]),
    }


def row(name: str, found: dict[str, Any]) -> str:
    """Return a row of the table."""
    ms, time_ratio = [f"{found[form]['ms']['median']:,.0f}" for form in FORMS], found["time_ratio"]
    relative = f"{time_ratio['median']:.2f} ({time_ratio['q1']:.2f} to {time_ratio['q3']:.2f})"
    memory = "| |"
    if found["memory_ratio"] is not None:
        peaks = [f"{found[form]['peak_mib']:,.0f}" for form in FORMS]
        memory = f"| {peaks[0]} to {peaks[1]} | {found['memory_ratio']:.2f} |"
    return f"| {name} | {found['batch_size']} | {ms[0]} to {ms[1]} | {relative} {memory}"


def options() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parsed = parser("zoo", __doc__)
    add_turns(parsed, repeats=7, warmup=1)
    add_inner(parsed)
    parsed.add_argument("--pairs", nargs="+", choices=PAIRS, default=list(PAIRS), help="default: all")
    parsed.add_argument("--batch_size", type=positive, help="images in a step (default: a number for each pair)")
    parsed.add_argument("--precision", choices=PRECISIONS, default="32-true", help="of ours (default: %(default)s)")
    parsed.add_argument(
        "--minutes", type=float, default=float("inf"), help="begin no other pair after so many (default: no end)"
    )
    return parsed


def main() -> None:
    """Measure, print the table, write the JSON after each pair."""
    arguments = options().parse_args()
    end = time.monotonic() + 60 * arguments.minutes
    found: dict[str, Any] = earlier(arguments, besides=("minutes", "pairs"))
    print("| network or layer | batch | ms, plain to ours | ratio (quartiles) | MiB, plain to ours | ratio |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in arguments.pairs:
        if name not in found:
            if time.monotonic() > end:
                print(f"{name} is left: call it again to go on", flush=True)
                continue
            found[name] = measure(name, arguments)
            write(arguments, found, told=False)
        print(row(name, found[name]), flush=True)


if __name__ == "__main__":
    main()
