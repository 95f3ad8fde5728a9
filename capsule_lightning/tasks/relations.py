"""Sentences whose relations a knowledge base suggests: what they say about pairs of entities, measured as facts.

Mintz, Bills, Snow & Jurafsky, Distant Supervision for Relation Extraction without Labeled Data, ACL 2009.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, cast

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import nn
from typing_extensions import override

from capsule_lightning.data.relation_store import RelationBatch
from capsule_lightning.errors import require, some_of
from capsule_lightning.losses.base import ClassificationLoss
from capsule_lightning.losses.sliding_margin import SlidingMarginLoss
from capsule_lightning.metrics.accuracy import Accuracy
from capsule_lightning.metrics.base import Metrics
from capsule_lightning.metrics.relations import HeldOutFacts
from capsule_lightning.models.base import CapsuleNet
from capsule_lightning.models.relation_capsnet import RelationCapsNet
from capsule_lightning.schedules import ExponentialDecay
from capsule_lightning.tasks.base import ScheduleCallable
from capsule_lightning.tasks.classification import ClassificationTask
from capsule_lightning.tasks.image_classification import Prediction


class RelationTask(ClassificationTask):
    """Say which relation a sentence states between its two entities, and how well that finds facts.

    A fact is a pair of entities with a relation that some sentence of the pair is labeled with. It is scored by the
    largest activation that the relation has in a sentence of the pair. Validation and test have the area under the
    curve of precision and recall, ``fact_auc``, which selects the best state, and ``fact_precision_at_<k>``, the
    precision of the k highest; see `HeldOutFacts`. The metrics of sentences are those of `ClassificationTask`.

    Args:
        in_shape, num_classes: see `ClassificationTask`; stated by the data.
        net, loss, optimizer, lr_scheduler, skip_not_finite, metrics: see `ClassificationTask`.
        no_relation: name of the class of no relation, which is no fact.
        at: the numbers k of the highest facts.

    Raises:
        InputError: the data have no class of that name, ``at`` has a number below 1, or what `ClassificationTask`
            refuses.
    """

    selected_by = ("fact_auc", "max")

    def __init__(
        self,
        in_shape: tuple[int, ...],
        num_classes: int,
        net: Callable[[tuple[int, ...], int], CapsuleNet] = RelationCapsNet,
        loss: Callable[[], ClassificationLoss] = SlidingMarginLoss,
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_scheduler: ScheduleCallable | None = ExponentialDecay,
        skip_not_finite: int = 0,
        metrics: Callable[[int], Metrics] = Accuracy,
        no_relation: str = "NA",
        at: Sequence[int] = (100, 200, 300),
    ) -> None:
        super().__init__(in_shape, num_classes, net, loss, 0.0, optimizer, lr_scheduler, skip_not_finite, metrics)
        require(min(at, default=1) >= 1, f"at={list(at)}: expected numbers of facts, such as 100")
        self.save_hyperparameters(logger=False)
        self.no_relation = no_relation
        self.facts = nn.ModuleDict({stage: HeldOutFacts(0, at) for stage in ("val", "test")})

    @override
    def setup(self, stage: str) -> None:
        super().setup(stage)
        names = list(getattr(getattr(self.trainer, "datamodule", None), "class_names", []))
        if stage == "predict" or not names:
            return
        require(
            self.no_relation in names,
            f"no_relation={self.no_relation}: the relations are {some_of(names)}; set --model.no_relation to the one "
            "that says there is none, or take --model ClassificationTask",
        )
        for metric in self.facts.values():
            cast(HeldOutFacts, metric).none = names.index(self.no_relation)

    @override
    def validation_step(self, batch: RelationBatch, batch_idx: int) -> Prediction:  # type: ignore[override]
        prediction: Prediction = super().validation_step(batch, batch_idx)
        return self._counted(prediction, batch, "val")

    @override
    def test_step(self, batch: RelationBatch, batch_idx: int) -> Prediction:  # type: ignore[override]
        return self._counted(super().test_step(batch, batch_idx), batch, "test")  # type: ignore[arg-type]

    def _counted(self, prediction: Prediction, batch: RelationBatch, stage: Literal["val", "test"]) -> Prediction:
        cast(HeldOutFacts, self.facts[stage]).update(prediction.activations, batch.labels, batch.bags)
        return prediction

    @override
    def on_validation_epoch_start(self) -> None:
        cast(HeldOutFacts, self.facts["val"]).reset()

    @override
    def on_validation_epoch_end(self) -> None:
        self._log_facts("val")

    @override
    def on_test_epoch_start(self) -> None:
        super().on_test_epoch_start()
        cast(HeldOutFacts, self.facts["test"]).reset()

    @override
    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        self._log_facts("test")

    def _log_facts(self, stage: Literal["val", "test"]) -> None:
        for name, value in cast(HeldOutFacts, self.facts[stage]).compute().items():
            self.log(f"{stage}/fact_{name}", value.to(self.device), sync_dist=True)  # equal on all processes
