"""The forecast: the paper's counts, memory that grows as stated, and nothing changed by the measurement."""

from functools import partial

import pytest
import torch
from tiers import nightly_but
from torch.testing import assert_close

from capsule_lightning.callbacks import forecast as module
from capsule_lightning.callbacks.forecast import Needs, forecast
from capsule_lightning.encoders.efficient import EfficientEncoder
from capsule_lightning.models.capsnet import CapsNet
from capsule_lightning.routing.dynamic import DynamicRouting
from capsule_lightning.routing.uniform import UniformRouting
from capsule_lightning.tasks.classification import ClassificationTask

SMALL = partial(CapsNet, encoder=partial(EfficientEncoder, channels=(4, 8), kernel_sizes=(5, 3), strides=(2, 2)))


def task(routing=DynamicRouting, shape=(1, 20, 20)):
    """A small network with batch normalization and a decoder."""
    return ClassificationTask(shape, 5, net=partial(SMALL, routing=routing))


def test_counts_of_the_papers_network():
    net = partial(CapsNet, routing=partial(DynamicRouting, backend="torch"))
    needs = forecast(ClassificationTask((1, 28, 28), 10, net=net))
    assert needs.parameters == 8_215_568
    # convolutions, votes, routing with r = 3, decoder
    assert needs.multiply_adds == 8_294_400 + 191_102_976 + 1_474_560 + 921_600 + 1_409_024


def test_weights_gradients_and_the_state_of_the_optimizer_are_counted():
    net = task()
    weights = 4 * sum(p.numel() for p in net.parameters())
    plain = forecast(net).fixed
    assert plain >= 2 * weights
    assert forecast(net, [torch.optim.Adam(net.parameters())]).fixed - plain == 2 * weights
    assert forecast(net, [torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)]).fixed - plain == weights


def test_what_an_image_adds_is_what_autograd_keeps():
    net, kept = task(), {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    batch = net.example_batch(32)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = net.losses(net.output(batch), batch)["loss"]
    total = sum(kept.values())
    assert loss.isfinite()
    needs = forecast(net)
    assert 32 * needs.per_image >= total - needs.fixed
    assert 32 * needs.per_image <= 5 * total  # all of it, and four copies of its largest part


class Fickle(UniformRouting):
    """Keeps a tensor more for every image, and throws each away."""

    def forward(self, capsules):
        for pose in capsules.poses:
            pose.exp()
        return super().forward(capsules)


def test_a_step_that_keeps_other_tensors_of_other_batches_is_forecast():
    assert forecast(task(Fickle)).per_image >= forecast(task(UniformRouting)).per_image > 1


def test_nothing_is_changed():
    net = task()
    before, state = {k: v.clone() for k, v in net.state_dict().items()}, torch.get_rng_state()
    forecast(net, [torch.optim.Adam(net.parameters())])
    assert_close(net.state_dict(), before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in net.parameters())
    assert net.training


def test_the_largest_batch_is_the_last_that_fits():
    needs = Needs(parameters=1, multiply_adds=1, fixed=1000, per_image=30)
    fits = needs.largest_batch(2000)
    assert needs.memory(fits) <= 2000 < needs.memory(fits + 1)
    assert needs.largest_batch(900) == 0


@pytest.mark.parametrize(
    ("left", "says"),
    nightly_but(
        [(40 * 2**20, "--data.batch_size .* should fit")],
        [(40 * 2**20, "--data.batch_size .* should fit"), (1000, "not even one image")],
    ),
)
def test_a_batch_too_large_is_told_before_training(run_main, monkeypatch, left, says):
    monkeypatch.setattr(module, "memory_left", lambda device: left)
    with pytest.warns(UserWarning, match=f"iB left: .*{says}"):
        run_main(
            "fit",
            "--config",
            "digits.yaml",
            "--data.batch_size=1000",
            "--trainer.max_steps=1",
            "--test_after_fit=false",
        )


def test_memory_left_is_read_from_the_system():
    left = module.memory_left(torch.device("cpu"))
    assert left is None or 2**20 < left < 2**50
