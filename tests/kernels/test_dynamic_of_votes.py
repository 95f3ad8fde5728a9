"""Dynamic routing of given votes: the plain function and its gradients, whatever the switches."""

import pytest
import torch
from torch.testing import assert_close

from capsule_lightning.errors import InputError
from capsule_lightning.kernels.dynamic_of_votes import dynamic_routing_of_votes
from capsule_lightning.routing.dynamic import dynamic_routing


@pytest.mark.parametrize("iterations", [1, 2, 3])
@pytest.mark.parametrize("leaky", [False, True])
@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_it_is_the_plain_function_with_its_gradients(iterations, leaky, detach, biased):
    torch.manual_seed(0)
    memory = torch.randn(2, 5, 3, 4, 6, dtype=torch.float64, requires_grad=True)  # (n, I, positions, J, E)
    bias = torch.randn(4, 6, dtype=torch.float64, requires_grad=True) if biased else None
    inputs = [memory] if bias is None else [memory, bias]
    votes = memory.transpose(1, 2)
    found = dynamic_routing_of_votes(votes, iterations, bias, leaky, detach)
    expected = dynamic_routing(votes, iterations, bias, leaky, detach)[0]
    assert_close(found, expected)
    grad = torch.randn_like(found)
    assert_close(torch.autograd.grad(found, inputs, grad), torch.autograd.grad(expected, inputs, grad))


def test_it_has_its_settings_checked():
    with pytest.raises(InputError, match="iterations=0"):
        dynamic_routing_of_votes(torch.zeros(2, 3, 4), 0)
