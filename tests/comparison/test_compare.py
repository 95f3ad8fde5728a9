"""The comparison of finished runs: what is read, how it is grouped, what is said of it."""

import csv
import io
import itertools
import math
import re
import statistics
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from rich.console import Console
from scipy import stats

from capsule_lightning.cli import main
from capsule_lightning.comparison import Run, compare, difference, find_runs, read_run, show, verdict
from capsule_lightning.comparison.formats import format_metric
from capsule_lightning.comparison.tables import costs
from capsule_lightning.errors import InputError
from capsule_lightning.runs.folders import flat


def config(routing: str = "DynamicRouting", seed: int = 0, lr: float = 0.1, **init_args: object) -> dict:
    return {
        "seed_everything": seed,
        "trainer": {"max_epochs": 2, "logger": [{"class_path": "a.Logger", "init_args": {"name": f"{routing}{seed}"}}]},
        "model": {
            "class_path": "a.Task",
            "init_args": {
                "net": {
                    "class_path": "a.Net",
                    "init_args": {"routing": {"class_path": f"a.{routing}", "init_args": init_args}},
                },
                "optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": lr}},
            },
        },
        "data": {"class_path": "a.Data", "init_args": {"seed": seed, "root": f"data{seed}"}},
        "experiment": "digits",
        "runs": "runs",
    }


def run(scores: float | None, /, *, name: str = "", **of: object) -> Run:
    """A run in memory; None for one that was not tested."""
    history = {"val/accuracy": {0: 0.1, 10: 0.9}}
    if scores is not None:
        history["test/accuracy"] = {10: scores}
    made = dict(flat(config(**of)))
    return Run(name or f"run{next(NUMBERS)}", made, history, 1.0, 360, scores is not None)


NUMBERS = itertools.count()


def write(folder: Path, made: dict, rows: list[str], confusion: str = "") -> Path:
    """A run on disk."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(made))
    (folder / "metrics.csv").write_text("\n".join(["time,step,metric,value", *rows]) + "\n")
    if confusion:
        (folder / "confusion.csv").write_text(confusion)
    return folder


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Two routings by two seeds, and one run that is not finished."""
    accuracies = {("A", 0): 0.90, ("A", 1): 0.94, ("B", 0): 0.95, ("B", 1): 0.97}
    for (routing, seed), accuracy in accuracies.items():
        rows = [
            "100.0,0,parameters,1000",
            "100.0,0,parameters_without_decoder,700",
            f"104.0,9,val/accuracy,{accuracy - 0.1}",
            f"104.0,9,images_per_second,{100 + seed}",
            "104.0,9,peak_memory_bytes,5000000",
            f"109.0,19,val/accuracy,{accuracy + 0.01}",
            f"109.0,19,images_per_second,{200 + seed}",
            f"109.0,19,peak_memory_bytes,{6000000 + seed}",
            f"{111 + seed},20,test/accuracy,{accuracy}",
        ]
        write(
            tmp_path / "runs" / "digits" / f"{routing}{seed}",
            config(routing, seed),
            rows,
            "true,0,1\n0,40,10\n1,5,45\n",
        )
    write(tmp_path / "runs" / "digits" / "C0", config("C"), ["100.0,9,val/accuracy,0.5"])
    return tmp_path / "runs"


def test_the_table_is_that_computed_by_hand(study: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    main(["compare", str(study), "--output", str(tmp_path / "out"), "--csv", str(tmp_path / "other" / "table.csv")])
    text = capsys.readouterr().out
    assert re.search(r"^routing +runs +test/accuracy +best val/accuracy +parameters +images/s +peak memory +time", text)
    assert re.search(r"\nB +2 +96\.00 ± 1\.41 % +97\.00 % +1,000 +150 +6 MiB +11\.5 s", text)
    assert re.search(r"\nA +2 +92\.00 ± 2\.83 % +93\.00 % +1,000 +150 +6 MiB +11\.5 s", text)
    assert text.index("\nB ") < text.index("\nA ")
    assert f"left out: {study / 'digits' / 'C0'} (not tested)" in text
    with (tmp_path / "out" / "comparison.csv").open() as file:
        best, second = csv.DictReader(file)
    assert (best["model.net.routing"], best["runs"], best["values"]) == ("B", "2", "0.95 0.97")
    assert float(best["test/accuracy"]) == pytest.approx(0.96, abs=1e-12)
    assert float(best["deviation"]) == pytest.approx(0.02 / math.sqrt(2), abs=1e-12)
    assert float(best["best val/accuracy"]) == pytest.approx(0.97, abs=1e-12)
    names = ("parameters", "parameters_without_decoder", "images_per_second", "peak_memory_bytes", "seconds")
    assert [float(best[name]) for name in names] == [1000, 700, 150.5, 6000001, 11.5]
    assert second["model.net.routing"] == "A"
    assert (tmp_path / "other" / "table.csv").read_text() == (tmp_path / "out" / "comparison.csv").read_text()
    assert (tmp_path / "out" / "learning_curves.png").stat().st_size > 10_000


def test_a_narrow_terminal_loses_no_number(study: Path) -> None:
    found = compare([read_run(folder) for folder in find_runs([study])])
    console = Console(width=40, file=io.StringIO())
    show(found, console, None, None)
    assert re.search(r"\nA +2 +92\.00 ± 2\.83 % +93\.00 % +1,000 +150 +6 MiB +11\.5 s", console.file.getvalue())


def test_the_command_imports_nothing_heavy(study: Path, tmp_path: Path) -> None:
    code = (
        f"import sys; from capsule_lightning.cli import main; main(['compare', {str(study)!r}, '--output', 'out']); "
        "assert not {'torch', 'lightning', 'wandb', 'jsonargparse'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "out" / "learning_curves.png").is_file()


# Reading.


def test_a_run_without_the_costs_is_compared_all_the_same(tmp_path: Path) -> None:
    found = read_run(write(tmp_path / "one", config(), ["5,1,val/accuracy,0.5", "9,2,test/accuracy,0.7"]))
    (group,) = compare([found]).groups
    assert costs(group, "val/accuracy") == (0.5, None, None, None, None, 4.0)
    assert found.test_images is None


@pytest.mark.parametrize("text", ["true,0,1\n0,x,1\n", "true,0\n0,\n", "true,0\n0,1.5\n"])
def test_a_broken_confusion_matrix_is_named(text: str, tmp_path: Path) -> None:
    write(tmp_path / "one", config(), ["9,2,test/accuracy,0.7"], confusion=text)
    with pytest.raises(InputError, match=r"confusion\.csv: is not a confusion matrix \(.*\); remove it"):
        read_run(tmp_path / "one")


def test_odd_values_where_a_class_stands_are_values(tmp_path: Path) -> None:
    odd = {"model": {"class_path": 3, "init_args": [1]}, "data": {"class_path": "a.B", "init_args": [1]}, "x": {}}
    found = read_run(write(tmp_path / "one", odd, ["9,2,test/accuracy,0.7"])).config
    assert found == {"model.class_path": 3, "model.init_args": [1], "data": "B", "x": {}}


def test_folders_of_runs_of_experiments_and_of_all(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["A0", "A1", "B0", "B1", "C0"]
    for folder in (study, study / "digits"):
        assert [path.name for path in find_runs([folder])] == names
    assert [path.name for path in find_runs([study / "digits" / "B1", study])] == ["B1", "A0", "A1", "B0", "C0"]
    (study / "empty").mkdir()
    with pytest.raises(InputError, match="empty: no run in it"):
        find_runs([study / "empty"])
    with pytest.raises(InputError, match="no folder nowhere"):
        find_runs(["nowhere"])


@pytest.mark.parametrize(
    ("text", "said"), [("a: [", "line 1: is not valid YAML"), ("3", "expected the configuration of a run")]
)
def test_a_broken_config_is_named(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(InputError, match=rf"config\.yaml.* {said}"):
        read_run(tmp_path)


# Grouping.


def test_seeds_and_places_make_no_groups() -> None:
    (group,) = compare([run(0.5, seed=0), run(0.7, seed=1)]).groups
    assert (group.values, group.mean) == ((), 0.6)
    assert group.deviation == pytest.approx(statistics.stdev([0.5, 0.7]))


def test_another_way_to_the_same_numbers_makes_no_groups() -> None:
    runs = [run(0.5, routing="A"), run(0.7, routing="A", backend="auto"), run(0.6, routing="A", backend="torch")]
    assert len(compare(runs).groups) == 1
    assert len(compare(runs, by=["backend"]).groups) == 3


def test_arguments_of_a_class_are_named_only_where_they_differ_within_it() -> None:
    by_class = [run(0.5, routing="A", iterations=3), run(0.6, routing="B", scale=2.0)]
    assert compare(by_class).keys == ["model.net.routing"]
    within = compare([*by_class, run(0.7, routing="A", iterations=1)])
    assert within.keys == ["model.net.routing", "model.net.routing.iterations"]
    assert [group.values for group in within.groups] == [("A", "1"), ("B", "-"), ("A", "3")]
    assert within.label(within.groups[0]) == "routing=A, iterations=1"


def test_two_keys_that_go_together_are_both_named() -> None:
    found = compare([run(0.5, routing="A", lr=0.1), run(0.6, routing="B", lr=0.2)])
    assert found.names == ["routing", "lr"]
    assert len(found.groups) == 2


def test_groups_by_a_key_that_is_said() -> None:
    runs = [
        run(a, routing=r, lr=lr) for a, r, lr in ((0.5, "A", 0.1), (0.6, "A", 0.2), (0.9, "B", 0.1), (0.8, "B", 0.2))
    ]
    for key in ("routing", "net.routing", "model.net.routing"):
        found = compare(runs, by=[key])
        assert [(group.values, len(group.runs)) for group in found.groups] == [(("B",), 2), (("A",), 2)]
    assert len(compare(runs, by=["lr", "routing"]).groups) == 4
    assert [group.values for group in compare(runs, by=["seed_everything"]).groups] == [("0",)]
    with pytest.raises(InputError, match="--by rooting: no run has that key; did you mean 'routing'"):
        compare(runs, by=["rooting"])


def test_a_shortened_key_that_two_have_is_refused_unless_one_of_them_differs() -> None:
    made = [run(0.5), run(0.6)]
    for n, one in enumerate(made):
        one.config.update({"a.dim": 1, "b.dim": 1})
        one.config["c.size"], one.config["d.size"] = n, 1
    with pytest.raises(InputError, match=r"--by dim: may be a\.dim or b\.dim"):
        compare(made, by=["dim"])
    assert compare(made, by=["size"]).keys == ["c.size"]
    assert compare(made, by=["a.dim"]).names == ["a.dim"]


def test_a_loss_is_sorted_the_other_way() -> None:
    for value, one in zip((0.5, 0.2), made := [run(0.5, routing="A"), run(0.9, routing="B")], strict=True):
        one.history.update({"test/loss": {10: value}, "val/loss": {0: 3.0, 5: value, 10: 1.0}})
    found = compare(made, "test/loss")
    assert [group.values for group in found.groups] == [("B",), ("A",)]
    assert costs(found.groups[0], found.validation).validation == 0.2


def test_what_is_unfinished_is_left_out_and_named() -> None:
    odd = run(0.5, name="odd")
    del odd.history["test/accuracy"]
    found = compare([run(0.5), run(None, name="cut"), odd])
    assert found.left_out == ["cut (not tested)", "odd (no test/accuracy)"]
    with pytest.raises(InputError, match="no finished run among 1"):
        compare([run(None)])
    with pytest.raises(InputError, match="metric=test/acuracy: no finished run has it; did you mean 'test/accuracy'"):
        compare([run(0.5)], "test/acuracy")


# Statistics.

PLANTED = [
    ([0.98, 0.97, 0.99, 0.985], [0.96, 0.95, 0.97, 0.975]),
    ([0.9, 0.8, 0.7], [0.85, 0.75, 0.95, 0.65, 0.8]),
    ([1.0, 1.0, 1.0], [0.9, 0.95, 0.99]),
    ([0.5, 0.6], [0.4, 0.6]),
]


@pytest.mark.filterwarnings("ignore:Precision loss")
@pytest.mark.parametrize(("one", "other"), PLANTED)
def test_the_interval_and_p_are_those_of_welch(one: list[float], other: list[float]) -> None:
    welch = stats.ttest_ind(one, other, equal_var=False)
    interval = welch.confidence_interval(0.95)
    found = difference(one, other)
    assert found is not None
    assert found.value == pytest.approx(statistics.fmean(one) - statistics.fmean(other), abs=1e-12)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=1e-9)
    assert found.welch == pytest.approx(welch.pvalue, abs=1e-9)


@pytest.mark.parametrize(("one", "other"), PLANTED)
def test_the_permutation_test_tries_every_division(one: list[float], other: list[float]) -> None:
    values = [Fraction(str(value)) for value in (*one, *other)]  # in which equal is equal

    def gap(chosen: tuple[int, ...]) -> Fraction:
        left = [values[n] for n in chosen]
        right = [value for n, value in enumerate(values) if n not in chosen]
        return abs(sum(left) / len(left) - sum(right) / len(right))

    divisions = list(itertools.combinations(range(len(values)), len(one)))
    mine = gap(tuple(range(len(one))))
    found = difference(one, other)
    assert found is not None
    assert found.exact
    assert found.permutation == pytest.approx(sum(gap(c) >= mine for c in divisions) / len(divisions), abs=1e-12)


def test_many_seeds_are_permuted_by_chance_and_the_same_way_each_time() -> None:
    one, other = [0.9 + n / 1000 for n in range(12)], [0.9 + n / 990 for n in range(12)]
    found = difference(one, other)
    assert found is not None
    assert not found.exact
    assert found == difference(one, other)
    assert found.permutation == pytest.approx(found.welch, abs=0.02)


def group_runs(**scores: list[float]) -> list[Run]:
    return [run(score, routing=name, seed=n) for name, values in scores.items() for n, score in enumerate(values)]


def test_the_verdict_says_what_the_seeds_show() -> None:
    clear = verdict(compare(group_runs(A=[0.91, 0.92, 0.93, 0.92, 0.91], B=[0.71, 0.72, 0.73, 0.72, 0.71])))
    assert clear.startswith("A and B differ by 20.00 points in the mean of 5 and 5 runs, more than seeds explain: 95 %")
    assert "0.0079 (exact permutation test)" in clear  # 2 of 252 divisions
    unclear = verdict(compare(group_runs(A=[0.91, 0.92, 0.95], B=[0.90, 0.93, 0.94], C=[0.1, 0.2])))
    assert "no more than seeds explain" in unclear
    assert "the best of 3 groups" in unclear
    assert "the best of" not in clear


def test_tests_that_disagree_are_not_taken_for_a_proof() -> None:
    # three seeds: of 20 divisions two are as extreme, p = 0.1, whatever the distance
    said = verdict(compare(group_runs(A=[0.97, 0.98, 0.99], B=[0.47, 0.48, 0.49])))
    assert "on the border of what seeds explain" in said


def test_one_seed_is_no_evidence_and_has_no_deviation() -> None:
    found = compare(group_runs(A=[0.9], B=[0.8, 0.7]))
    assert found.groups[0].deviation is None
    assert format_metric("test/accuracy", 0.9, None) == "90.00 %"
    assert "A and B differ by 15.00 points in the mean of 1 and 2 runs, which is no evidence" in verdict(found)
    assert "a single run has no spread" in verdict(found)
    assert "no run differs from its group's" in verdict(compare(group_runs(A=[0.9, 0.9], B=[0.8, 0.8])))
    assert "nothing to compare" in verdict(compare(group_runs(A=[0.9, 0.8])))


def test_the_standard_error_of_an_accuracy_is_binomial(study: Path) -> None:
    runs = [read_run(folder) for folder in find_runs([study])]
    assert {one.test_images for one in runs if one.ended} == {100}
    said = verdict(compare(runs))
    assert f"96.00 % on them has a standard error of {100 * math.sqrt(0.96 * 0.04 / 100):.2f} points" in said
    assert "one image is 1." in said
    unknown = [Run(one.name, one.config, one.history, None, None, one.ended) for one in runs]
    assert "standard error" not in verdict(compare(unknown))


def test_what_is_pooled_is_said() -> None:
    alike = [run(score, routing=routing, seed=seed) for routing in "AB" for seed, score in enumerate((0.9, 0.91))]
    assert "also differ" not in verdict(compare(alike, by=["routing"]))
    found = compare([*alike, run(0.5, routing="A", lr=0.2, name="other")], by=["routing"])
    assert found.pooled == ["model.optimizer.lr"]
    assert "Runs of one group also differ in model.optimizer.lr" in verdict(found)


# W&B.


class Api:
    """Stands in for `wandb.Api`: a finished run, one that crashed in its test, and the test of a network by itself."""

    def runs(self, path: str) -> list[SimpleNamespace]:
        if path != "me/digits":
            raise ValueError(f"Could not find project {path}")
        rows = [
            {"_step": 3, "_runtime": 4.0, "trainer/global_step": 30, "val/accuracy": 0.5, "val/loss": None},
            {"_step": 4, "trainer/global_step": 40, "val/accuracy": 0.8, "figures": {"_type": "image"}},
            {"_step": 5, "trainer/global_step": 41, "test/accuracy": 0.75},
        ]
        flat_config = {"model.net.routing": "EMRouting", "seed_everything": 0}
        return [
            SimpleNamespace(
                id=name,
                config=flat_config,
                summary={"_runtime": 12.5},
                state=state,
                job_type=job_type,
                scan_history=lambda: rows,
            )
            for name, state, job_type in (
                ("one", "finished", "fit"),
                ("two", "crashed", None),
                ("three", "finished", "test"),
            )
        ]


def test_runs_of_wandb(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("wandb.Api", Api)
    main(["compare", "--wandb", "me/digits", "--by", "routing"])
    text = capsys.readouterr().out
    assert re.search(r"\nEMRouting +1 +75\.00 % +80\.00 % +- +- +- +12\.5 s", text)
    assert "left out: two (not tested)\n" in text
    with pytest.raises(SystemExit) as stopped:
        main(["compare", "--wandb", "me/letters"])
    assert stopped.value.code == 2
    assert "Could not find project me/letters; expected ENTITY/PROJECT" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--bye", "routing"], "--overwrite; did you mean '--by'"),
        (["--wandb", "a/b", "runs"], "--wandb takes runs from W&B alone"),
        (["a", "b", "--config", "s.yaml"], "--config takes one folder"),
        (["--metric"], "expected one argument"),
        (["nowhere"], "no folder nowhere"),
    ],
)
def test_wrong_words_are_one_line_and_status_2(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["compare", *words])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_seed_that_was_trained_twice_counts_once(capsys: pytest.CaptureFixture[str]) -> None:
    again = [run(0.8, name="a", seed=0), run(0.9, name="b", seed=0), run(0.7, name="c", seed=1)]
    found = compare([*again, run(0.5, name="d", routing="EM", seed=0)])
    assert [group.scores for group in found.groups] == [[0.9, 0.7], [0.5]]
    assert found.left_out == ["a (repeats a run of the same seed and settings)"]


def test_runs_that_differ_in_hardware_or_in_what_they_show_are_of_one_group() -> None:
    bar = {"class_path": "lightning.pytorch.callbacks.RichProgressBar"}
    stop = {"class_path": "lightning.pytorch.callbacks.EarlyStopping", "init_args": {"patience": 3}}
    of = {"trainer.devices": 4, "trainer.accelerator": "gpu", "trainer.strategy": "ddp", "trainer.callbacks": [bar]}
    one, other, stopped = (run(0.9, seed=n) for n in range(3))
    other.config.update(of)
    assert len(compare([one, other]).groups) == 1
    stopped.config["trainer.callbacks"] = [bar, stop]
    found = compare([other, stopped])
    assert found.keys == ["trainer.callbacks"]
    assert [group.values for group in found.groups] == [("-",), ("+EarlyStopping",)]


def test_a_score_that_is_no_number_is_left_out() -> None:
    found = compare([run(math.inf, name="a"), run(math.nan, name="b"), run(0.9, seed=1), run(-math.inf, name="c")])
    assert [group.scores for group in found.groups] == [[0.9]]
    assert found.left_out == ["a (test/accuracy is inf)", "b (test/accuracy is nan)", "c (test/accuracy is -inf)"]


@pytest.mark.parametrize(
    "words",
    [
        ("--csv", "digits/A0/config.yaml"),
        ("--csv", "old.csv"),
        ("--csv", "digits"),
        ("--output", "out"),
        ("--csv", "digits/A0/checkpoints/last.ckpt"),
        ("--csv", "x" * 300),
    ],
)
def test_an_output_replaces_nothing_unasked(
    words: tuple[str, str], study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(study)
    (study / "old.csv").write_text("mine")
    (study / "out").mkdir()
    (study / "out" / "comparison.csv").write_text("mine")
    before = {path: path.read_bytes() for path in study.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit) as stopped:
        main(["compare", ".", *words])
    assert stopped.value.code == 2
    assert "choose another" in capsys.readouterr().err or words[1] == "digits"
    assert {path: path.read_bytes() for path in study.rglob("*") if path.is_file()} == before


def test_an_output_is_replaced_when_that_is_asked_for(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(study)
    for _ in range(2):
        main(["compare", ".", "--output", "out", "--csv", "table.csv", "--overwrite"])
    assert (study / "table.csv").read_text() == (study / "out" / "comparison.csv").read_text()
    assert (study / "out" / "scores.png").stat().st_size > 10_000
