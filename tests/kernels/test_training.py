"""Training with the fast path and with the plain functions comes to the same."""

from functools import partial
from statistics import fmean, stdev

import pytest
import torch
from torch.testing import assert_close

from capsule_lightning.data.base import ImageBatch
from capsule_lightning.data.digits import DigitsDataModule
from capsule_lightning.encoders.sabour import SabourEncoder
from capsule_lightning.models.capsnet import CapsNet
from capsule_lightning.routing.dynamic import DynamicRouting
from capsule_lightning.routing.self_attention import SelfAttentionRouting
from capsule_lightning.tasks.classification import ClassificationTask

STEPS = 200
ENCODER = partial(
    SabourEncoder, channels=16, kernel_size=3, num_types=4, dim=8, primary_kernel_size=3, primary_stride=1
)


def losses(routing, backend, seed):
    """The loss of each training step on the digits."""
    torch.manual_seed(seed)
    net = partial(CapsNet, encoder=ENCODER, routing=partial(routing, backend=backend))
    task = ClassificationTask((1, 8, 8), 10, net=net)
    optimizer = torch.optim.Adam(task.parameters())
    data = DigitsDataModule().load("train")
    images, labels = data.images / 255, data.labels
    history = []
    for _ in range(STEPS):
        chosen = torch.randint(len(images), (32,))
        batch = ImageBatch(images[chosen], images[chosen], labels[chosen], chosen)
        loss = task.losses(task.output(batch), batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    return history


# one worker trains for both tests
@pytest.fixture(
    scope="module",
    params=[
        pytest.param(routing, marks=pytest.mark.xdist_group(f"training with {routing.__name__}"))
        for routing in (DynamicRouting, SelfAttentionRouting)
    ],
)
def curves(request):
    return {backend: [losses(request.param, backend, seed) for seed in range(5)] for backend in ("torch", "blocked")}


def test_the_first_steps_are_equal(curves):
    # later ones drift apart as any two orders of summation do
    for plain, fast in zip(curves["torch"], curves["blocked"], strict=True):
        assert_close(torch.tensor(fast[:5]), torch.tensor(plain[:5]), rtol=1e-4, atol=0)


def test_training_ends_within_the_noise_of_the_seeds(curves):
    ends = {backend: [fmean(curve[-20:]) for curve in runs] for backend, runs in curves.items()}
    assert max(ends["torch"]) < 0.2 * fmean(curve[0] for curve in curves["torch"])
    assert abs(fmean(ends["torch"]) - fmean(ends["blocked"])) < stdev(ends["torch"])
