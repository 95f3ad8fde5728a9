"""Training with the fast path and with the plain functions comes to the same."""

from functools import partial
from shutil import which
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

ENCODER = partial(
    SabourEncoder, channels=16, kernel_size=3, num_types=4, dim=8, primary_kernel_size=3, primary_stride=1
)


def losses(routing, backend, seed, steps, encoder=ENCODER):
    """The loss of each training step on the digits."""
    torch.manual_seed(seed)
    net = partial(CapsNet, encoder=encoder, routing=partial(routing, backend=backend))
    task = ClassificationTask((1, 8, 8), 10, net=net)
    optimizer = torch.optim.Adam(task.parameters())
    data = DigitsDataModule().load("train")
    images, labels = data.images / 255, data.labels
    history = []
    for _ in range(steps):
        chosen = torch.randint(len(images), (32,))
        batch = ImageBatch(images[chosen], images[chosen], labels[chosen], chosen)
        loss = task.losses(task.output(batch), batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    return history


def training(routing, seeds, steps, left, *marks):
    """A case of `curves`, after which a part of the loss is left; one worker trains for both tests."""
    name = f"{routing.__name__}, {seeds} seeds, {steps} steps"
    return pytest.param((routing, seeds, steps, left), id=name, marks=[pytest.mark.xdist_group(name), *marks])


@pytest.fixture(
    scope="module",
    params=[
        training(DynamicRouting, 2, 60, 0.7, pytest.mark.nightly),
        training(SelfAttentionRouting, 2, 60, 0.7, pytest.mark.nightly),
        training(DynamicRouting, 5, 200, 0.2, pytest.mark.nightly),
        training(SelfAttentionRouting, 5, 200, 0.2, pytest.mark.nightly),
    ],
)
def curves(request):
    routing, seeds, steps, left = request.param
    backends = ("torch", "blocked", "native") if routing is DynamicRouting and which("cc") else ("torch", "blocked")
    runs = {backend: [losses(routing, backend, seed, steps) for seed in range(seeds)] for backend in backends}
    return runs, left


def test_the_first_steps_are_equal(curves):
    runs, _ = curves
    # later ones drift apart as any two orders of summation do
    for curves_of_backend in runs.values():
        for plain, fast in zip(runs["torch"], curves_of_backend, strict=True):
            assert_close(torch.tensor(fast[:5]), torch.tensor(plain[:5]), rtol=1e-4, atol=0)


def test_training_ends_within_the_noise_of_the_seeds(curves):
    runs, left = curves
    ends = {backend: [fmean(curve[-20:]) for curve in curves] for backend, curves in runs.items()}
    assert max(ends["torch"]) < left * fmean(curve[0] for curve in runs["torch"])
    for of_backend in ends.values():
        assert abs(fmean(ends["torch"]) - fmean(of_backend)) < stdev(ends["torch"])


@pytest.mark.nightly
def test_products_of_frequencies_follow_the_library_for_200_steps():
    encoder = partial(ENCODER, primary_kernel_size=5)
    library, frequencies = (
        losses(DynamicRouting, "auto", 0, 200, partial(encoder, backend=backend))
        for backend in ("torch", "frequencies")
    )
    # two orders of summation: the steps differ by some units of the last place, and training does not amplify them
    assert_close(torch.tensor(frequencies), torch.tensor(library), rtol=0, atol=1e-5)
    assert frequencies[-1] < 0.2 * frequencies[0]
