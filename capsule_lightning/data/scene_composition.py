"""Put cut-outs together to scenes: plain functions of cut-outs and of uniform random numbers, on any device."""

from __future__ import annotations

from math import ceil, pi, sqrt
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

TRIES = 12
"""Places that are tried for an object, until no more of it is hidden than may be."""
OF_SCENE, OF_OBJECT = 2, 7 + 2 * TRIES
"""Random numbers of a scene (number of objects, background), and of each object in it."""
CUTOUT, SIZE, ANGLE, DEPTH, COLOR, PLACES = 0, 1, 2, 3, 4, 7
"""Where the random numbers of an object begin: which cut-out it is, ..., three of its color, the places to try."""


class Rules(NamedTuple):
    """What a scene may be like.

    Attributes:
        side: rows and columns of the canvas.
        channels: 1 for gray, 3 for color.
        objects: fewest and most objects.
        sizes: least and greatest size of an object: the longer side of its box before it is turned, in pixels.
        degrees: largest rotation in either direction.
        occlusion: most of an object, in [0, 1], that nearer ones may hide.
    """

    side: int = 64
    channels: int = 1
    objects: tuple[int, int] = (3, 6)
    sizes: tuple[float, float] = (14.0, 22.0)
    degrees: float = 30.0
    occlusion: float = 0.25

    @property
    def num_draws(self) -> int:
        """Random numbers of a scene, K."""
        return OF_SCENE + self.objects[1] * OF_OBJECT

    def of_objects(self, draws: Tensor) -> Tensor:
        """Return the random numbers ``(B, N, OF_OBJECT)`` of the objects, of draws ``(B, K)``."""
        return draws[:, OF_SCENE:].reshape(len(draws), self.objects[1], OF_OBJECT)


class Scenes(NamedTuple):
    """Scenes, and the truth about them.

    Attributes:
        pictures: ``(B, C, H, W)`` in [0, 1].
        owners: ``(B, H, W)`` int64, which object is seen at a pixel: 1 to N, nearest first, 0 for the background.
        present: ``(B, N)`` bool, whether there is an Nth object.
        boxes: ``(B, N, 4)``, left, top, right and bottom edge of what an object would show if nothing hid it.
        poses: ``(B, N, 5)``, see `capsule_lightning.data.targets.SceneBatch`.
        hidden: ``(B, N)``, the share of each object in [0, 1] that nearer ones hide.
    """

    pictures: Tensor
    owners: Tensor
    present: Tensor
    boxes: Tensor
    poses: Tensor
    hidden: Tensor


def compose(cutouts: Tensor, draws: Tensor, rules: Rules, grounds: Tensor | None = None) -> Scenes:
    """Place objects on a canvas, nearest first, each where nearer ones hide no more of it than they may.

    An object is what is more than half opaque. One that finds no such place, or of which nothing is left, is absent.

    Args:
        cutouts: ``(B, N, A, h, w)`` in [0, 1], as many as the rules allow objects: the last of the A channels is the
            opacity, the others are gray or color; if it is the only one, the object is of one random color.
        draws: ``(B, K)`` in [0, 1).
        rules: what scenes may be like.
        grounds: ``(B, C, H, W)`` in [0, 1], what is behind the objects; None for black.

    Returns:
        The scenes.
    """
    device, batch, most = cutouts.device, len(cutouts), rules.objects[1]
    chance = rules.of_objects(draws)
    least = rules.objects[0]
    count = least + (draws[:, 0] * (most - least + 1)).long()
    size = rules.sizes[0] + chance[..., SIZE] * (rules.sizes[1] - rules.sizes[0])
    angle = (2 * chance[..., ANGLE] - 1) * rules.degrees * pi / 180
    number = torch.arange(most, device=device)
    depth = (number + chance[..., DEPTH]) / count.unsqueeze(1)
    patches = turned(cutouts, size, angle, ceil(rules.sizes[1] * sqrt(2)) + 2)
    colors, opacity = patches[:, :, :-1], patches[:, :, -1]  # (B, N, A - 1, P, P), (B, N, P, P)
    if cutouts.shape[2] == 1:
        colors = (0.4 + 0.6 * chance[..., COLOR : COLOR + rules.channels])[..., None, None]
    solid = opacity > 0.5
    inner = tight_boxes(solid)  # (B, N, 4), within the patch
    present = (number < count.unsqueeze(1)) & solid.any(dim=(2, 3))

    canvas = Canvas(batch, rules, opacity.shape[-1], opacity)
    room = (rules.side - (inner[..., 2:] - inner[..., :2])).clamp_min(0).unsqueeze(2)  # (B, N, 1, 2)
    edges = (torch.unflatten(chance[..., PLACES:], 2, (TRIES, 2)) * (room + 1)).long()  # (B, N, T, 2), left and top
    starts = edges - inner[:, :, None, :2]  # of the patch
    corners, shares = [], []
    for n in range(most):
        chosen, share = canvas.first_free(solid[:, n], starts[:, n], present[:, n], rules.occlusion)
        present[:, n] &= share <= rules.occlusion
        mine = torch.arange(batch, device=device)
        color = colors[:, n].flatten(2).expand(-1, rules.channels, solid[0, 0].numel())
        canvas.put(n + 1, opacity[:, n], color, solid[:, n], starts[mine, n, chosen], present[:, n])
        corners.append(edges[mine, n, chosen])
        shares.append(share)

    pictures, clear, owners = canvas.inside()
    if grounds is not None:
        pictures = pictures + clear * grounds
    corner = torch.stack(corners, dim=1)
    boxes = torch.cat([corner, corner + inner[..., 2:] - inner[..., :2]], dim=2).clamp(0, rules.side).to(opacity.dtype)
    center = corner - inner[..., :2] + opacity.shape[-1] / 2
    poses = torch.cat([center, torch.stack([size, angle, depth], dim=2)], dim=2)
    here = present.unsqueeze(2)
    return Scenes(
        pictures.clamp(0, 1),
        owners,
        present,
        boxes * here,
        poses * here,
        torch.stack(shares, dim=1) * present,
    )


class Canvas:
    """What has been put on a batch of canvases so far, nearest first, with a rim that patches may reach into.

    Args:
        batch: number of canvases, B.
        rules: their sizes.
        width: rows and columns of a patch, P.
        like: a tensor of the device and the type of the light.
    """

    def __init__(self, batch: int, rules: Rules, width: int, like: Tensor) -> None:
        self.side, self.width, self.full = rules.side, width, rules.side + 2 * width
        window = torch.arange(width, device=like.device)
        self.window = (window.unsqueeze(1) * self.full + window).flatten()  # (P * P), places in the flat canvas
        self.light = like.new_zeros(batch, rules.channels, self.full**2)
        self.clear = like.new_ones(batch, self.full**2)  # what may still be seen of things further away
        self.owners = torch.zeros(batch, self.full**2, dtype=torch.uint8, device=like.device)

    def places(self, starts: Tensor) -> Tensor:
        """Return the places ``(R, P * P)`` in the flat canvas of patches that start at columns and rows ``(R, 2)``."""
        left, top = (starts + self.width).unbind(dim=1)
        return (top * self.full + left).unsqueeze(1) + self.window

    def first_free(self, solid: Tensor, starts: Tensor, present: Tensor, most: float) -> tuple[Tensor, Tensor]:
        """Return the first of T places where no more of an object is hidden than may be; the last if there is none.

        Args:
            solid: ``(B, P, P)`` bool, the objects.
            starts: ``(B, T, 2)``, columns and rows where their patches start.
            present: ``(B)`` bool, whether there is an object.
            most: greatest share of it that may be hidden.

        Returns:
            The place ``(B)`` int64, and the share ``(B)`` that is hidden there.
        """
        area = solid.flatten(1)
        chosen, shares = starts.new_zeros(len(starts)), self.clear.new_zeros(len(starts))
        rows = present.nonzero()[:, 0]
        for n in range(starts.shape[1]):  # few need more than two
            taken = self.owners[rows].gather(1, self.places(starts[rows, n])) > 0
            share = (taken & area[rows]).sum(dim=1) / area[rows].sum(dim=1)
            chosen[rows], shares[rows] = n, share.to(shares)
            rows = rows[share > most]
            if not len(rows):
                break
        return chosen, shares

    def put(self, owner: int, opacity: Tensor, color: Tensor, solid: Tensor, starts: Tensor, present: Tensor) -> None:
        """Put one object on each canvas, behind what is there.

        Args:
            owner: its number.
            opacity: ``(B, P, P)``.
            color: ``(B, C, P * P)``.
            solid: ``(B, P, P)`` bool, where the object is.
            starts: ``(B, 2)``, column and row where its patch starts.
            present: ``(B)`` bool, whether there is one.
        """
        place = self.places(starts)
        through = self.clear.gather(1, place)
        seen = opacity.flatten(1) * present.unsqueeze(1)
        channel = place.unsqueeze(1).expand(-1, self.light.shape[1], -1)
        self.light.scatter_add_(2, channel, (seen * through).unsqueeze(1) * color)
        self.clear.scatter_(1, place, through * (1 - seen))
        before = self.owners.gather(1, place)
        mark = (before == 0) & solid.flatten(1) & present.unsqueeze(1)
        self.owners.scatter_(1, place, before.masked_fill(mark, owner))

    def inside(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return light ``(B, C, H, W)``, what shines through ``(B, 1, H, W)`` and owners ``(B, H, W)`` int64."""
        within = slice(self.width, self.width + self.side)
        light, clear, owners = (
            torch.unflatten(each, -1, (self.full, self.full))[..., within, within]
            for each in (self.light, self.clear, self.owners)
        )
        return light, clear.unsqueeze(1), owners.long()


def turned(cutouts: Tensor, size: Tensor, angle: Tensor, width: int) -> Tensor:
    """Scale and turn cut-outs about the center of what is opaque in them; bilinear.

    Args:
        cutouts: ``(B, N, A, h, w)``, the last channel is the opacity.
        size: ``(B, N)``, pixels of the longer side of the opaque part's box, before it is turned.
        angle: ``(B, N)``, radians, clockwise as seen.
        width: rows and columns of the result, P.

    Returns:
        ``(B, N, A, P, P)``.
    """
    rows, columns = cutouts.shape[-2:]
    boxes = tight_boxes(cutouts[:, :, -1] > 0.5).to(size.dtype)
    center, extent = (boxes[..., :2] + boxes[..., 2:]) / 2, (boxes[..., 2:] - boxes[..., :2]).amax(dim=2)
    shrink = extent.clamp_min(1) / size  # pixels of the cut-out for one of the result
    cosine, sine = angle.cos() * shrink, angle.sin() * shrink
    step = torch.arange(width, device=size.device, dtype=size.dtype) - (width - 1) / 2
    across, down = step, step.unsqueeze(1)  # (P), (P, 1)
    cosine, sine = cosine[..., None, None], sine[..., None, None]
    column = cosine * across + sine * down + center[..., 0, None, None]
    row = cosine * down - sine * across + center[..., 1, None, None]
    grid = torch.stack([2 * column / columns - 1, 2 * row / rows - 1], dim=-1)  # (B, N, P, P, 2)
    found = F.grid_sample(cutouts.flatten(0, 1), grid.flatten(0, 1), align_corners=False)
    return torch.unflatten(found, 0, cutouts.shape[:2])


def tight_boxes(masks: Tensor) -> Tensor:
    """Return left, top, right and bottom edge ``(..., 4)`` int64 of what masks ``(..., H, W)`` bool hold; 0 if nothing.

    Example:
        >>> mask = torch.zeros(4, 6, dtype=torch.bool)
        >>> mask[1:3, 2:6] = True
        >>> tight_boxes(mask).tolist()
        [2, 1, 6, 3]
    """
    edges = []
    for along in (masks.any(dim=-2), masks.any(dim=-1)):  # columns, rows
        first = along.int().argmax(dim=-1)
        last = along.shape[-1] - along.flip(-1).int().argmax(dim=-1)
        edges.append((first, last * along.any(dim=-1)))
    (left, right), (top, bottom) = edges
    return torch.stack([left, top, right, bottom], dim=-1)
