"""What writing masks of pictures and of volumes has in common: where the table is, and what is said at the end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import lightning as L
from typing_extensions import override

from capsule_lightning.runs.folders import expanded


class MaskTable(L.Callback, ABC):
    """A table of masks that ``predict`` writes, beside a folder of them.

    Args:
        output: the table, a ``.csv``; null for ``predictions.csv`` in the folder of the command.
        embeddings: there are none: null.
        overwrite: replace ``output`` and the masks if they are there.
    """

    def __init__(self, output: str | None = None, embeddings: str | None = None, overwrite: bool = False) -> None:
        self.output, self.embeddings, self.overwrite = output, embeddings, overwrite
        self._said: list[str] = []

    def table(self, trainer: L.Trainer) -> Path:
        """Return the place of the table."""
        if self.output is None:
            return Path(trainer.default_root_dir) / "predictions.csv"
        return expanded(self.output, "--output")

    @override
    @abstractmethod
    def on_predict_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the table, and keep what is to be said of it."""

    @override
    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Print what was found, once the progress bar is gone."""
        said, self._said = self._said, []
        if said:
            print("\n".join(said), flush=True)
