"""A body of capsules and spheres: its nodes, its limbs, and where they are for given rotations.

The proportions are those of the humanoid of Peng, Abbeel, Levine & van de Panne, DeepMimic, SIGGRAPH 2018 (arXiv
1804.02717), in meters: the body stands on the x-z plane, looks along x, its right hand side is along z, and y is up.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from capsule_lightning.data.skeletons import BODY_JOINTS, SIDES


class Node(NamedTuple):
    """A point of the body.

    Attributes:
        name: of the node.
        parent: name of the node that it hangs on; empty for the root.
        offset: where it is from there, in meters, when nothing is rotated.
    """

    name: str
    parent: str
    offset: tuple[float, float, float]


class Limb(NamedTuple):
    """A part of the body that is seen: all points within a radius of the line between two nodes.

    Attributes:
        start, end: names of the nodes; the same for a sphere.
        radius: in meters.
    """

    start: str
    end: str
    radius: float


def _side(side: str) -> tuple[Node, ...]:
    out = 1.0 if side == "right" else -1.0
    return (
        Node(f"{side}_hip", "pelvis", (0, 0, 0.0849 * out)),
        Node(f"{side}_knee", f"{side}_hip", (0, -0.4215, 0)),
        Node(f"{side}_ankle", f"{side}_knee", (0, -0.4099, 0)),
        Node(f"{side}_heel", f"{side}_ankle", (-0.01, -0.025, 0)),
        Node(f"{side}_toe", f"{side}_ankle", (0.115, -0.03, 0)),
        Node(f"{side}_shoulder", "chest", (-0.0241, 0.2435, 0.1831 * out)),
        Node(f"{side}_elbow", f"{side}_shoulder", (0, -0.2748, 0)),
        Node(f"{side}_wrist", f"{side}_elbow", (0, -0.2589, 0)),
    )


NODES = (
    Node("pelvis", "", (0, 0, 0)),
    Node("belly", "pelvis", (0, 0.07, 0)),
    Node("chest", "pelvis", (0, 0.2362, 0)),
    Node("breast", "chest", (0, 0.12, 0)),
    Node("neck", "chest", (0, 0.2239, 0)),
    Node("head", "neck", (0, 0.175, 0)),
    *_side("right"),
    *_side("left"),
)
"""The body's nodes, each after its parent."""
NUMBERS = {node.name: number for number, node in enumerate(NODES)}
"""Number of each node, by its name."""
JOINTS = torch.tensor([NUMBERS[name] for name in BODY_JOINTS])
"""Which nodes are the joints that a network is asked for, ``(K)`` int64."""
LIMBS = (
    Limb("belly", "belly", 0.09),
    Limb("belly", "breast", 0.085),
    Limb("breast", "breast", 0.11),
    Limb("breast", "head", 0.045),
    Limb("head", "head", 0.1025),
    Limb("right_shoulder", "left_shoulder", 0.05),
    Limb("right_hip", "left_hip", 0.07),
    *(
        Limb(f"{side}_{start}", f"{side}_{end}", radius)
        for side in SIDES
        for start, end, radius in (
            ("hip", "knee", 0.055),
            ("knee", "ankle", 0.05),
            ("heel", "toe", 0.045),
            ("shoulder", "elbow", 0.045),
            ("elbow", "wrist", 0.04),
        )
    ),
)
"""The body's limbs."""
LENGTHS = ("trunk", "hip", "shoulder", "knee", "ankle", "elbow", "wrist")
"""What is drawn for each body: by how much the offsets of these nodes are longer than usual; of both sides alike."""
_ENDS = torch.tensor([[NUMBERS[limb.start], NUMBERS[limb.end]] for limb in LIMBS])
_RADII = torch.tensor([limb.radius for limb in LIMBS])
_OFFSETS = torch.tensor([node.offset for node in NODES])


def offsets_of(size: Tensor, lengths: Tensor) -> Tensor:
    """Return the offsets of the nodes of bodies.

    Args:
        size: ``(F)``, size of each body; 1 is a man of 1.7 meters.
        lengths: ``(F, 7)``, factors of the lengths that `LENGTHS` names.

    Returns:
        ``(F, N, 3)`` meters.
    """
    ones = torch.ones_like(size)
    known = dict(zip(LENGTHS, lengths.unbind(dim=1), strict=True))
    trunk = {name: known["trunk"] for name in ("belly", "chest", "breast", "neck")}
    factors = [{**known, **trunk}.get(node.name.rpartition("_")[2], ones) for node in NODES]
    return _OFFSETS * torch.stack(factors, dim=1).unsqueeze(-1) * size[:, None, None]


def forward_kinematics(rotations: Tensor, offsets: Tensor) -> Tensor:
    """Return where the nodes are.

    Args:
        rotations: ``(F, N, 3, 3)``, rotation of each node in the frame of its parent; that of the root in the world.
        offsets: ``(F, N, 3)`` meters, see `offsets_of`.

    Returns:
        ``(F, N, 3)`` meters from the root. With R the product of the rotations from the root to the parent p, node n is
        at ``x[n] = x[p] + R[p] o[n]``.
    """
    places: list[Tensor] = []
    turned: list[Tensor] = []
    for number, node in enumerate(NODES):
        if not node.parent:
            places.append(torch.zeros_like(offsets[:, number]))
            turned.append(rotations[:, number])
            continue
        parent = NUMBERS[node.parent]
        places.append(places[parent] + (turned[parent] @ offsets[:, number].unsqueeze(-1)).squeeze(-1))
        turned.append(turned[parent] @ rotations[:, number])
    return torch.stack(places, dim=1)


def limbs_of(places: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """Return the ends ``(F, P, 2, 3)`` of the limbs of nodes at ``places (F, N, 3)``, and their radii ``(F, P)``."""
    return places[:, _ENDS], _RADII * size.unsqueeze(-1)
