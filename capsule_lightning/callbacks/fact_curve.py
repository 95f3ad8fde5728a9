"""Precision and recall of the facts that a test has found."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import torch
from matplotlib.figure import Figure
from typing_extensions import override

from capsule_lightning.callbacks.figures import publish
from capsule_lightning.errors import StoppedError
from capsule_lightning.metrics.relations import HeldOutFacts
from capsule_lightning.runs.csv_text import csv_text
from capsule_lightning.runs.files import write_whole


class FactCurve(L.Callback):
    """Draws precision over recall of facts after a test, and writes both to ``facts.csv``, a row for each right fact.

    Tasks that measure no facts, see `RelationTask`, are left out.
    """

    @override
    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Gather the facts of all processes; the first one draws them."""
        facts = getattr(pl_module, "facts", None)
        metric = facts["test"] if isinstance(facts, torch.nn.ModuleDict) and "test" in facts else None
        if not isinstance(metric, HeldOutFacts):
            return
        with metric.sync_context():
            precision, recall = metric.curve()
        if not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False):
            return
        right = recall.diff(prepend=recall.new_zeros(1)).nonzero()[:, 0]
        rows = zip((right + 1).tolist(), precision[right].tolist(), recall[right].tolist(), strict=True)
        path = Path(trainer.default_root_dir) / "facts.csv"
        table = csv_text([("rank", "precision", "recall"), *rows])
        write_whole(path, table, make_folder=True, remedy="make room, then test again", error=StoppedError)

        def draw() -> Figure:
            from capsule_lightning.figures.precision_recall import precision_recall_figure

            return precision_recall_figure(precision[right], recall[right], f"{len(right):,} facts")

        publish(trainer, "test/facts", draw)
