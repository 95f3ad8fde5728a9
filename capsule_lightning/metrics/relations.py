"""Metrics for relations between entities: SemEval-2010 Task 8's, and held-out facts of bags of sentences."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy
from torchmetrics.utilities.data import dim_zero_cat
from typing_extensions import override

from capsule_lightning.errors import require
from capsule_lightning.metrics.base import Metrics


class DirectedF1(Metric):
    """Macro F1 of relations that have a direction, as the official scorer of SemEval-2010 Task 8 has it.

    Classes 2r and 2r + 1 are the two directions of relation r; the last class is ``Other``. A prediction is right if
    relation and direction are; precision and recall of a relation are of both its directions together, so that a wrong
    direction counts against both. ``Other`` has no F1 of its own. A relation that the truth does not have is left out.

    Args:
        num_classes: J, odd.

    Source: Hendrickx et al., SemEval-2010 Task 8, 2010: "(9+1)-way evaluation with directionality taken into account".
    """

    higher_is_better = True
    full_state_update = False
    counts: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.relations = num_classes // 2
        self.add_state("counts", torch.zeros(3, self.relations + 1, dtype=torch.int64), dist_reduce_fx="sum")

    @override
    def update(self, scores: Tensor, labels: Tensor) -> None:
        """Add scores ``(B, J)`` and labels ``(B)``."""
        said = scores.argmax(dim=1)
        for row, classes in enumerate((said[said == labels], said, labels)):
            self.counts[row] += torch.bincount(classes // 2, minlength=self.relations + 1)

    @override
    def compute(self) -> Tensor:
        right, said, there = self.counts[:, : self.relations].double()
        f1 = 2 * right / (said + there).clamp_min(1)  # 2 PR / (P + R)
        mean: Tensor = f1[there > 0].sum() / (there > 0).sum().clamp_min(1)
        return mean.float()


class HeldOutFacts(Metric):
    """Precision and recall over facts, pairs of entities with a relation, each scored by the best of its sentences.

    Args:
        none: number of the class of no relation, which is no fact.
        at: for each k, the precision of the k highest facts is computed.

    Source: Mintz et al., Distant Supervision for Relation Extraction without Labeled Data, ACL 2009; Riedel, Yao &
    McCallum 2010 for NYT-10.
    """

    higher_is_better = True
    full_state_update = False

    def __init__(self, none: int, at: Sequence[int] = (100, 200, 300)) -> None:
        super().__init__()
        self.none, self.at = none, tuple(at)
        for name in ("scores", "labels", "bags"):
            self.add_state(name, [], dist_reduce_fx="cat")

    @override
    def update(self, scores: Tensor, labels: Tensor, bags: Tensor) -> None:
        """Add scores ``(B, J)`` of sentences, their labels ``(B)`` and the numbers of their pairs ``(B)``."""
        for name, value in (("scores", scores.float()), ("labels", labels), ("bags", bags)):
            getattr(self, name).append(value)

    def curve(self) -> tuple[Tensor, Tensor]:
        """Return precision and recall after each fact, from the highest score on, ``(F)`` float64 each."""
        scores, labels, bags = (dim_zero_cat(getattr(self, name)).cpu() for name in ("scores", "labels", "bags"))
        _, pairs = torch.unique(bags, return_inverse=True)
        count = int(pairs.max()) + 1
        best = torch.full((count, scores.shape[1]), -torch.inf)
        best = best.scatter_reduce(0, pairs.unsqueeze(1).expand_as(scores), scores, "amax")
        true = torch.zeros_like(best, dtype=torch.bool)
        true[pairs, labels] = True
        facts = torch.arange(scores.shape[1]) != self.none
        best, true = best[:, facts].flatten(), true[:, facts].flatten()
        hits = true[best.argsort(descending=True, stable=True)].double().cumsum(0)
        return hits / torch.arange(1, len(hits) + 1), hits / hits[-1].clamp_min(1)

    @override
    def compute(self) -> dict[str, Tensor]:
        """Return ``auc``, the area under the curve by trapezoids, and ``precision_at_<k>``."""
        precision, recall = self.curve()
        found = {
            "auc": torch.trapezoid(torch.cat([precision[:1], precision]), torch.cat([recall.new_zeros(1), recall]))
        }
        found |= {f"precision_at_{k}": precision[min(k, len(precision)) - 1] for k in self.at}
        return {name: value.float() for name, value in found.items()}


class RelationMetrics(Metrics):
    """Accuracy, and the macro F1 of SemEval-2010 Task 8, see `DirectedF1`.

    Args:
        num_classes: J; stated by the data. Two for each relation, one for each direction, and the last for ``Other``.

    Raises:
        InputError: the number of classes is even.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        require(
            num_classes % 2 == 1,
            f"RelationMetrics: num_classes={num_classes}: expected two for each relation, one for each direction, and "
            "one for Other; set --model.metrics Accuracy or ClassMetrics for others",
        )

    @override
    def make(self) -> dict[str, Metric]:
        return {
            "accuracy": MulticlassAccuracy(self.num_classes, average="micro"),
            "macro_f1": DirectedF1(self.num_classes),
        }
