"""How well boxes are found: COCO's average precision."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torchmetrics.detection import MeanAveragePrecision
from torchmetrics.utilities.distributed import gather_all_tensors
from typing_extensions import override

from capsule_lightning.errors import InputError

BACKENDS = {"faster_coco_eval": "faster_coco_eval", "pycocotools": "pycocotools"}
"""What computes the precision, the fastest first, and the package that it is in."""
STATES = {
    "detection_box": (torch.float32, 4),
    "detection_scores": (torch.float32, 0),
    "detection_labels": (torch.int64, 0),
    "groundtruth_box": (torch.float32, 4),
    "groundtruth_labels": (torch.int64, 0),
    "groundtruth_crowds": (torch.int64, 0),
    "groundtruth_area": (torch.float32, 0),
}
"""What torchmetrics keeps of each image: lists of tensors of this kind, and how many numbers there are for each box."""


class BoxPrecision(MeanAveragePrecision):
    """One of COCO's average precisions of boxes, a number in [0, 1] as torchmetrics computes it.

    Args:
        key: ``map``, the mean over classes and over overlaps from 0.50 to 0.95; ``map_50`` or ``map_75``, at one
            overlap.

    Raises:
        InputError: neither faster-coco-eval nor pycocotools is installed.

    Source: Lin et al., Microsoft COCO: Common Objects in Context, ECCV 2014 (arXiv 1405.0312); cocodataset.org,
    detection evaluation.
    """

    higher_is_better = True

    def __init__(self, key: str = "map") -> None:
        backend = next((name for name, package in BACKENDS.items() if find_spec(package)), None)
        if backend is None:
            raise InputError(
                "average precision is computed by faster-coco-eval, which is not installed: "
                "pip install 'capsule_lightning[detection]'"
            )
        super().__init__(box_format="xyxy", iou_type="bbox", backend=backend)  # type: ignore[arg-type]
        self.warn_on_many_detections = False
        self.key = key

    @override
    def compute(self) -> Tensor:  # type: ignore[override]
        """Return the precision; 0 if there is nothing to find."""
        found: Tensor = super().compute()[self.key]
        return found.clamp_min(0)

    @override
    def _sync_dist(
        self, dist_sync_fn: Callable[..., list[Tensor]] | None = None, process_group: Any | None = None
    ) -> None:
        """Gather the images of all processes, which need not have the same number.

        torchmetrics gathers one image after the other, so that processes with fewer images are missed by the others.
        """
        gather = dist_sync_fn or gather_all_tensors
        group = process_group or self.process_group
        for name, (kind, numbers) in STATES.items():
            images: list[Tensor] = getattr(self, name)
            counts = torch.tensor([len(image) for image in images], dtype=torch.int64, device=self.device)
            joined = torch.cat([image.to(self.device, kind).flatten() for image in images] or [counts.to(kind)])
            everywhere = zip(gather(counts, group=group), gather(joined, group=group), strict=True)
            found: list[Tensor] = []
            for of_images, values in everywhere:
                rows = values.view(-1, numbers) if numbers else values
                found += torch.split(rows, of_images.tolist())
            setattr(self, name, found)
