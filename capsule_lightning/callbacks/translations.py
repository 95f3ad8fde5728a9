"""Translations in files: those of a test beside what people wrote, those of ``predict`` one in each line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
from typing_extensions import override

from capsule_lightning.callbacks.collected import of_all_processes, offers
from capsule_lightning.data.text_lines import STANDARD_INPUT
from capsule_lightning.errors import printable
from capsule_lightning.metrics.translation import CorpusScore
from capsule_lightning.runs.files import open_whole
from capsule_lightning.runs.folders import expanded
from capsule_lightning.runs.results import from_here
from capsule_lightning.tasks.base import Task


class _Line(NamedTuple):
    number: int
    translation: str
    source: str
    reference: str


class Translations(L.Callback):
    """Write translations.

    ``predict`` writes ``translations.txt`` in the folder of the command, the translation of each line in the same line;
    those of standard input are printed too. A test writes ``test_translations.tsv``, with source, translation and
    reference of each sentence, and ``sacrebleu.json``, with each score and its signature, and prints the signatures.
    Other predictions are left out.

    Args:
        output: file of what ``predict`` writes, a ``.txt``; null for the usual place.
        embeddings: not for translations; null.
        overwrite: replace ``output`` if it is there.
    """

    def __init__(self, output: str | None = None, embeddings: str | None = None, overwrite: bool = False) -> None:
        self.output, self.overwrite = output, overwrite
        self._lines: list[_Line] = []
        self._said: list[str] = []

    def _collect(self, outputs: Any, batch: Any) -> None:
        if offers(outputs, "translations", "sources", "references") and offers(batch, "indices"):
            parts = (batch.indices.tolist(), outputs.translations, outputs.sources, outputs.references)
            self._lines += map(_Line, *parts)

    def _gathered(self, trainer: L.Trainer) -> list[_Line]:
        lines, self._lines = of_all_processes(trainer, self._lines), []
        return sorted(lines, key=lambda line: line.number)

    @override
    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        self._collect(outputs, batch)

    @override
    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        self._collect(outputs, batch)

    @override
    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Gather the sentences of all processes and write them in their order, with the scores."""
        lines = self._gathered(trainer)
        if not lines or not isinstance(pl_module, Task):
            return
        metrics = {
            name: each for name, each in pl_module.stage_metrics("test").items() if isinstance(each, CorpusScore)
        }
        scores = {name: {"score": float(each.compute()), "signature": each.signature} for name, each in metrics.items()}
        if not trainer.is_global_zero:
            return
        folder = Path(trainer.default_root_dir)
        rows = [
            ("source", "translation", "reference"),
            *((each.source, each.translation, each.reference) for each in lines),
        ]
        text = "".join("\t".join(map(in_a_cell, row)) + "\n" for row in rows)
        for name, content in (("test_translations.tsv", text), ("sacrebleu.json", json.dumps(scores, indent=2) + "\n")):
            with open_whole(folder / name, make_folder=True) as file:
                file.write(content.encode(errors="backslashreplace"))
        self._said = [f"{name} {each['score']:.2f}: {each['signature']}" for name, each in scores.items()]
        self._said.append(f"translations: {from_here(folder / 'test_translations.tsv')}")

    @override
    def on_predict_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Gather the sentences of all processes and write their translations in their order."""
        lines = self._gathered(trainer)
        if not lines or not trainer.is_global_zero:
            return
        folder = Path(trainer.default_root_dir)
        path = folder / "translations.txt" if self.output is None else expanded(self.output, "--output")
        replace, text = self.overwrite or self.output is None, [printable(line.translation) for line in lines]
        with open_whole(
            path, overwrite=replace, make_folder=self.output is None, remedy="choose another --output"
        ) as file:
            file.write("".join(f"{line}\n" for line in text).encode())
        typed = getattr(trainer.datamodule, "predict_path", None) == STANDARD_INPUT  # type: ignore[attr-defined]
        self._said = [*(text if typed else []), f"translations of {len(lines):,} sentences: {from_here(path)}"]

    @override
    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Print what was written, once the progress bar is gone."""
        said, self._said = self._said, []
        if said:
            print("\n".join(said), flush=True)


def in_a_cell(text: str) -> str:
    r"""Return a text as a cell of a table of tabs: a tab or a line's end within becomes an escape.

    Example:
        >>> in_a_cell("one" + chr(9) + "two")
        'one\\ttwo'
    """
    return printable(text)
