"""How sure a network may be: learned from validation images, told of test images, and used by predictions."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any, NamedTuple

import lightning as L
import torch
from torch import Tensor
from typing_extensions import override

from capsule_lightning.analysis.calibration import (
    at_temperature,
    conformal_sets,
    conformal_threshold,
    coverage_by_class,
    temperature,
)
from capsule_lightning.callbacks.collected import of_all_processes, offers
from capsule_lightning.errors import require
from capsule_lightning.metrics.probabilities import CalibrationError
from capsule_lightning.tasks.classification import ClassificationTask


class Calibrated(NamedTuple):
    """What validation images say about the scores of a network.

    Attributes:
        temperature: by which the logarithms of the scores are divided, in [0.01, 100].
        threshold: probability from which on a class belongs to the set of an image.
        coverage: share of the sets that should hold the true class.
    """

    temperature: float
    threshold: float
    coverage: float

    def probabilities(self, scores: Tensor) -> Tensor:
        """Return probabilities ``(B, J)`` float64 of scores ``(B, J)``."""
        return at_temperature(scores, self.temperature)

    def sets(self, scores: Tensor) -> Tensor:
        """Return which classes belong to the set of each image, ``(B, J)`` bool, of scores ``(B, J)``."""
        return conformal_sets(self.probabilities(scores), self.threshold)


class Calibration(L.Callback):
    """Learn from each validation a temperature and conformal sets of classes; checkpoints hold them.

    A test with such a checkpoint then logs ``test/coverage``, the share of the sets that hold the true class,
    ``test/coverage/<class>`` of each class, ``test/set_size``, the mean number of classes in a set, and
    ``test/calibration_error_at_temperature``, to be compared with ``test/calibration_error`` of `ClassMetrics`.
    Predictions get the probability of the predicted class and the set of classes, see `PredictionTable`.

    The coverage is promised for images that are drawn as the validation images were, and not quite: these also select
    the checkpoint. Of images of several labels, and of tasks other than `ClassificationTask`, nothing is learned.

    Args:
        coverage: share of the sets that should hold the true class, in (0, 1), such as 0.9; null to learn nothing, and
            to use what a checkpoint holds.

    Raises:
        InputError: ``coverage`` out of range.

    Source: `capsule_lightning.analysis.calibration` names the papers.
    """

    def __init__(self, coverage: float | None = None) -> None:
        require(
            coverage is None or 0 < coverage < 1,
            f"Calibration: coverage={coverage}: expected a probability between 0 and 1, such as 0.9",
        )
        self.coverage = coverage
        self.found: Calibrated | None = None
        self._seen: list[tuple[Tensor, Tensor, Tensor]] = []  # places, scores and labels of each batch

    @override
    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._seen = []

    @override
    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        if self.coverage is not None and trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._see(pl_module, outputs, batch)

    @override
    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Learn from the images of all processes, before the checkpoint of this validation is saved."""
        if self.coverage is None:
            return
        scores, labels = self._all(trainer)
        if len(labels):
            found = temperature(scores, labels)
            threshold = conformal_threshold(at_temperature(scores, found), labels, self.coverage)
            self.found = Calibrated(found, threshold, self.coverage)

    @override
    def on_test_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._seen = []

    @override
    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        if self.found is not None:
            self._see(pl_module, outputs, batch)

    @override
    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log what the sets are worth on all test images, the same on every process."""
        if self.found is None:
            return
        scores, labels = self._all(trainer)
        if not len(labels):
            return
        sets, error = self.found.sets(scores), CalibrationError()
        error.update(self.found.probabilities(scores), labels)
        held = sets.gather(1, labels.unsqueeze(1)).flatten()
        values = {
            "coverage": held.double().mean(),
            "set_size": sets.sum(dim=1).double().mean(),
            "calibration_error_at_temperature": error.compute(),
        }
        names = trainer.datamodule.class_names  # type: ignore[attr-defined]
        by_class = zip(names, coverage_by_class(sets, labels), strict=True)
        values |= {f"coverage/{name}": share for name, share in by_class if not share.isnan()}
        for name, value in values.items():
            pl_module.log(f"test/{name}", value.float().to(pl_module.device), sync_dist=True)

    def _see(self, task: L.LightningModule, outputs: Any, batch: Any) -> None:
        if not (offers(outputs, "activations") and offers(batch, "labels", "indices")):
            return
        if isinstance(task, ClassificationTask) and batch.labels.ndim == 1:
            scores = task.loss.probabilities(outputs.activations).cpu().double()
            self._seen.append((batch.indices.cpu(), scores, batch.labels.cpu()))

    def _all(self, trainer: L.Trainer) -> tuple[Tensor, Tensor]:
        """Return scores ``(N, J)`` float64 and labels ``(N)`` of all processes, in the order of the images."""
        seen, self._seen = of_all_processes(trainer, self._seen), []
        if not seen:
            return torch.empty(0, 0), torch.empty(0)
        places, scores, labels = (torch.cat(parts) for parts in zip(*seen, strict=True))
        order = places.argsort()
        return scores[order], labels[order]

    @override
    def state_dict(self) -> dict[str, Any]:
        """Return what was learned, empty before."""
        return {} if self.found is None else self.found._asdict()

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what a checkpoint holds, unless it is not in its form."""
        self.found = read_calibrated(state_dict)


def read_calibrated(said: Mapping[str, Any]) -> Calibrated | None:
    """Return what a checkpoint says of its network's scores; None if it says nothing, or something else.

    Example:
        >>> read_calibrated({"temperature": 1.5, "threshold": 0.2, "coverage": 0.9})
        Calibrated(temperature=1.5, threshold=0.2, coverage=0.9)
        >>> read_calibrated({"temperature": "high"}) is None
        True
    """
    values = [said.get(name) for name in Calibrated._fields] if isinstance(said, Mapping) else [None]
    if not all(isinstance(value, float) for value in values):
        return None
    found = Calibrated(*values)  # type: ignore[arg-type]
    return found if isfinite(found.temperature) and found.temperature > 0 else None
