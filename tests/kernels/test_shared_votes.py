"""Routing without votes equals that with votes, in values and gradients, and keeps nothing of their size."""

import itertools

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.testing import assert_close

from capsule_lightning.capsules import Capsules
from capsule_lightning.kernels import shared_votes
from capsule_lightning.kernels.shared_votes import shared_dynamic_routing
from capsule_lightning.layers.votes import vote
from capsule_lightning.routing.dynamic import DynamicRouting, dynamic_routing


def inputs(matrices: int, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    """Poses (5, 12, 3), a weight (K, 4, 6, 3) and a bias (4, 6), large enough that couplings differ."""
    random = torch.Generator().manual_seed(0)
    shapes = ((5, 12, 3), (matrices, 4, 6, 3), (4, 6))
    return [torch.randn(shape, generator=random, dtype=dtype).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("matrices", [1, 4, 12])
@pytest.mark.parametrize(("block", "few"), [(None, shared_votes.FEW_COUPLINGS), (2, 0)])
def test_equals_the_plain_functions(matrices: int, block: int | None, few: int, monkeypatch) -> None:
    monkeypatch.setattr(shared_votes, "FEW_COUPLINGS", few)
    poses, weight, bias = inputs(matrices)
    for iterations, leaky, detach, biased in itertools.product((1, 3), (False, True), (False, True), (False, True)):
        settings = iterations, bias if biased else None, leaky, detach
        wanted = [poses, weight, *([bias] if biased else [])]
        found = shared_dynamic_routing(poses, weight, *settings, block)
        expected, _ = dynamic_routing(vote(poses, weight), *settings)
        assert_close(found, expected)
        direction = torch.linspace(-1, 2, found.numel(), dtype=found.dtype).view_as(found)
        for one, other in zip(
            torch.autograd.grad(found, wanted, direction), torch.autograd.grad(expected, wanted, direction), strict=True
        ):
            assert_close(one, other)
        with torch.no_grad():
            assert_close(shared_dynamic_routing(poses, weight, *settings, block), expected)


def test_gradients_are_those_of_differences_at_zero_too() -> None:
    poses, weight, bias = (tensor.detach() for tensor in inputs(2))
    few = poses[:2, :4].clone()
    few[0] = 0
    leaves = [tensor.requires_grad_() for tensor in (few, weight[:, :2, :2].clone(), bias[:2, :2].clone())]
    assert torch.autograd.gradcheck(lambda u, w, b: shared_dynamic_routing(u, w, 3, b, block=1), leaves)


def test_a_batch_without_examples_gives_none() -> None:
    poses, weight, _ = inputs(4)
    assert shared_dynamic_routing(poses[:0], weight).shape == (0, 4, 6)


def test_nothing_of_the_size_of_votes_or_couplings_is_kept_for_the_backward_pass(monkeypatch) -> None:
    monkeypatch.setattr(shared_votes, "FEW_COUPLINGS", 0)

    def kept(children: int) -> int:
        numbers: list[int] = []

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            numbers.append(tensor.numel())
            return tensor

        poses, weight = torch.rand(5, children, 3, requires_grad=True), torch.rand(4, 100, 6, 3, requires_grad=True)
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            shared_dynamic_routing(poses, weight)
        return sum(numbers)

    more = kept(120) - kept(12)
    assert more <= 5 * 108 * 3  # the poses of the children; they have 100 couplings each in every pass


@pytest.mark.parametrize(
    ("matrices", "backend", "chosen"),
    [(4, "auto", True), (None, "auto", False), (4, "torch", False), (1, "auto", True)],
)
def test_it_is_chosen_if_children_share(monkeypatch, matrices: int | None, backend: str, chosen: bool) -> None:
    calls = []
    monkeypatch.setattr(
        "capsule_lightning.routing.dynamic.shared_dynamic_routing",
        lambda *given: calls.append(given) or shared_votes.shared_dynamic_routing(*given),
    )
    routing = DynamicRouting(12, 3, 4, 6, vote_weights=matrices, backend=backend)
    capsules = Capsules.from_vectors(torch.rand(2, 5, 12, 3))
    assert_close(routing(capsules).poses, dynamic_routing(vote(capsules.poses, routing.weight))[0])
    assert bool(calls) == chosen
