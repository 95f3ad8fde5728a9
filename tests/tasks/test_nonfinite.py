"""Losses and gradients that are not finite: nothing is updated, the run ends or goes on, and the message says why."""

import json
import math
import os
import subprocess
import sys
from copy import deepcopy
from functools import partial
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins import MixedPrecision
from program import clean_environment

from capsule_lightning.callbacks.compile import CompileNetwork
from capsule_lightning.data.digits import DigitsDataModule
from capsule_lightning.data.multimnist import MultiMNISTDataModule
from capsule_lightning.decoders.dense import DenseDecoder
from capsule_lightning.encoders.efficient import EfficientEncoder
from capsule_lightning.errors import InputError, StoppedError
from capsule_lightning.losses.base import ClassificationLoss
from capsule_lightning.losses.margin import MarginLoss
from capsule_lightning.models.capsnet import CapsNet
from capsule_lightning.routing.self_attention import SelfAttentionRouting
from capsule_lightning.tasks.classification import ClassificationTask
from capsule_lightning.tasks.multilabel import MultiLabelTask
from capsule_lightning.tasks.nonfinite import (
    SeenBatch,
    account,
    all_finite,
    finding,
    first_few,
    nan_gradients_unless_finite,
    not_finite,
)

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*(num_workers|hparams|lr_scheduler.step|srun|Total length|left out step)"
)

BATCH = 32
SMALL = partial(  # with running statistics, which a batch of NaN would spoil
    CapsNet,
    encoder=partial(EfficientEncoder, channels=(4, 16), kernel_sizes=(3, 3), strides=(1, 2)),
    routing=SelfAttentionRouting,
    decoder=partial(DenseDecoder, hidden=(8,)),
)


class InfiniteGradient(torch.autograd.Function):
    """The number itself, with a derivative that is infinite."""

    @staticmethod
    def forward(ctx, value):
        return value.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * math.inf


FAULTS = {
    "nan": lambda loss: loss * math.nan,
    "inf": lambda loss: loss + math.inf,  # whose own gradients are finite
    "gradient": InfiniteGradient.apply,
}


class FaultyLoss(ClassificationLoss):
    """The margin loss, wrong at some training batches, counted from 0."""

    def __init__(self, at=(), fault="nan"):
        super().__init__()
        self.margin, self.wrong, self.fault, self.batches = MarginLoss(), set(at), FAULTS[fault], 0

    def forward(self, capsules, targets):
        loss = self.margin(capsules, targets)
        if not torch.is_grad_enabled():
            return loss
        self.batches += 1
        return self.fault(loss) if self.batches - 1 in self.wrong else loss


class BrokenImages(DigitsDataModule):
    """Digits of which some training images are NaN."""

    broken = ()

    def on_after_batch_transfer(self, batch, dataloader_idx):
        made = super().on_after_batch_transfer(batch, dataloader_idx)
        broken = torch.isin(made.indices, torch.tensor(self.broken, dtype=torch.int64))
        return made._replace(images=made.images.masked_fill(broken.view(-1, 1, 1, 1), math.nan))


class Watch(L.Callback):
    """Keeps the state before and after each batch, the indices, and the losses."""

    def __init__(self):
        self.before, self.after, self.indices, self.losses = [], [], [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.before.append(state(trainer))
        self.indices.append(batch.indices.tolist())

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.after.append(state(trainer))
        self.losses.append(outputs["loss"].item())


def state(trainer):
    task, (optimizer,) = trainer.lightning_module, trainer.optimizers
    return deepcopy((dict(task.state_dict()), optimizer.state_dict()["state"]))


def same(one, other):
    """Whether two states are equal to the bit."""
    ours, theirs = (
        {**weights, **{f"{n}.{key}": value for n, values in moments.items() for key, value in values.items()}}
        for weights, moments in (one, other)
    )
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def task(loss=MarginLoss, optimizer=torch.optim.Adam, **options):
    torch.manual_seed(0)
    return ClassificationTask((1, 8, 8), 10, net=SMALL, loss=loss, optimizer=partial(optimizer, lr=0.01), **options)


def digits(kind=DigitsDataModule):
    return kind(batch_size=BATCH, val_size=0, seed=0)


def trainer(folder, *callbacks, steps=6, **options):
    options = {"max_steps": steps, "enable_checkpointing": False, "limit_val_batches": 0, **options}
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return L.Trainer(default_root_dir=folder, callbacks=list(callbacks), **quiet, **options)


def stopped(run, net, data=None):
    """The message of a run that stops."""
    with pytest.raises(StoppedError) as caught:
        run.fit(net, datamodule=data or digits())
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_finite_loss_and_its_gradients_stay_to_the_bit(dtype):
    numbers = np.random.default_rng(0).standard_normal(200) * 10.0 ** np.arange(-30, 30).repeat(4)[:200]
    for number in (*numbers.tolist(), 0.0, -0.0, torch.finfo(dtype).max, torch.finfo(dtype).tiny):
        gradients = []
        for function in (nan_gradients_unless_finite, lambda loss: loss):
            leaf = torch.tensor(number, dtype=dtype, requires_grad=True)
            value = function(leaf * 1)
            (3 * value).backward()
            gradients.append((value.detach().numpy().tobytes(), leaf.grad.numpy().tobytes()))
        assert gradients[0] == gradients[1]


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_the_gradients_of_any_other_loss_are_nan(number):
    leaf = torch.ones(2, requires_grad=True)
    nan_gradients_unless_finite(leaf.sum() + number).backward()
    assert leaf.grad.isnan().all()


def test_every_parameter_hears_of_a_loss_that_is_infinite_by_a_constant(monkeypatch):
    net = task(partial(FaultyLoss, at=[0], fault="inf"))
    monkeypatch.setattr(net, "log", lambda *_, **__: None)
    net.training_step(net.example_batch(16), 0).backward()
    assert len(not_finite({name: p.grad for name, p in net.named_parameters()})) == len(list(net.parameters()))


def test_finite_is_what_has_a_finite_norm():
    good = {"a": torch.tensor([1e18, -3.0]), "b": torch.zeros(2, 2, dtype=torch.float64), "c": torch.tensor([7])}
    assert all_finite(good.values())
    assert all_finite([])
    for number in (math.nan, math.inf, -math.inf, 1e30):  # Adam squares the last
        tensors = good | {"d": torch.tensor([[0.0, number]]), "e": torch.tensor([1.0])}
        assert not all_finite(tensors.values())
        assert not_finite(tensors) == ["d"]


@pytest.mark.parametrize(("count", "text"), [(1, "0"), (3, "0, 1, 2"), (5, "0, 1, 2 and 2 more")])
def test_long_lists_are_cut(count, text):
    assert first_few(range(count), 3) == text


def test_the_account_names_the_batch_that_went_wrong():
    one, nan = torch.ones(3), torch.tensor(math.nan)
    good = SeenBatch(torch.tensor([1, 2, 3]), one, {"loss": torch.tensor(0.5)})
    bad = SeenBatch(torch.arange(10, 22), torch.tensor([1.0] * 11 + [math.inf]), {"loss": nan, "class_loss": nan})
    assert account([good]) == "a finite loss of examples 1, 2, 3 of the training set"
    told = account([good, bad])
    assert told.startswith("loss=nan, class_loss=nan of examples 10, 11, 12, 13, 14, 15, 16, 17 and 4 more of the")
    assert told.endswith("of which 21 has inputs that are not finite")
    assert finding(3, 1, ["x", "y"], []) == (
        "step 3 in epoch 1: process 0: x; process 1: y; the norm of all gradients is not finite"
    )


ADAM, FUSED, SGD = torch.optim.Adam, partial(torch.optim.Adam, fused=True), partial(torch.optim.SGD, momentum=0.9)


@pytest.mark.parametrize(
    ("fault", "optimizer", "options"),
    [
        ("nan", ADAM, {}),
        ("inf", FUSED, {}),
        ("gradient", SGD, {"gradient_clip_val": 1.0}),
        ("nan", partial(torch.optim.AdamW, weight_decay=0.1), {"gradient_clip_val": 0.1}),
        ("gradient", ADAM, {"gradient_clip_val": 0.1, "gradient_clip_algorithm": "value"}),
    ],
)
def test_the_run_stops_at_the_step_before_its_update(tmp_path, fault, optimizer, options):
    watch = Watch()
    run = trainer(tmp_path, watch, **options)
    message = stopped(run, task(partial(FaultyLoss, at=[3], fault=fault), optimizer))
    few = ", ".join(map(str, watch.indices[3][:8]))
    assert message.startswith("step 3 in epoch 0: ")
    assert f"of examples {few} and 24 more of the training set; the gradients of net." in message
    loss = {"nan": "loss=nan, class_loss=nan", "inf": "loss=inf, class_loss=inf", "gradient": "a finite loss"}[fault]
    assert f"step 3 in epoch 0: {loss} of examples" in message
    assert "This step changed no weight, and they are finite. Try a lower --model.optimizer.lr, " in message
    assert "--trainer.gradient_clip_val 1 or --model.skip_not_finite 10" in message
    assert "There is no checkpoint yet: start again" in message
    clean = trainer(tmp_path, steps=3, **options)
    clean.fit(task(optimizer=optimizer), datamodule=digits())
    after_three = state(clean)
    (weights, moments), (expected, _) = state(run), after_three
    running = {name for name in expected if "running" in name or "num_batches" in name}
    parameters = {name for name, _ in run.lightning_module.named_parameters()}
    assert running
    assert parameters | running == set(expected)
    assert same(({n: weights[n] for n in parameters}, moments), ({n: expected[n] for n in parameters}, after_three[1]))


def test_the_message_names_the_gradients_and_images_that_are_not_finite(tmp_path):
    data, watch = digits(BrokenImages), Watch()
    data.broken = [100, 200]
    message = stopped(trainer(tmp_path, watch, steps=60), task(), data)
    seen = [index for index in watch.indices[-1] if index in data.broken]
    assert "loss=nan, class_loss=nan, reconstruction_loss=nan of examples" in message
    assert f"of which {seen[0]} has inputs that are not finite; the gradients of " in message
    assert f"step {len(watch.after)} in epoch 0" in message
    count = len(list(task().parameters()))
    assert f" and {count - 3} more are not finite" in message


def test_the_last_checkpoint_is_named(tmp_path):
    every = ModelCheckpoint(tmp_path / "kept here", every_n_train_steps=2, save_top_k=-1, save_last=True)
    run = trainer(tmp_path, every, enable_checkpointing=True)
    message = stopped(run, task(partial(FaultyLoss, at=[5])))
    path = tmp_path / "kept here" / "last.ckpt"
    assert message.endswith(f"Resume with: fit --ckpt_path '{path}'")
    assert torch.load(path, weights_only=False)["global_step"] == 4
    again = trainer(tmp_path)
    resumed = task(partial(FaultyLoss, at=[0]))  # it has not saved anything itself
    with pytest.raises(StoppedError, match=r"^step 4 .* --ckpt_path '.*kept here/last.ckpt'$"):
        again.fit(resumed, datamodule=digits(), ckpt_path=path, weights_only=False)


@pytest.mark.parametrize(
    ("fault", "optimizer", "options"),
    [
        ("nan", ADAM, {}),
        pytest.param("inf", FUSED, {"gradient_clip_val": 1.0}, marks=pytest.mark.nightly),
        pytest.param("gradient", partial(torch.optim.AdamW, weight_decay=0.1), {}, marks=pytest.mark.nightly),
        ("gradient", SGD, {"gradient_clip_val": 0.1, "gradient_clip_algorithm": "value"}),
    ],
)
def test_a_step_left_out_changes_nothing_and_training_goes_on(tmp_path, fault, optimizer, options):
    watch, wrong = Watch(), (2, 3, 6)
    run = trainer(tmp_path, watch, steps=60, **options)
    net = task(partial(FaultyLoss, at=wrong, fault=fault), optimizer, skip_not_finite=2)
    with pytest.warns(UserWarning, match="left out step") as warned:
        run.fit(net, datamodule=digits())
    told = [str(w.message) for w in warned if "left out" in str(w.message)]
    assert len(told) == 3
    for step, row, text in zip(wrong, (1, 2, 1), told, strict=True):
        assert text.startswith(f"left out step {step} in epoch 0: ")
        assert f"of examples {', '.join(map(str, watch.indices[step][:8]))} and 24 more" in text
        assert text.endswith(f"({row} in a row; more than 2 end the run)")
    for step, (before, after) in enumerate(zip(watch.before, watch.after, strict=True)):
        assert same(before, after) == (step in wrong), step
    losses = [loss for loss in watch.losses if math.isfinite(loss)]
    assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:2])
    assert len(watch.losses) == run.global_step == 60


def test_skips_are_counted_in_each_epoch(tmp_path):
    counts = []

    class Count(L.Callback):
        def on_train_end(self, trainer, pl_module):
            counts.append(trainer.callback_metrics.get("train/skipped_steps"))

        def on_train_epoch_start(self, trainer, pl_module):
            counts.append(trainer.callback_metrics.get("train/skipped_steps"))

    run = trainer(tmp_path, Count(), steps=-1, max_epochs=2, limit_train_batches=5)
    with pytest.warns(UserWarning, match="left out step"):
        run.fit(task(partial(FaultyLoss, at=[1, 3, 4, 8]), skip_not_finite=3), datamodule=digits())
    assert counts == [None, 3, 1]


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.nightly)])
def test_a_broken_image_leaves_no_trace_in_running_statistics(tmp_path, compiled):
    data, watch = digits(BrokenImages), Watch()
    data.broken = [5, 100, 200]
    callbacks = [CompileNetwork(backend="eager")] if compiled else []
    run = trainer(tmp_path, watch, *callbacks, steps=44)
    with pytest.warns(UserWarning, match="inputs that are not finite"):
        run.fit(task(skip_not_finite=3), datamodule=data)
    unchanged = [same(*pair) for pair in zip(watch.before, watch.after, strict=True)]
    assert unchanged == [any(index in data.broken for index in indices) for indices in watch.indices]
    assert any(unchanged)
    assert all_finite(run.lightning_module.state_dict().values())


def test_one_more_in_a_row_stops(tmp_path):
    net = task(partial(FaultyLoss, at=[1, 2, 4, 5, 7, 8, 9]), skip_not_finite=2)
    watch = Watch()
    with pytest.warns(UserWarning, match="left out step 8"):
        message = stopped(trainer(tmp_path, watch, steps=20), net)
    assert message.startswith("step 9 in epoch 0: loss=nan")
    assert "It is number 3 of such steps in a row. This step changed no weight" in message
    assert "skip_not_finite" not in message
    assert len(watch.after) == 9


def test_the_count_survives_a_checkpoint(tmp_path):
    run = trainer(tmp_path, steps=3)
    with pytest.warns(UserWarning, match="left out step"):
        run.fit(task(partial(FaultyLoss, at=[1, 2]), skip_not_finite=2), datamodule=digits())
    run.save_checkpoint(tmp_path / "three.ckpt")
    options = {"datamodule": digits(), "ckpt_path": tmp_path / "three.ckpt", "weights_only": False}
    with pytest.raises(StoppedError, match=r"step 3 .*number 3 of such steps in a row"):
        trainer(tmp_path).fit(task(partial(FaultyLoss, at=[0]), skip_not_finite=2), **options)
    again = trainer(tmp_path)
    with pytest.warns(UserWarning, match=r"left out step 4 .*\(1 in a row"):
        again.fit(task(partial(FaultyLoss, at=[1]), skip_not_finite=2), **options)
    assert again.global_step == 6


@pytest.mark.parametrize("fault", ["nan", "gradient"])
@pytest.mark.parametrize("number", [2, 3])
def test_one_of_the_batches_whose_gradients_are_summed(tmp_path, fault, number):
    """The optimizer steps after batches 1, 3, 5, ...; a bad one spoils both of its pair."""
    watch = Watch()
    run = trainer(tmp_path, watch, steps=4, accumulate_grad_batches=2)
    net = task(partial(FaultyLoss, at=[number], fault=fault), skip_not_finite=1)
    with pytest.warns(UserWarning, match="left out step 1") as warned:
        run.fit(net, datamodule=digits())
    (text,) = (str(w.message) for w in warned if "left out" in str(w.message))
    named = watch.indices[number] if fault == "nan" else watch.indices[2] + watch.indices[3]
    assert f"examples {', '.join(map(str, named[:8]))} and {len(named) - 8} more" in text
    assert same(watch.before[2], watch.after[3])
    assert [same(watch.before[2 * n], watch.after[2 * n + 1]) for n in range(4)] == [False, True, False, False]
    message = stopped(trainer(tmp_path, accumulate_grad_batches=2), task(partial(FaultyLoss, at=[number], fault=fault)))
    assert message.startswith("step 1 in epoch 0")


def scaled(scale, **options):
    return MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=scale, **options))


@pytest.mark.parametrize("optimizer", [ADAM, FUSED])
def test_a_scaler_on_its_search_is_left_alone(tmp_path, optimizer, recwarn):
    watch, precision = Watch(), scaled(2.0**30)
    run = trainer(tmp_path, watch, steps=30, plugins=[precision])
    run.fit(task(optimizer=optimizer), datamodule=digits())
    parameters = {name for name, _ in run.lightning_module.named_parameters()}
    moved = [
        any(not torch.equal(before[0][n], after[0][n]) for n in parameters)
        for before, after in zip(watch.before, watch.after, strict=True)
    ]
    assert not any(moved[:3])
    assert sum(moved[20:]) >= 5  # an overflow now and then is normal
    assert precision.scaler.get_scale() < 2.0**28
    assert not [w for w in recwarn if "left out" in str(w.message)]


@pytest.mark.parametrize(("skip", "steps"), [(0, 19), (22, 21)])
def test_a_scaler_that_finds_no_scale_is_stopped(tmp_path, skip, steps):
    net = task(partial(FaultyLoss, at=range(1, 60), fault="gradient"), skip_not_finite=skip)
    message = stopped(trainer(tmp_path, steps=60, plugins=[scaled(1024.0)]), net)
    assert message.startswith(f"step {1 + steps} in epoch 0: a finite loss of examples")
    assert f"number {steps + 1} of such steps in a row" in message
    assert "--trainer.precision bf16-mixed" in message
    assert "skip_not_finite" not in message


def test_a_scaler_does_not_hide_a_loss_that_is_nan(tmp_path):
    precision = {"plugins": [scaled(1024.0)]}
    message = stopped(trainer(tmp_path, **precision), task(partial(FaultyLoss, at=[2])))
    assert message.startswith("step 2 in epoch 0: loss=nan, class_loss=nan of examples")
    watch = Watch()
    run = trainer(tmp_path, watch, steps=8, plugins=[scaled(1024.0)])
    with pytest.warns(UserWarning, match="left out step 2 in epoch 0: loss=nan"):
        run.fit(task(partial(FaultyLoss, at=[2]), skip_not_finite=1), datamodule=digits())
    assert [same(*pair) for pair in zip(watch.before, watch.after, strict=True)] == [n == 2 for n in range(8)]


def test_weights_that_an_update_has_spoilt_are_not_called_good(tmp_path):
    net = task(optimizer=lambda parameters, lr: torch.optim.SGD(parameters, lr=3e38), skip_not_finite=5)
    message = stopped(trainer(tmp_path), net)  # though five more might be left out
    assert "The weights were not finite before it: an earlier update was too large" in message
    assert "changed no weight" not in message


def test_gradients_too_large_for_the_moments_of_adam(tmp_path):
    finite = []

    class Look(L.Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            finite.append(all(p.grad.isfinite().all() for p in pl_module.parameters()))

    message = stopped(trainer(tmp_path, Look()), task(partial(Scaled, 1e25)))
    assert "step 0 in epoch 0: a finite loss of examples" in message
    assert finite == [True]


class Scaled(MarginLoss):
    """The margin loss times a number."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, capsules, targets):
        return self.factor * super().forward(capsules, targets)


def test_a_trial_run_stops_too(tmp_path):
    run = trainer(tmp_path, fast_dev_run=True)
    assert stopped(run, task(partial(FaultyLoss, at=[0]))).startswith("step 0 in epoch 0")


def test_several_labels(tmp_path):
    net = MultiLabelTask(
        (1, 36, 36),
        10,
        net=partial(SMALL, encoder=partial(EfficientEncoder, channels=(4, 8), kernel_sizes=(9, 9), strides=(3, 2))),
        loss=partial(FaultyLoss, at=[1, 2]),
        skip_not_finite=1,
    )
    data = MultiMNISTDataModule(fake=True, batch_size=8)
    with pytest.warns(UserWarning, match="left out step 1 in epoch 0: loss=nan, class_loss=nan"):
        assert "step 2 in epoch 0" in stopped(trainer(tmp_path), net, data)


def test_negative_numbers_are_refused():
    with pytest.raises(InputError, match="skip_not_finite=-1: expected 0 or a number of steps"):
        task(skip_not_finite=-1)


TWO_PROCESSES = """
import json, os, sys, warnings
from functools import partial
sys.path[:0] = json.loads(os.environ["TEST_PATH"])
import lightning as L
import torch
import test_nonfinite as t

rank, told = int(os.environ["RANK"]), {}
here = lambda at: at if rank == 1 else ()
for name, skip, at, plugins in (
    ("stop", 0, [2], []),
    ("skip", 1, [2], []),
    ("scaler", 0, [2], [t.scaled(1024.0)]),
):
    watch = t.Watch()
    options = {"strategy": "ddp", "devices": 2, "plugins": plugins, "use_distributed_sampler": False}
    run = t.trainer(".", watch, steps=-1, max_epochs=1, limit_train_batches=5, **options)
    net = t.task(partial(t.FaultyLoss, at=here(at)), skip_not_finite=skip)
    message = ""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            run.fit(net, datamodule=t.digits())
        except t.StoppedError as error:
            message = str(error)
    told[name] = {
        "message": message,
        "warned": [str(w.message) for w in warned if "left out" in str(w.message)],
        "sync": [str(w.message) for w in warned if "sync_dist" in str(w.message)],
        "left_alone": [n for n, pair in enumerate(zip(watch.before, watch.after)) if t.same(*pair)],
        "indices": watch.indices[2],
        "skipped": float(run.callback_metrics.get("train/skipped_steps", 0)),
        "weights": [p.double().sum().item() for p in net.parameters()],
    }
with open(f"{rank}.json", "w") as file:
    json.dump(told, file)
"""


@pytest.mark.nightly
def test_processes_of_which_one_sees_the_fault_stop_and_skip_together(tmp_path):
    script = tmp_path / "two.py"
    script.write_text(TWO_PROCESSES)
    folders = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "helpers")]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)],
        cwd=tmp_path,
        env={**clean_environment(tmp_path), "TEST_PATH": json.dumps(folders), "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    one, other = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    for name in ("stop", "skip", "scaler"):
        assert one[name]["weights"] == other[name]["weights"]
        assert one[name]["message"] == other[name]["message"]
        assert not one[name]["sync"]
        few, others = (", ".join(map(str, each[name]["indices"][:8])) for each in (one, other))
        text = one[name]["message"] or one[name]["warned"][0]
        assert f"process 0: a finite loss of examples {few} and 8 more of the training set; process 1: loss=nan" in text
        assert f"class_loss=nan of examples {others} and 8 more" in text
    assert one["stop"]["message"].startswith("step 2 in epoch 0")
    assert one["scaler"]["message"].startswith("step 2 in epoch 0")
    assert not one["skip"]["message"]
    assert len(one["skip"]["warned"]) == 1
    assert not other["skip"]["warned"]
    assert one["skip"]["skipped"] == other["skip"]["skipped"] == 1
    assert one["skip"]["left_alone"] == other["skip"]["left_alone"] == [2]
