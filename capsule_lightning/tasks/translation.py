"""Translate sentences, trained by the words of their translations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, distributed
from torchmetrics import Metric
from typing_extensions import override

from capsule_lightning.data.module import DataModule
from capsule_lightning.data.targets import TranslationBatch
from capsule_lightning.data.tokens import BEGIN, END, PAD, SPECIAL
from capsule_lightning.data.trained_on import sentences_on
from capsule_lightning.data.translation import TranslationDataModule
from capsule_lightning.data.vocabulary_files import FILE, vocabulary_text
from capsule_lightning.errors import InputError, require
from capsule_lightning.losses.translation import bag_loss, next_word_loss
from capsule_lightning.metrics.translation import BLEU, ChrF
from capsule_lightning.models.transformer import Transformer
from capsule_lightning.models.translation import Answer, TranslationNet
from capsule_lightning.models.translation_search import translate
from capsule_lightning.runs.checkpoint_files import TRAINED_ON
from capsule_lightning.runs.files import write_whole
from capsule_lightning.schedules import InverseSquareRoot
from capsule_lightning.tasks.base import ScheduleCallable, Stage, Task

MOST_BEAM = 64


class TranslationOutput(NamedTuple):
    """What a network says about a batch.

    Attributes:
        answer: of the words of the targets.
        found: ``(B, T)`` int64, translations that it makes itself; None in training.
    """

    answer: Answer
    found: Tensor | None


class TranslationPrediction(NamedTuple):
    """What evaluation and prediction report about a batch.

    Attributes:
        translations: the B texts.
        sources: the texts that they are of.
        references: what people wrote; empty texts if it is not known.
    """

    translations: Sequence[str]
    sources: Sequence[str]
    references: Sequence[str]


class TranslationTask(Task):
    """Translate sentences; the loss is a mean over the words of all processes' sentences.

    Metrics: ``bleu`` and ``chrf`` by sacrebleu on texts as they are, of translations that the network makes itself.

    Args:
        in_shape, num_classes: most tokens of a sentence, and size of the vocabulary; stated by the data.
        net: called with ``(in_shape, num_classes)``.
        smoothing: label smoothing of all losses, in [0, 1).
        bag_weight: weight of each of the two losses by which the capsules of past and future are guided, for a network
            that has them, see `bag_loss`.
        beam: beginnings that are followed at a time in tests and predictions (beam search); 1 for the most likely word
            each time.
        val_beam: the same in validation; 0 to measure the loss alone, without translating.
        optimizer, lr_scheduler: see `Task`.
        skip_not_finite: see `Task`; 0 stops at the first step that is not finite.

    Raises:
        InputError: values out of range; in `setup`, data that are no pairs of sentences.
    """

    results: ClassVar[Mapping[str, Sequence[str]]] = {"output": (".txt",)}

    def __init__(
        self,
        in_shape: tuple[int, ...],
        num_classes: int,
        net: Callable[[tuple[int, ...], int], TranslationNet] = Transformer,
        smoothing: float = 0.1,
        bag_weight: float = 1.0,
        beam: int = 4,
        val_beam: int = 1,
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_scheduler: ScheduleCallable | None = InverseSquareRoot,
        skip_not_finite: int = 0,
    ) -> None:
        super().__init__(optimizer, lr_scheduler, skip_not_finite)
        require(0 <= smoothing < 1, f"smoothing={smoothing}: expected 0 or more and less than 1, such as 0.1")
        require(bag_weight >= 0, f"bag_weight={bag_weight}: expected 0 or more")
        for name, value, least in (("beam", beam, 1), ("val_beam", val_beam, 0)):
            require(least <= value <= MOST_BEAM, f"{name}={value}: expected {least} to {MOST_BEAM}")
        self.save_hyperparameters(logger=False)
        self.in_shape, self.num_classes = tuple(in_shape), num_classes
        self.net = net(self.in_shape, num_classes)
        require(
            isinstance(self.net, TranslationNet),
            f"{type(self.net).__name__} does not translate; give --model.net Transformer",
        )
        self.smoothing, self.bag_weight, self.beam, self.val_beam = smoothing, bag_weight, beam, val_beam
        guided = ["past_loss", "future_loss"] if getattr(self.net, "past_future", None) is not None else []
        self.loss_names = ("loss", "word_loss", *guided)
        self.selected_by = ("bleu", "max") if val_beam else ("loss", "min")

    @override
    def setup(self, stage: str) -> None:
        """Look whether the data are pairs of sentences.

        Raises:
            InputError: they are something else.
        """
        super().setup(stage)
        data = getattr(self.trainer, "datamodule", None)
        if isinstance(data, DataModule) and not isinstance(data, TranslationDataModule):
            raise InputError(
                f"TranslationTask needs pairs of sentences, and {type(data).__name__} has none: give "
                "TranslationDataModule, or --model ClassificationTask"
            )

    @override
    def on_fit_start(self) -> None:
        """Write the vocabulary into the folder of the run."""
        data = self.sentences
        if data is not None and self.trainer.is_global_zero and not getattr(self.trainer, "fast_dev_run", False):
            folder = Path(self.trainer.default_root_dir)
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(folder / FILE, vocabulary_text(data.vocabulary))

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what the network was trained on, its vocabulary among it, to what every task saves."""
        super().on_save_checkpoint(checkpoint)
        if self.sentences is not None:
            checkpoint[TRAINED_ON] = sentences_on(self.sentences).plain()

    @property
    def sentences(self) -> TranslationDataModule | None:
        """The data, which know the texts; None outside of a trainer."""
        data = None if self._trainer is None else getattr(self.trainer, "datamodule", None)
        return data if isinstance(data, TranslationDataModule) else None

    @override
    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Return logits ``(B, T, V)``, see `TranslationNet`."""
        logits: Tensor = self.net(source, target)
        return logits

    @override
    def output(self, batch: TranslationBatch) -> TranslationOutput:
        answer = self.net.answer(batch.source, batch.target[:, :-1])
        beam = self._beam()
        return TranslationOutput(answer, translate(self.net, batch.source, beam) if beam else None)

    def _beam(self) -> int:
        """Return how many beginnings are followed at this stage; 0 to translate nothing."""
        if self.training or self._trainer is None:
            return 0
        if self.trainer.validating or self.trainer.sanity_checking:
            return self.val_beam
        return self.beam if self.trainer.testing or self.trainer.predicting else 0

    @override
    def losses(self, output: TranslationOutput, batch: TranslationBatch) -> dict[str, Tensor]:
        words, answer = batch.target[:, 1:], output.answer
        count = self.words_of_a_process((words != PAD).sum())
        parts = {"word_loss": next_word_loss(answer.logits, words, self.smoothing) / count}
        loss = parts["word_loss"]
        if answer.past is not None and answer.future is not None:
            for name, logits in (("past_loss", answer.past), ("future_loss", answer.future)):
                parts[name] = bag_loss(logits, words, name == "past_loss", self.smoothing) / count
                loss = loss + self.bag_weight * parts[name]
        return {"loss": loss, **parts}

    def words_of_a_process(self, count: Tensor) -> Tensor:
        """Return the words of a training batch over the number of processes, whose gradients are averaged.

        The sum of a process's losses over this number is then, in the mean of all processes, the mean over all words.
        """
        if not (self.training and self._trainer is not None and self.trainer.training and self.trainer.world_size > 1):
            return count.clamp_min(1)
        total = count.float()
        distributed.all_reduce(total)
        return total.clamp_min(1) / self.trainer.world_size

    @override
    def weight(self, batch: TranslationBatch) -> int:
        """Return the words of a batch: the loss is a mean over words."""
        return int((batch.target[:, 1:] != PAD).sum())

    @override
    def prediction(self, output: TranslationOutput, batch: TranslationBatch) -> TranslationPrediction:
        data, split = self.sentences, self._split()
        if data is None or output.found is None:
            return TranslationPrediction([], [], [])
        pairs, places = data.pairs(split), batch.indices.tolist()
        sources = [pairs.sources[place] for place in places]
        said = [
            data.said(ids) if source.strip() else "" for ids, source in zip(output.found.cpu(), sources, strict=True)
        ]
        return TranslationPrediction(said, sources, [pairs.targets[place] for place in places])

    def _split(self) -> str:
        trainer = self.trainer
        if trainer.predicting:
            return "predict" if "predict" in trainer.datamodule.stores else "test"  # type: ignore[attr-defined]
        return "test" if trainer.testing else "val"

    @override
    def metrics(self, stage: Stage) -> dict[str, Metric]:
        return {"bleu": BLEU(), "chrf": ChrF()} if stage == "test" or self.val_beam else {}

    @override
    def compared(self, output: TranslationOutput, batch: TranslationBatch) -> tuple[Any, ...]:
        found = self.prediction(output, batch)
        return found.translations, found.references

    @override
    def example_batch(self, size: int) -> TranslationBatch:
        length = min(self.in_shape[0], 24)
        words = torch.randint(len(SPECIAL), self.num_classes, (2, size, length), device=self.device)
        first, last = (torch.full((size, 1), each, device=self.device) for each in (BEGIN, END))
        target = torch.cat([first, words[1], last], dim=1)
        return TranslationBatch(torch.cat([words[0], last], dim=1), target, torch.arange(size, device=self.device))
