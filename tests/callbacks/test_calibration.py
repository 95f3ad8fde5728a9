"""What is learned from validation images goes with the checkpoint, and tests and predictions use it."""

import csv

import numpy as np
import pytest
import torch
from program import TINY, metrics

from capsule_lightning.analysis.calibration import at_temperature, conformal_threshold, temperature
from capsule_lightning.callbacks.calibration import Calibration, read_calibrated
from capsule_lightning.cli.configs import resolve
from capsule_lightning.components.build import build
from capsule_lightning.errors import InputError

ASKED = ("--trainer.callbacks+=Calibration", "--trainer.callbacks.coverage=0.8")


def scores_of(path, split):
    """Scores and labels of a checkpoint's network, without a trainer; of validation or test images."""
    experiment = build(resolve(["fit", *TINY]))
    experiment.task.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
    data, task = experiment.data, experiment.task.eval()
    data.setup("fit" if split == "val" else "test")
    loader = data.val_dataloader() if split == "val" else data.test_dataloader()
    batches = [data.on_after_batch_transfer(batch, 0) for batch in loader]
    with torch.no_grad():
        lengths = torch.cat([task(batch.images).activations for batch in batches])
    labels, indices = (torch.cat([getattr(batch, name) for batch in batches]) for name in ("labels", "indices"))
    order = indices.argsort()
    return task.loss.probabilities(lengths)[order], labels[order]


@pytest.mark.long(10)
def test_a_checkpoint_tells_how_sure_its_network_may_be(run_main):
    cwd = run_main("fit", *TINY, *ASKED, "--trainer.max_epochs=2", "--run_id=one")
    folder = cwd / "runs/digits/one"
    (path,) = (folder / "checkpoints").glob("epoch*.ckpt")
    states = torch.load(path, weights_only=True)["callbacks"]
    (said,) = (state for name, state in states.items() if "Calibration" in name)
    found, (scores, labels) = read_calibrated(said), scores_of(path, "val")
    assert found.temperature == pytest.approx(temperature(scores, labels), rel=1e-4)
    warmed = at_temperature(scores, found.temperature)
    assert found.threshold == pytest.approx(conformal_threshold(warmed, labels, 0.8), rel=1e-4)

    scores, labels = scores_of(path, "test")
    sets, values = found.sets(scores), metrics(folder)
    held = sets[torch.arange(len(labels)), labels].double()
    assert values["test/coverage"] == [pytest.approx(held.mean().item(), abs=0.01)]
    assert values["test/set_size"] == [pytest.approx(sets.sum(1).double().mean().item(), abs=0.02)]
    assert values["test/coverage/3"] == [pytest.approx(held[labels == 3].mean().item(), abs=0.06)]
    assert 0 <= values["test/calibration_error_at_temperature"][0] < 1

    run_main("predict", f"--ckpt_path={path}", "--trainer.accelerator=cpu")
    with (folder / "predict/predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    lengths = np.array([[float(row[f"length_{digit}"]) for digit in range(10)] for row in rows])
    sure = found.probabilities(torch.from_numpy(lengths / lengths.sum(1, keepdims=True)))
    for row, probabilities in zip(rows, sure.tolist(), strict=True):
        assert float(row["probability"]) == pytest.approx(max(probabilities), rel=1e-4)
        if min(abs(p - found.threshold) for p in probabilities) > 1e-6:
            assert row["set"] == ", ".join(str(n) for n, p in enumerate(probabilities) if p >= found.threshold)


def test_without_being_asked_nothing_is_learned_or_written(run_main):
    cwd = run_main("fit", *TINY, "--trainer.max_epochs=1", "--run_id=one", "--trainer.limit_train_batches=2")
    folder = cwd / "runs/digits/one"
    assert not any("coverage" in name for name in metrics(folder))
    states = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["callbacks"]
    assert not any("Calibration" in name for name in states)


@pytest.mark.parametrize(
    "said", [{}, {"temperature": 1.0}, {"temperature": 0.0, "threshold": 0.1, "coverage": 0.9}, [], "x"]
)
def test_another_state_is_none(said):
    callback = Calibration()
    callback.load_state_dict(said)
    assert callback.found is None


@pytest.mark.parametrize("coverage", [0.0, 1.0, -1.0, float("nan")])
def test_a_coverage_out_of_range_is_refused(coverage):
    with pytest.raises(InputError, match=r"coverage=.*between 0 and 1"):
        Calibration(coverage)
