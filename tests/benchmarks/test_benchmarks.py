"""Every benchmark runs and says what it should, and the yardstick computes what the package computes."""

import json
import math
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from heads import HEADS, HeadStep
from held import most_held
from measure import Bench, Setting, interleave, ratio, spread
from plain import PlainCapsNet, training_loss
from probes import main as probes
from program import Run, clean_environment, metrics
from step import PackageStep

from capsule_lightning.analysis.probe import PARAMETERS

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
FEW = "--repeats 2 --warmup 1"


def of_the_scripts(test: Any) -> Any:
    """Mark a test of `records`: one worker runs the scripts for all, each of which starts two processes and more."""
    return pytest.mark.nightly(pytest.mark.xdist_group("benchmarks")(test))


SMALLEST = {
    "step": f"{FEW} --batch_size 2 --precision 32-true --heap default",
    "routing": f"{FEW} --batch_size 2 --backends torch blocked --base 16 4 3 5 --num_in 16 --num_out 3 --dims 4x5",
    "data": f"{FEW} --images 256 --datasets mnist",
    "streaming": f"{FEW} --images 24 --side 16 --batch_size 8 --memory 60 --memory_side 8",
    "floor": f"{FEW} --batch_size 2 --config digits.yaml --matmul 64 --copy_mib 1",
    "profile_step": f"{FEW} --batch_size 2 --config digits.yaml --precision 32-true --rows 5",
    "convolution": f"{FEW} --batch_size 2 --sizes 5,2,3,4",
    "segmentation": f"{FEW} --batch_size 2 --sizes 16",
    "heads": f"{FEW} --batch_size 1 --num_classes 20",
    "zoo": f"{FEW} --batch_size 2 --pairs 'Efficient-CapsNet, network' 'Heinsen, vectors'",
    "inference": f"{FEW} --batch_size 2 --inner 1 --networks Efficient-CapsNet",
    "growth": f"{FEW} --points 1 --sweeps iterations",
    "translation": f"{FEW} --sentences 2 --tokens 4 --vocabulary 20 --dim 32 --hidden 8 --num_layers 2 --kinds none em",
    "viewpoints": "--seeds 0 --networks cnn --set trainer.max_epochs=1 data.clips=12 data.frames=2 data.batch_size=4",
    "time_to_accuracy": "--seeds 0 --config digits.yaml --set trainer.max_epochs=1 data.batch_size=256",
}


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[dict[str, Any]]]]:
    """What each script writes, two at a time."""
    folder = tmp_path_factory.mktemp("benchmarks")

    def run(name: str) -> dict[str, Any]:
        out = folder / "results" / f"{name}.json"
        done = subprocess.run(
            [sys.executable, BENCHMARKS / f"{name}.py", "--device", "cpu", "--out", out, *shlex.split(SMALLEST[name])],
            cwd=folder,
            env={**clean_environment(folder), "WANDB_MODE": "disabled"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return {**json.loads(out.read_text()), "out": out}

    with ThreadPoolExecutor(2) as pool:
        yield {name: pool.submit(run, name) for name in SMALLEST}


def assert_spread(found: dict[str, float]) -> None:
    assert 0 < found["min"] <= found["q1"] <= found["median"] <= found["q3"] < math.inf
    assert found["repeats"] >= 1


def test_turns_are_measured() -> None:
    benches = {
        precision: Bench(Setting("cpu", threads=1, keep_heap=False, seed=0)) for precision in ("32-true", "bf16-mixed")
    }
    for precision, bench in benches.items():
        bench.start(PackageStep(["--config", "digits.yaml"], 2, precision))
    times = interleave(benches, repeats=2, warmup=1, inner=1)
    losses = []
    for precision, bench in benches.items():
        assert_spread(spread(times[precision]))
        summary = bench.summary()
        losses.append(summary["loss"])
        assert summary["parameters"] == sum(p.numel() for p in bench.workload.task.parameters())
        assert (summary["in_shape"], summary["num_classes"]) == ([1, 8, 8], 10)
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert ratio(times["32-true"], times["32-true"])["median"] == 1


@of_the_scripts
@pytest.mark.parametrize("name", SMALLEST)
def test_says_where_the_numbers_come_from(name: str, records: dict[str, Future[dict[str, Any]]]) -> None:
    record = records[name].result()
    environment = record["environment"]
    assert record["benchmark"] == name
    assert record["threads"] == 1
    assert record["seed"] in (0, [0])
    assert environment["torch"] == torch.__version__
    assert environment["capsule_lightning"]
    assert {"python", "triton", "commit", "dirty", "device", "cpu", "load_average", "time"} <= set(environment)
    assert "config" not in record["arguments"] or record["arguments"]["config"]


@of_the_scripts
def test_translation(records: dict[str, Future[dict[str, Any]]]) -> None:
    results = records["translation"].result()["results"]
    for what in ("train", "translate"):
        for found in results[what].values():
            assert_spread(found["tokens_a_second"])
            assert_spread(found["time_of_a_token"])
        assert results[what]["none"]["time_of_a_token"]["median"] == 1
        assert results[what]["em"]["parameters"] > results[what]["none"]["parameters"]


@of_the_scripts
def test_step(records: dict[str, Future[dict[str, Any]]]) -> None:
    results = records["step"].result()["results"]
    assert set(results["steps"]) == {"plain", "32-true"}
    for found in results["steps"].values():
        assert_spread(found["ms"])
        assert found["images_per_s"] > 0
        assert found["parameters"] == 8_215_568
        assert math.isfinite(found["loss"])
        assert found["peak_mib"] is None or found["peak_mib"] > 4 * 4 * 8_215_568 / 2**20  # weights, gradients, Adam
    (ratio,) = results["ratios"]
    assert (ratio["of"], ratio["to"]) == ("32-true", "plain")
    assert_spread(ratio["time"])


@of_the_scripts
def test_routing(records: dict[str, Future[dict[str, Any]]]) -> None:
    (shape,) = records["routing"].result()["results"]
    assert [shape[size] for size in ("num_in", "dim_in", "num_out", "dim_out")] == [16, 4, 3, 5]
    assert set(shape["backends"]) == {"torch", "blocked"}
    for found in shape["backends"].values():
        assert_spread(found["ms"])
        assert_spread(found["time_ratio"])
        assert found["peak_mib"] is None or found["peak_mib"] >= 0


@of_the_scripts
def test_convolution(records: dict[str, Future[dict[str, Any]]]) -> None:
    (found,) = records["convolution"].result()["results"]
    assert_spread(found["ratio"])
    assert (found["kernel"], found["outputs"], found["chosen"]) == (5, 3, False)
    assert found["relative_work"] > 0.57


@of_the_scripts
def test_segmentation(records: dict[str, Future[dict[str, Any]]]) -> None:
    (found,) = records["segmentation"].result()["results"]
    assert found["size"] == 16
    assert found["steps"]["blocks"]["loss"] == pytest.approx(found["steps"]["stored"]["loss"], rel=1e-3)
    assert_spread(found["ratio"]["time"])


@of_the_scripts
def test_heads(records: dict[str, Future[dict[str, Any]]]) -> None:
    found = records["heads"].result()["results"]
    assert set(found) == set(HEADS)
    for head in found.values():
        assert_spread(head["ms"])
        assert 0 < head["held_mib"] < head["law_mib"]


def test_tensors_are_counted_while_they_are_held() -> None:
    def run() -> None:
        first = torch.zeros(1000, 1000)
        second = first + 1
        del first
        torch.stack([second, second]).sum()

    assert 12_000_000 <= most_held(run) < 12_001_000


@of_the_scripts
def test_zoo(records: dict[str, Future[dict[str, Any]]]) -> None:
    results = records["zoo"].result()["results"]
    assert [*results] == ["Efficient-CapsNet, network", "Heinsen, vectors"]
    for found in results.values():
        assert_spread(found["time_ratio"])
        assert found["plain"]["parameters"] == found["ours"]["parameters"]
    assert results["Efficient-CapsNet, network"]["ours"]["parameters"] == 161_824


@of_the_scripts
def test_inference(records: dict[str, Future[dict[str, Any]]]) -> None:
    (found,) = records["inference"].result()["results"].values()
    for ways in found.values():
        assert [*ways] == ["plain", "load_network", "predict", "ONNX"]
        for way in ways.values():
            assert_spread(way["time_ratio"])
            assert way["images_per_s"] > 0


@of_the_scripts
def test_growth(records: dict[str, Future[dict[str, Any]]]) -> None:
    record = records["growth"].result()
    found = record["results"]["iterations"]["1"]
    assert found["products"] == 32 * 1152 * 10 * 16 * (8 + 1)
    for form in ("plain", "fused"):
        assert_spread(found[form]["ms"])
        assert found[form]["law_mib"] > 0
    assert record["out"].with_suffix(".png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("batch_size", [2, 8])
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.nightly if name in ("shared", "hidden") else ()) for name in HEADS],
)
def test_a_step_of_a_thousand_classes_stays_within_the_derived_memory(name: str, batch_size: int) -> None:
    workload = HeadStep(name, batch_size)
    held, law = workload.held(), workload.law
    assert 0.6 * law.bytes < held <= law.bytes  # the law is no mere upper bound
    if name == "shared":
        assert held < law.stored_votes / 4


@of_the_scripts
def test_data(records: dict[str, Future[dict[str, Any]]]) -> None:
    found = records["data"].result()["results"]["mnist"]
    assert found["source"] == "generated"
    assert found["images"] == {"package": 256, "per_sample": 256}
    assert_spread(found["images_per_s"]["package"])
    assert_spread(found["ratio"])


@of_the_scripts
def test_streaming(records: dict[str, Future[dict[str, Any]]]) -> None:
    found = records["streaming"].result()["results"]  # the script stops unless all read the same pixels
    assert found["images"] == {"originals": 24, "shards": 24, "image_folder": 32}  # 10 of 34 are the package's test
    for rate in found["images_per_s"].values():
        assert_spread(rate)
    assert found["ratio"].keys() == {"originals", "shards"}
    for spent in found["profile"]["ms_per_image"].values():
        assert_spread(spent)
    assert [(row["images"], row["storage"]) for row in found["memory"]] == [(60, "originals"), (60, "shards")]


@of_the_scripts
def test_floor(records: dict[str, Future[dict[str, Any]]]) -> None:
    results = records["floor"].result()["results"]
    for found in results.values():
        assert_spread(found["ms"])
        assert 0 < found["rate"] < math.inf
    kinds = ("matmul fp32", "matmul bf16", "copy", "step with uniform routing 32-true")
    assert set(kinds) <= set(results)
    assert {"convolution bf16 channels_last forward", "convolution fp32 contiguous forward and backward"} <= set(
        results
    )


@of_the_scripts
def test_viewpoints(records: dict[str, Future[dict[str, Any]]]) -> None:
    results = records["viewpoints"].result()["results"]
    assert set(results["runs"]["cnn"]["0"]) == {"front", "30 degrees", "60 degrees", "90 degrees", "top"}
    for view, found in results["summary"].items():
        mean = found["pck20_box"]["cnn"]
        assert mean == {"mean": results["runs"]["cnn"]["0"][view]["pck20_box"], "low": None, "high": None, "count": 1}
        assert 0 <= mean["mean"] <= 1


@of_the_scripts
def test_profile(records: dict[str, Future[dict[str, Any]]]) -> None:
    record = records["profile_step"].result()
    table = record["out"].with_suffix(".txt").read_text()
    for name in ("plain", "32-true"):
        found = record["results"][name]
        assert found["cpu_ms"] > 0
        assert len(found["operations"]) == 5
        assert f"{name}: " in table
    assert "aten::convolution_backward" in table


@of_the_scripts
def test_time_to_accuracy(records: dict[str, Future[dict[str, Any]]]) -> None:
    results = records["time_to_accuracy"].result()["results"]
    (run,) = results["runs"]
    assert run["seconds"] == results["mean"]["seconds"] > 0
    assert 0 < run["test_accuracy"] == results["mean"]["test_accuracy"] <= 1


def test_the_yardstick_computes_what_the_package_computes() -> None:
    package = PackageStep(["--config", "mnist.yaml"], batch_size=3)
    device = torch.device("cpu")
    package.load(device)
    package.build(device)
    package.batch = package.batch._replace(labels=torch.tensor([3, 1, 4]))
    weights = {
        re.sub(r"^(encoder|routing)\.|(?<=decoder)\.layers", "", name): weight
        for name, weight in package.task.net.named_parameters()
    }
    yardstick = PlainCapsNet()
    yardstick.load_state_dict({name: weight.detach() for name, weight in weights.items()})
    loss, expected = training_loss(yardstick, package.batch.pictures, package.batch.labels), package.loss()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=0)
    loss.backward()
    expected.backward()
    for name, weight in yardstick.named_parameters():
        assert (weight.grad - weights[name].grad).norm() <= 1e-4 * weights[name].grad.norm(), name


def test_one_failing_part_does_not_stop_the_others(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", BENCHMARKS / "gpu.sh"],
        env={**os.environ, "PYTHON": "false", "OUT": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    parts = ("step", "step_compiled", "routing", "time_to_accuracy", "floor", "kernels", "configs")
    assert done.returncode == 1
    assert all(f"== {part}: status 1 " in done.stdout for part in parts)
    assert {f"{part}.log" for part in parts} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.nightly
def test_probes(trained: Run, tmp_path: Path) -> None:
    probes(["--images", "20", "--out", str(tmp_path / "probes.json"), trained.checkpoint])
    (found,) = json.loads((tmp_path / "probes.json").read_text())["results"]
    assert found["whole"].keys() == found["best_single"].keys() == {parameter.name for parameter in PARAMETERS}
    assert all(value <= 1 for value in [*found["whole"].values(), *found["best_single"].values()])
    assert found["numbers"] == 16
    assert found["test_accuracy"] == pytest.approx(metrics(trained.folder)["test/accuracy"][-1])
