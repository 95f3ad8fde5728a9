"""Cross-validated runs are compared on the folds that they share."""

import io
import math
import random
import statistics

import pytest
from rich.console import Console
from scipy import stats

from capsule_lightning.comparison import Run, compare, verdict
from capsule_lightning.comparison.significance import paired_difference
from capsule_lightning.comparison.study import read_study
from capsule_lightning.comparison.tables import table

SCORES = {  # by seed, of four folds
    "A": {0: [0.81, 0.92, 0.73, 0.95], 1: [0.80, 0.93, 0.75, 0.94]},
    "B": {0: [0.78, 0.90, 0.71, 0.91], 1: [0.79, 0.89, 0.72, 0.93]},
}


def runs(scores=SCORES, folds=4):
    return [
        Run(
            f"{net}-{seed}-{fold}",
            {"seed_everything": seed, "model.net": net, "data.folds": folds, "data.fold": fold},
            {"test/accuracy": {10: score}},
            None,
            25,
            True,
        )
        for net, seeds in scores.items()
        for seed, each in seeds.items()
        for fold, score in enumerate(each)
    ]


def test_folds_and_seeds_are_pooled_and_no_difference_between_groups():
    found = compare(runs())
    assert found.keys == ["model.net"]
    assert [(group.values, len(group.runs), group.folds) for group in found.groups] == [(("A",), 8, 4), (("B",), 8, 4)]
    assert found.pooled == found.left_out == []


def test_the_verdict_is_of_pairs_of_the_same_fold():
    said = verdict(compare(runs()))
    gaps = [a - b for seed in (0, 1) for a, b in zip(SCORES["A"][seed], SCORES["B"][seed], strict=True)]
    error = math.sqrt((1 / 8 + 1 / 3) * statistics.variance(gaps))
    p = 2 * stats.t.sf(statistics.fmean(gaps) / error, 7)
    assert p < 0.05 < stats.ttest_ind(*[[s for each in SCORES[net].values() for s in each] for net in "AB"]).pvalue
    assert "differ by 2.50 points in the mean, more than folds and seeds explain: on the 8 pairs" in said
    assert f"p = {p:.2g} (t-test corrected" in said
    assert f"and {stats.wilcoxon(gaps).pvalue:.2g} (Wilcoxon's" in said
    assert "test images are themselves" not in said  # each fold has others


def test_runs_without_a_counterpart_are_counted():
    said = verdict(compare(runs()[1:-2]))
    assert "on the 5 pairs of one seed and fold" in said
    assert "3 runs have no counterpart of the same seed and fold" in said


def test_other_numbers_of_folds_are_not_paired():
    some = [run for run in runs() if "A" in run.name] + [run for run in runs(folds=5) if "B" in run.name]
    assert "Welch" in verdict(compare(some, by=["model.net"]))


def test_the_corrected_interval_covers_what_the_usual_one_misses():
    """Five folds without a true difference, correlated by 1/5, as Nadeau and Bengio take them to be."""
    chance, wrong, corrected = random.Random(0), 0, 0
    for _ in range(300):
        shared = chance.gauss(0, 0.5)
        gaps = [shared + chance.gauss(0, 1) for _ in range(5)]
        wrong += stats.ttest_1samp(gaps, 0).pvalue < 0.05
        corrected += paired_difference(gaps, 5).corrected < 0.05
    assert 7 <= corrected <= 23 < 30 < wrong  # of 300, at the level of 5 %: 15, and two deviations of a binomial


@pytest.mark.parametrize("gaps", [[0.1], [0.1, 0.1], []])
def test_no_spread_is_no_evidence(gaps):
    assert paired_difference(gaps, 5) is None


def test_a_study_trains_each_fold_and_tells_its_groups_apart_by_the_rest(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(
        "{experiment: folds, fit: --config digits.yaml, seeds: [0, 1], "
        "each: {model.net.routing: [DynamicRouting, UniformRouting], data.fold: [0, 1, 2]}}"
    )
    study = read_study(path)
    assert study.keys == ["model.net.routing"]
    assert len(study.trials()) == 12
    assert sum("--data.fold" in " ".join(trial.words) for trial in study.trials()) == 12


def test_the_table_counts_runs_and_folds():
    shown = io.StringIO()
    Console(file=shown, width=200).print(table(compare(runs())))
    assert "8 (4 folds)" in shown.getvalue()
