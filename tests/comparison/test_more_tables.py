"""Further metrics with their intervals, and every two groups on the folds that they share."""

import csv
import io
import itertools
import math
import statistics

import pytest
from rich.console import Console
from scipy import stats

from capsule_lightning.comparison import Run, compare, show
from capsule_lightning.comparison.more_tables import pairs
from capsule_lightning.comparison.significance import holm, mean_interval
from capsule_lightning.comparison.study import read_study
from capsule_lightning.errors import InputError
from capsule_lightning.shipped import find_config

BEST = {"A": 0.90, "B": 0.87, "C": 0.60}


def runs(folds=3):
    found = []
    for (net, best), seed, fold in itertools.product(BEST.items(), (0, 1), range(folds)):
        score = best + 0.01 * fold + 0.003 * ((seed + 2 * fold + ord(net)) % 3)
        history = {
            "test/accuracy": {10: score},
            "test/brier": {10: 1 - score},
            "test/coverage/cat": {10: 0.9},
            "test/coverage/dog": {10: 0.8 + 0.01 * fold},
        }
        of = {"seed_everything": seed, "model.net": net, "data.folds": folds, "data.fold": fold}
        found.append(Run(f"{net}-{seed}-{fold}", of, history, None, 25, True))
    return found


def test_an_interval_allows_for_the_examples_that_folds_share():
    scores = [0.7, 0.8, 0.9, 0.8]
    usual = stats.t.interval(0.95, 3, statistics.fmean(scores), stats.sem(scores))
    assert mean_interval(scores) == pytest.approx(usual)
    low, high = mean_interval(scores, folds=5)
    wider = math.sqrt((1 / 4 + 1 / 4) / (1 / 4))
    assert high - low == pytest.approx(wider * (usual[1] - usual[0]))
    assert mean_interval([0.5]) is None


def test_holm_is_as_strict_for_the_smallest_as_bonferroni_and_never_falls():
    values = [0.2, 0.001, 0.04, 0.03, 0.9]
    found = holm(values)
    assert found[1] == pytest.approx(5 * 0.001)
    order = sorted(range(5), key=lambda n: values[n])
    assert [found[n] for n in order] == sorted(found)
    assert all(p <= q <= 1 for p, q in zip(values, found, strict=True))


def test_every_two_groups_are_compared_in_pairs_of_the_same_fold():
    found = pairs(compare(runs()))
    assert [(pair.first.values[0], pair.second.values[0]) for pair in found] == [("A", "B"), ("A", "C"), ("B", "C")]
    assert all(pair.found.value > 0 and pair.found.pairs == 6 for pair in found)
    assert [pair.holm for pair in found] == holm([pair.found.corrected for pair in found])


def test_further_metrics_are_shown_and_written_with_intervals(tmp_path):
    found = compare(runs(), also=["test/brier", "test/coverage/*"])
    shown = io.StringIO()
    show(found, Console(file=shown, width=200), tmp_path, None)
    said = shown.getvalue()
    assert "differences in test/accuracy on the same seeds and folds" in said
    assert all(name in said for name in ("test/brier", "test/coverage/cat", "test/coverage/dog", "p Holm"))
    rows = list(csv.DictReader((tmp_path / "measures.csv").open()))
    assert len(rows) == 3 * 4
    (dog,) = (row for row in rows if (row["model.net"], row["metric"]) == ("A", "test/coverage/dog"))
    low, high = mean_interval([0.8, 0.81, 0.82] * 2, 3)
    assert float(dog["mean"]) == pytest.approx(0.81)
    assert (float(dog["low"]), float(dog["high"])) == pytest.approx((low, high))
    assert len(list(csv.DictReader((tmp_path / "pairs.csv").open()))) == 3


def test_without_folds_and_further_metrics_nothing_is_added(tmp_path):
    some = [run for run in runs(folds=3) if run.config["data.fold"] == 0]
    for run in some:
        del run.config["data.folds"], run.config["data.fold"]
    shown = io.StringIO()
    show(compare(some), Console(file=shown, width=200), tmp_path, None)
    assert "on the same seeds and folds" not in shown.getvalue()
    assert {path.name for path in tmp_path.iterdir()} == {"comparison.csv", "scores.png"}


def test_a_metric_that_no_run_has_is_refused():
    with pytest.raises(InputError, match=r"--also test/bryer.*did you mean 'test/brier'"):
        compare(runs(), also=["test/bryer"])


def test_the_shipped_audit_crosses_heads_seeds_and_folds_and_takes_more_words(tmp_path):
    study = read_study("studies/audit.yaml", "--data.table 'my labels.csv'")
    assert len(study.trials()) == 6 * 3 * 5
    assert study.path == find_config("studies/audit.yaml")
    assert all("my labels.csv" in trial.words for trial in study.trials())
    assert study.metric in ("test/accuracy", *study.also)
    with pytest.raises(InputError, match=r"--fit: .*close what is quoted"):
        read_study("studies/audit.yaml", "'--data.table")


@pytest.mark.parametrize("field", ["{by: 3}", "{also: test/accuracy}", "{metric: [a]}"])
def test_fields_of_a_study_are_checked(tmp_path, field):
    (tmp_path / "study.yaml").write_text(f"{{each: {{a: [1]}}, seeds: [0], {field[1:-1]}}}")
    with pytest.raises(InputError, match=field[1:].split(":", maxsplit=1)[0]):
        read_study(str(tmp_path / "study.yaml"))
