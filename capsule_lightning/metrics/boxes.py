"""How well boxes are found: COCO's average precision."""

from __future__ import annotations

from importlib.util import find_spec

from torch import Tensor
from torchmetrics.detection import MeanAveragePrecision
from typing_extensions import override

from capsule_lightning.errors import InputError

BACKENDS = {"faster_coco_eval": "faster_coco_eval", "pycocotools": "pycocotools"}
"""What computes the precision, the fastest first, and the package that it is in."""


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
