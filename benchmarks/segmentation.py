"""Measure a training step of SegCaps R3 beside the form that stores the votes of all positions, in the same run.

Both are the package's network with the same weights, loss and optimizer. ``stored`` forms the votes of a layer by one
convolution and routes them with plain autograd; ``blocks`` is how the network trains, some rows of a map at a time. The
results are milliseconds per step and peak memory above the runtime, for each size of the images.
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from measure import (
    PRECISIONS,
    Step,
    Worker,
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
    start,
    write,
)
from torch import Tensor
from typing_extensions import override

from capsule_lightning.losses.margin import margin_loss
from capsule_lightning.models.segcaps import BiasedDynamicRouting, SegCaps
from capsule_lightning.models.shared_kernel_capsules import SharedKernelCapsules

FORMS = ("stored", "blocks")


class SegmentationStep(Workload):
    """A training step of SegCaps R3 on gray images, with the paper's reconstruction.

    Args:
        form: ``stored`` or ``blocks``.
        size: rows and columns of an image.
        batch_size: images in a step.
        num_classes: classes with the background.
        precision: precision, as for the trainer.
    """

    def __init__(self, form: str, size: int, batch_size: int, num_classes: int, precision: str) -> None:
        self.form, self.size, self.batch_size = form, size, batch_size
        self.num_classes, self.precision = num_classes, precision

    @override
    def build(self, device: torch.device) -> Step:
        size, classes = self.size, self.num_classes
        routing = partial(BiasedDynamicRouting, backend="auto" if self.form == "blocks" else "torch")
        net = SegCaps((1, size, size), classes, routing=routing).to(device)
        self.parameters = sum(parameter.numel() for parameter in net.parameters())
        for layer in net.modules():
            if isinstance(layer, SharedKernelCapsules):
                layer.blocked = self.form == "blocks"
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-4)
        images = torch.rand(self.batch_size, 1, size, size, device=device)
        masks = torch.randint(classes, (self.batch_size, size, size), device=device)

        def step() -> Tensor:
            optimizer.zero_grad()
            with autocast(device, self.precision):
                capsules = net(images)
                pictures = net.reconstruct(capsules, masks)
            assert pictures is not None
            target = images * (masks > 0).unsqueeze(1)
            lengths = capsules.activations.flatten(0, 2)
            loss = margin_loss(lengths, masks.flatten()) + 0.1 * (pictures - target).square().mean()
            loss.backward()
            optimizer.step()
            return loss.detach()

        return step

    @override
    def facts(self) -> dict[str, Any]:
        return {"parameters": self.parameters}


def options() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parsed = parser("segmentation", __doc__)
    add_turns(parsed, repeats=5, warmup=1)
    add_inner(parsed)
    parsed.add_argument("--sizes", nargs="+", type=positive, default=[128, 256], help="rows and columns of the images")
    parsed.add_argument("--batch_size", type=positive, default=4, help="images (default: %(default)s)")
    parsed.add_argument("--num_classes", type=positive, default=2, help="with the background (default: %(default)s)")
    parsed.add_argument("--precision", choices=PRECISIONS, default="32-true", help="default: %(default)s")
    return parsed


def main() -> None:
    """Measure, print the table, write the JSON."""
    arguments = options().parse_args()
    found = []
    for size in arguments.sizes:
        with ExitStack() as session:  # fresh processes, whose peaks are their own
            workers = {form: session.enter_context(Worker(setting(arguments))) for form in FORMS}
            workloads = {
                form: SegmentationStep(form, size, arguments.batch_size, arguments.num_classes, arguments.precision)
                for form in FORMS
            }
            start(workers, workloads)
            times = interleave(workers, arguments.repeats, arguments.warmup, inner(arguments))
            steps = {form: {"ms": spread(times[form]), **worker.summary()} for form, worker in workers.items()}
        relative = {
            "time": ratio(times["blocks"], times["stored"]),
            "memory": memory_ratio(steps["blocks"]["peak_mib"], steps["stored"]["peak_mib"]),
        }
        found.append({"size": size, "steps": steps, "ratio": relative})
        for form, each in steps.items():
            memory = "" if each["peak_mib"] is None else f"{each['peak_mib']:8.0f} MiB"
            print(f"{size}x{size} {form:8}{each['ms']['median']:10.0f} ms{memory}  loss {each['loss']:.6f}")
        memory = "" if relative["memory"] is None else f", memory {relative['memory']:.2f}"
        print(f"{size}x{size} blocks / stored: time {relative['time']['median']:.2f}{memory}", flush=True)
    write(arguments, found)


if __name__ == "__main__":
    main()
