"""Measure a training step of heads for a thousand classes on feature maps of 7x7x2048, beside the memory they need.

The maps are random, in place of a backbone's. ``shared`` routes 6,272 capsules with one matrix for each class, so that
no vote is formed; ``hidden`` routes 392 capsules through 64 hidden ones; ``cappronet`` projects the mean features onto
subspaces, ``groups`` is its control without the projection, and ``linear`` the control without capsules. The results
are milliseconds per step, peak memory above the runtime, and of this what tensors hold, beside what `law` derives for
them and what the votes alone of all primary capsules would take if they were stored.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import torch
from held import most_held
from measure import (
    MIB,
    Step,
    Worker,
    Workload,
    add_inner,
    add_turns,
    inner,
    interleave,
    parser,
    positive,
    setting,
    spread,
    start,
    write,
)
from torch import Tensor, nn
from typing_extensions import override

from capsule_lightning.capsules import Capsules
from capsule_lightning.encoders.base import FeatureEncoder
from capsule_lightning.kernels.shared_votes import MOST_COUPLINGS
from capsule_lightning.layers.squash import squash
from capsule_lightning.losses.base import ClassificationLoss
from capsule_lightning.losses.cross_entropy import CrossEntropyLoss
from capsule_lightning.losses.margin import MarginLoss
from capsule_lightning.models.base import CapsuleNet
from capsule_lightning.models.cappronet import CapProNet
from capsule_lightning.models.capsnet import CapsNet
from capsule_lightning.models.features import FeatureNet
from capsule_lightning.routing.dynamic import DynamicRouting
from capsule_lightning.routing.hidden import HiddenRouting

MAP = (2048, 7, 7)
DIM = 16
FLOAT = 4
HIDDEN = 64


class GivenMaps(FeatureEncoder):
    """Feature maps as they are given, and a 1x1 convolution to capsules as in `BackboneEncoder`."""

    def __init__(self, in_shape: tuple[int, ...], *, num_types: int = 8) -> None:
        super().__init__(in_shape, (in_shape[1], in_shape[2]), num_types, DIM)
        self.channels = in_shape[0]
        self.primary: nn.Module = nn.Conv2d(self.channels, num_types * DIM, 1)

    @override
    def features(self, images: Tensor) -> Tensor:
        return images

    @override
    def capsules_of(self, features: Tensor) -> Capsules:
        poses = self.primary(features).unflatten(1, (self.num_types, self.dim)).permute(0, 3, 4, 1, 2)
        return Capsules.from_vectors(squash(poses))

    @override
    def without_capsules(self) -> None:
        self.primary = nn.Identity()


class Head(NamedTuple):
    """A head.

    Attributes:
        net: called with the shape of a map and the number of classes.
        loss: what trains it.
        types: types of capsules at each place of the map; 0 without primary capsules.
    """

    net: Callable[[tuple[int, ...], int], CapsuleNet]
    loss: Callable[[], ClassificationLoss]
    types: int = 0


def capsules(types: int, routing: Callable[..., Any]) -> Callable[[tuple[int, ...], int], CapsuleNet]:
    """Return what makes a network of routed capsules on maps."""
    return partial(CapsNet, encoder=partial(GivenMaps, num_types=types), routing=routing, decoder=None, dim=DIM)


HEADS = {
    "shared": Head(capsules(128, partial(DynamicRouting, vote_weights=1)), MarginLoss, 128),
    "hidden": Head(
        capsules(8, partial(HiddenRouting, vote_weights=8, hidden=HIDDEN, hidden_dim=DIM)),
        partial(CrossEntropyLoss, of="log_odds"),
        8,
    ),
    "cappronet": Head(partial(CapProNet, encoder=GivenMaps), partial(CrossEntropyLoss, of="pose_lengths")),
    "groups": Head(
        partial(CapProNet, encoder=GivenMaps, projection=False), partial(CrossEntropyLoss, of="pose_lengths")
    ),
    "linear": Head(partial(FeatureNet, encoder=GivenMaps), CrossEntropyLoss),
}


class Law(NamedTuple):
    """What a training step of a head needs to hold at once, in bytes.

    Attributes:
        weights: weights, gradients and the two moments of Adam.
        update: what Adam holds besides while it changes the weights.
        inputs: the maps, and primary capsules with their gradients.
        scores: parents and losses, with their gradients.
        routing: votes and couplings, or the bases of subspaces, with their gradients.
        stored_votes: what the votes alone of all primary capsules would take if they were stored; 0 without these.
    """

    weights: int
    update: int
    inputs: int
    scores: int
    routing: int
    stored_votes: int

    @property
    def bytes(self) -> int:
        """All that is held at once: what the backward pass holds is free before the weights change."""
        return self.weights + self.inputs + self.scores + max(self.update, self.routing)


def law(name: str, parameters: int, batch_size: int, num_classes: int, shape: tuple[int, int, int] = MAP) -> Law:
    """Derive what a training step of a head needs.

    With I children, J classes and poses of E dimensions the couplings of an image are ``I J`` numbers and its votes
    ``I J E``. Shared votes are never formed, and images are routed some at a time: of these, five tensors of the size
    of the couplings are held, which are logits and couplings of a pass, the gradients of both, and the couplings of the
    pass before. Through H hidden capsules votes are formed of ``I H + H J`` pairs, and held three times: as they are,
    by parent, and as gradients. Subspaces of ``J D E`` numbers are held four times in the QR decomposition and its
    backward pass: Q, its gradient, and two products.

    Args:
        name: a key of `HEADS`.
        parameters: weights of the head.
        batch_size: images of a step.
        num_classes: J.
        shape: of a map.
    """
    channels, rows, columns = shape
    children = HEADS[name].types * rows * columns
    inputs = batch_size * rows * columns * channels + 6 * batch_size * children * DIM
    scores = 8 * batch_size * num_classes * DIM
    routing = {
        "shared": 5 * max(children * num_classes, min(batch_size * children * num_classes, MOST_COUPLINGS)),
        "hidden": 3 * batch_size * DIM * (children * HIDDEN + HIDDEN * num_classes),
        "cappronet": 4 * parameters,
    }
    votes = batch_size * children * num_classes * DIM
    held = (4 * parameters, 2 * parameters, inputs, scores, routing.get(name, 0), votes)
    return Law(*(FLOAT * count for count in held))


class HeadStep(Workload):
    """A training step of a head on random maps.

    Args:
        name: a key of `HEADS`.
        batch_size: images in a step.
        num_classes: classes.
        shape: of a map.
    """

    def __init__(self, name: str, batch_size: int, num_classes: int = 1000, shape: tuple[int, int, int] = MAP) -> None:
        self.name, self.batch_size, self.num_classes, self.shape = name, batch_size, num_classes, shape

    @override
    def build(self, device: torch.device) -> Step:
        head = HEADS[self.name]
        net, criterion = head.net(self.shape, self.num_classes).to(device), head.loss()
        self.parameters = sum(parameter.numel() for parameter in net.parameters())
        optimizer = torch.optim.Adam(net.parameters(), foreach=False)  # one tensor at a time, without copies of all
        maps = torch.rand(self.batch_size, *self.shape, device=device)
        labels = torch.randint(self.num_classes, (self.batch_size,), device=device)

        def step() -> Tensor:
            optimizer.zero_grad()
            loss: Tensor = criterion(net(maps), labels)
            loss.backward()
            optimizer.step()
            return loss.detach()

        return step

    @property
    def law(self) -> Law:
        """What the step needs; known after `build`."""
        return law(self.name, self.parameters, self.batch_size, self.num_classes, self.shape)

    def held(self) -> int:
        """Return the most bytes that tensors hold at once on the CPU, from building the head to its second step."""

        def two_steps() -> None:
            step = self.build(torch.device("cpu"))
            step()
            step()

        return most_held(two_steps)

    @override
    def facts(self) -> dict[str, Any]:
        held = self.held()
        found = self.law
        named = {f"{part}_mib": size / MIB for part, size in found._asdict().items()}
        return {"parameters": self.parameters, "held_mib": held / MIB, "law_mib": found.bytes / MIB, **named}


def options() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parsed = parser("heads", __doc__)
    add_turns(parsed, repeats=5, warmup=1)
    add_inner(parsed)
    parsed.add_argument("--heads", nargs="+", choices=HEADS, default=list(HEADS), help="default: all of them")
    parsed.add_argument("--batch_size", type=positive, default=8, help="images in a step (default: %(default)s)")
    parsed.add_argument("--num_classes", type=positive, default=1000, help="default: %(default)s")
    return parsed


def main() -> None:
    """Measure, print the table, write the JSON."""
    arguments = options().parse_args()
    with ExitStack() as session:  # fresh processes, whose peaks are their own
        workers = {name: session.enter_context(Worker(setting(arguments))) for name in arguments.heads}
        start(workers, {name: HeadStep(name, arguments.batch_size, arguments.num_classes) for name in workers})
        times = interleave(workers, arguments.repeats, arguments.warmup, inner(arguments))
        found = {name: {"ms": spread(times[name]), **worker.summary()} for name, worker in workers.items()}
    for name, each in found.items():
        memory = "" if each["peak_mib"] is None else f"{each['peak_mib']:8.0f} MiB,"
        votes = f", votes would take {each['stored_votes_mib']:,.0f}" if each["stored_votes_mib"] else ""
        held = f"tensors {each['held_mib']:.0f} of the derived {each['law_mib']:.0f} MiB"
        print(f"{name:10}{each['ms']['median']:9.0f} ms {memory} {held}{votes}")
    write(arguments, found)


if __name__ == "__main__":
    main()
