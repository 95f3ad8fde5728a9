"""The pictures of the README: what a network paints, what its numbers do, where its poses lie and its votes come from.

Those of the network that comes with the package, on MNIST, and those of the network of mnist.yaml, trained before:
    python notebooks/readme_pictures.py --pictures dimensions dials poses
    python notebooks/readme_pictures.py --pictures reconstructions votes --ckpt_path runs/mnist/ID/checkpoints/last.ckpt
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from capsule_lightning.analysis.class_routing import child_map, class_routing, couplings_by_iteration, vote_maps
from capsule_lightning.analysis.probe import move, probe_network, thicken
from capsule_lightning.errors import InputError
from capsule_lightning.figures.animation import pixels
from capsule_lightning.figures.couplings import child_figure, coupling_animation
from capsule_lightning.figures.perturbations import (
    class_pictures,
    dial_animation,
    perturbation_figure,
    perturbed_pictures,
)
from capsule_lightning.figures.poses import picture_plane_figure, principal_components
from capsule_lightning.figures.reconstructions import reconstruction_figure
from capsule_lightning.report import TrainedNetwork, load_from_file, load_from_run
from capsule_lightning.report.measured import TestOutputs, measure, spread_over_classes
from capsule_lightning.sharing.network_file import is_shared

NETWORK = "efficient_capsnet_mnist"
PICTURES = ("reconstructions", "dimensions", "dials", "poses", "votes")
PROBED, FITTED = 300, 1000  # images of all classes together, for the probe and for the dials
IN_PLANE = 500
STEPS = tuple(round(0.08 * n, 2) for n in range(-5, 6))
AMOUNTS = tuple(0.25 * n for n in range(-3, 4))
"""How far the dials turn; 1 is from one change to its opposite."""
CHANGES: dict[str, tuple[Callable[[Tensor, float], Tensor], float, float]] = {
    "thicker": (thicken, -0.5, 0.5),
    "turned": (lambda images, v: move(images, angle=v), -20, 20),
    "slanted": (lambda images, v: move(images, shear=v), -20, 20),
    "larger": (lambda images, v: move(images, scale=v), 0.8, 1.2),
}


class Pictures:
    """Draws what a network has learnt.

    Args:
        trained: the network and its test images.

    Raises:
        InputError: a network without a decoder, or one that names no image rightly.
    """

    def __init__(self, trained: TrainedNetwork) -> None:
        self.net, self.normalize, self.names = trained.net, trained.normalize, trained.class_names
        self.pictures, self.labels = trained.pictures, trained.labels
        self.found: TestOutputs = measure(self.net, self.normalize, self.pictures)
        if self.net.decoder is None or self.found.reconstructions is None:
            raise InputError(f"{trained.title}: has no decoder to paint pictures; choose a network with one")
        self.decoder, self.painted = self.net.decoder, self.found.reconstructions
        self.classes = self.found.activations.argmax(dim=-1)
        self.right = (self.classes == self.labels).nonzero()[:, 0]
        named = sorted(set(self.labels[self.right].tolist()))
        if not named:
            raise InputError(f"{trained.title}: names none of the test images rightly; train it first")
        self.typical = {label: self.nearest_mean(label) for label in named}
        self.one_each = torch.tensor(list(self.typical.values()))

    def nearest_mean(self, label: int) -> int:
        """The rightly named image of a class whose pose is nearest the mean of all of them."""
        own = self.right[self.labels[self.right] == label]
        poses = self.found.poses[own, label]
        return int(own[(poses - poses.mean(dim=0)).norm(dim=-1).argmin()])

    def reconstructions(self) -> Figure:
        """The first twenty test images."""
        some = slice(20)
        return reconstruction_figure(
            self.pictures[some],
            self.painted[some],
            [self.names[n] for n in self.labels[some]],
            [self.names[n] for n in self.classes[some]],
            self.found.activations[some].amax(dim=-1).tolist(),
            "Test images, and what the network paints of them",
        )

    def dimensions(self) -> Figure:
        """Of each parameter of the probe, the class and the number that tell most of it, no class twice."""
        some = spread_over_classes(self.labels, PROBED)
        probe = probe_network(self.net, self.normalize, self.pictures[some], self.labels[some])
        r2 = probe.of_class.clone()  # (K, E, P)
        for k, label in enumerate(probe.classes):
            if label not in self.typical:
                r2[k] = -torch.inf
        rows, names, notes = [], [], []
        for p, parameter in enumerate(probe.parameters):
            if not r2.isfinite().any():
                break  # more parameters than classes
            k, e = divmod(int(r2[..., p].argmax()), r2.shape[1])
            label, told = probe.classes[k], float(r2[k, e, p])
            r2[k] = -torch.inf
            pose = self.found.poses[self.typical[label], label]
            rows.append(perturbed_pictures(self.decoder, pose, label, len(self.names), STEPS)[e])
            names.append(f"{self.names[label]}, number {e + 1}")
            notes.append(f"{parameter}, R² {told:.2f}")
        title = "One number of a capsule moved, all others left alone"
        return perturbation_figure(None, torch.stack(rows), title, STEPS, notes, names)

    def dials(self) -> bytes:
        """Directions in the space of the poses that change an image of each class as their names say."""
        some = spread_over_classes(self.labels, FITTED)
        labels, count = self.labels[some], len(self.names)
        ends = []
        for change, low, high in CHANGES.values():
            both = [measure(self.net, self.normalize, change(self.pictures[some], v)).poses for v in (low, high)]
            ends.append((both[1] - both[0])[torch.arange(len(some)), labels])
        differences = torch.stack(ends)  # (R, N, E)
        columns = []
        for label, image in self.typical.items():
            directions = differences[:, labels == label].mean(dim=1)  # (R, E)
            poses = self.found.poses[image, label] + torch.tensor(AMOUNTS)[:, None, None] * directions  # (V, R, E)
            columns.append(class_pictures(self.decoder, poses, label, count))
        title = "Painted from 16 numbers, which turn four dials"
        return dial_animation(torch.stack(columns, dim=2), title, list(CHANGES))

    def poses(self) -> Figure:
        """The images of one class, where their poses lie."""
        label = min(2, len(self.names) - 1)
        some = self.right[self.labels[self.right] == label][:IN_PLANE]
        plane = principal_components(self.found.poses[some, label])
        return picture_plane_figure(plane, self.pictures[some], f"Test images of a {self.names[label]} by their poses")

    def votes(self) -> Figure | bytes | None:
        """Couplings with the true class over the image, iteration by iteration; with all classes without places.

        None for a network that routes nothing to its classes.
        """
        some = self.one_each
        seen = class_routing(self.net, self.normalize(self.pictures[some]))
        if seen is None:
            return None
        couplings, names = couplings_by_iteration(seen), [self.names[n] for n in self.labels[some]]
        places = child_map(self.net)
        if places is None:
            five = slice(0, len(some), 2)
            title = "How much each child's vote counts for each class"
            return child_figure(self.pictures[some][five], couplings[-1][five], names[five], self.names, title)
        activations = seen.children.activations.reshape(couplings.shape[1:-1])
        maps = vote_maps(couplings, activations, places)  # (T, B, J, rows, columns)
        own = maps[:, torch.arange(len(some)), self.labels[some]]
        full = float(own.abs().quantile(0.97))
        title = "Where the votes for the true class come from"
        return coupling_animation(self.pictures[some], own, names, title, places.extent, full)


def write(drawn: Figure | bytes, path: Path) -> Path:
    """A figure as PNG, an animation as it is; gives back the path with its ending."""
    if isinstance(drawn, Figure):
        return save(drawn, path.with_suffix(".png"))
    path = path.with_suffix(".gif")
    path.write_bytes(drawn)
    return path


def save(figure: Figure, path: Path, colors: int = 256) -> Path:
    """A PNG with a palette, which is smaller."""
    Image.fromarray(pixels(figure, dpi=110)).quantize(colors).save(path, optimize=True)
    return path


def main(words: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--ckpt_path", default=NETWORK, help="checkpoint, .safetensors or shipped (default: %(default)s)"
    )
    parser.add_argument("--pictures", nargs="+", choices=PICTURES, default=PICTURES, help="default: all")
    parser.add_argument("--root", help="folder of the data (default: $CAPSULE_LIGHTNING_DATA, or data)")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="folder (default: %(default)s)")
    options = parser.parse_args(words)
    source = options.ckpt_path
    try:
        shared = is_shared(source)
        trained = load_from_file(source, options.root) if shared else load_from_run(Path(source), options.root)
        pictures = Pictures(trained)
    except InputError as error:
        parser.error(str(error))
    options.output.mkdir(parents=True, exist_ok=True)
    for name in options.pictures:
        drawn = getattr(pictures, name)()
        if drawn is not None:
            path = write(drawn, options.output / name)
            print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
