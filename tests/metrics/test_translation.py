"""BLEU and chrF are sacrebleu's own numbers, however the corpus is divided."""

import pytest
from torch.testing import assert_close

from capsule_lightning.metrics.translation import BLEU, ChrF

sacrebleu = pytest.importorskip("sacrebleu")

REFERENCES = ["el rey fue a la ciudad.", "¿Quién es este hombre?", "Y la luz fue buena en la tierra de los reyes."]
FOUND = ["el rey fue a la tierra.", "¿Quién es el hombre?", ""]


@pytest.mark.parametrize(("cls", "own"), [(BLEU, "corpus_bleu"), (ChrF, "corpus_chrf")])
def test_in_batches_and_by_processes_as_the_library_at_once(cls, own):
    whole = cls()
    whole.update(FOUND[:1], REFERENCES[:1])
    other = cls()
    other.update(FOUND[1:], REFERENCES[1:])
    other.update([], [])
    whole.counts += other.counts  # what is summed over processes
    expected = getattr(sacrebleu, own)(FOUND, [REFERENCES]).score
    assert expected > 15
    assert_close(float(whole.compute()), expected, rtol=1e-6, atol=1e-6)


def test_nothing_right_is_nothing():
    for cls in (BLEU, ChrF):
        metric = cls()
        metric.update(["zzz"], ["aaaa bbbb"])
        assert metric.compute() == 0


def test_the_signature_says_how_it_was_counted():
    assert "tok:13a" in BLEU().signature
    assert f"version:{sacrebleu.__version__}" in BLEU().signature
    assert "nc:6" in ChrF().signature
