"""How good translations are, as the library sacrebleu counts it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric
from typing_extensions import override

from capsule_lightning.errors import InputError


def sacrebleu_metrics() -> Any:
    """Return the library's metrics.

    Raises:
        InputError: it is not installed.
    """
    try:
        from sacrebleu import metrics
    except ImportError as error:
        raise InputError(
            'sacrebleu measures translations, and is not installed: pip install "capsule_lightning[text]"'
        ) from error
    return metrics


class CorpusScore(Metric):
    """A score of all translations together, on texts as they are, with the library's defaults.

    The counts of the sentences are summed, also over processes, so that the score is the library's own for the whole
    corpus. It is from 0 to 100.
    """

    higher_is_better = True
    full_state_update = False
    library_name: ClassVar[str]
    counts: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.scorer = getattr(sacrebleu_metrics(), self.library_name)()
        self.add_state("counts", torch.zeros(len(self._of([""], [""])[0]), dtype=torch.int64), dist_reduce_fx="sum")

    def _of(self, translations: Sequence[str], references: Sequence[str]) -> list[list[int]]:
        # corpus_score of the library does these two steps in one; apart, batches and processes can be summed
        return self.scorer._extract_corpus_statistics(translations, [references])  # type: ignore[no-any-return]

    @override
    def update(self, translations: Sequence[str], references: Sequence[str]) -> None:
        """Count translations and their references, as many."""
        if translations:
            counts = torch.tensor(self._of(translations, references), dtype=torch.int64)
            self.counts += counts.sum(dim=0).to(self.counts.device)

    def of_each(self, translations: Sequence[str], references: Sequence[str]) -> list[float]:
        """Return the score of each translation alone."""
        return [self.scorer._compute_score_from_stats(each).score for each in self._of(translations, references)]

    @override
    def compute(self) -> Tensor:
        return torch.tensor(self.scorer._compute_score_from_stats(self.counts.tolist()).score)

    @property
    def signature(self) -> str:
        """What identifies the way of counting, to be stated beside the number."""
        self.scorer.corpus_score([""], [[""]])  # by which the library learns how many references there are
        return str(self.scorer.get_signature())


class BLEU(CorpusScore):
    """BLEU of up to four words (Papineni et al. 2002), with sacrebleu's tokens ``13a`` (Post 2018)."""

    library_name = "BLEU"


class ChrF(CorpusScore):
    """F2 of up to six characters (Popovic 2015)."""

    library_name = "CHRF"
