"""Heinsen's routing of vectors: equal to the paper's equations written as plain loops over votes that are all there."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from capsule_lightning.capsules import Capsules
from capsule_lightning.errors import InputError
from capsule_lightning.routing.heinsen_vector import HeinsenVectorRouting

CHILDREN, PARENTS = 6, 3


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def layer_norm(x):
    return (x - x.mean()) / np.sqrt(x.var() + 1e-5) if len(x) > 1 else x


def algorithm(x, p, iterations, normalize):
    """Heinsen 2022 for one example ``x (I, D)``, with parameters ``p`` by name."""
    children, parents, dim = len(x), len(p["vote_in"]), p["vote_out"].shape[1]
    f, votes = np.zeros(children), np.zeros((children, parents, dim))
    for i in range(children):
        scaled = x[i] / np.sqrt(children)
        f[i] = sigmoid(scaled @ p["relevance_weight"][i] + p["relevance_bias"][i])
        for j in range(parents):
            for h in range(dim):
                votes[i, j, h] = sum(scaled * p["vote_in"][j] * p["vote_out"][:, h]) + p["vote_bias"][j, h]
    r = np.full((children, parents), 1 / parents)
    for t in range(iterations):
        out = np.zeros((parents, dim))
        for j in range(parents):
            for i in range(children):
                used = f[i] * r[i, j]
                out[j] += (p["use"][i, j] * used - p["ignore"][i, j] * (f[i] - used)) * votes[i, j]
        if t + 1 < iterations:
            for i in range(children):
                s = np.zeros(parents)
                for j in range(parents):
                    guess = layer_norm(out[j]) @ p["prediction.predict_in"] * p["prediction.predict_out"][j]
                    guess = guess + p["prediction.predict_bias"][j]
                    s[j] = sigmoid(x[i] @ guess * p["prediction.scale"][i, j] + p["prediction.shift"][i, j])
                r[i] = s / sum(s)  # the softmax of log s
    return np.array([layer_norm(v) for v in out]) if normalize else out, r


def moved(*shapes, **options):
    """A layer in float64 with every parameter away from its start."""
    net = HeinsenVectorRouting(*shapes, **options).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_()
    return net


@pytest.mark.parametrize("iterations", [1, 2, 3])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("vote_weights", [None, 2])
@pytest.mark.parametrize("dim_out", [1, 5])
def test_equals_the_equations_of_the_paper(dim_out, vote_weights, normalize, iterations):
    routing = moved(
        CHILDREN, 4, PARENTS, dim_out, vote_weights=vote_weights, iterations=iterations, normalize=normalize
    )
    capsules = Capsules.from_vectors(torch.randn(2, CHILDREN, 4, dtype=torch.float64))
    of_children = {"relevance_weight", "relevance_bias", "use", "ignore", "prediction.scale", "prediction.shift"}
    parameters = {
        name: np.concatenate([p.detach().numpy()] * (CHILDREN // routing.vote_weights if name in of_children else 1))
        for name, p in routing.named_parameters()
    }
    with torch.no_grad():
        parents, couplings = routing(capsules), routing.couplings(capsules)
    for n in range(2):
        out, r = algorithm(capsules.poses[n].numpy(), parameters, iterations, normalize)
        activations = sigmoid(out @ parameters["readout.score.weight"][0] + parameters["readout.score.bias"])
        np.testing.assert_allclose(parents.poses[n], out, atol=1e-9, rtol=0)
        np.testing.assert_allclose(parents.activations[n], activations, atol=1e-9, rtol=0)
        np.testing.assert_allclose(couplings[n], r, atol=1e-9, rtol=0)


@pytest.mark.parametrize("size", [0.0, 1.0])
def test_gradient_is_the_numerical_one(size):
    routing = moved(4, 3, PARENTS, 5, iterations=3)
    names = dict(routing.named_parameters())
    poses = (size * torch.randn(2, 4, 3, dtype=torch.float64)).requires_grad_()

    def route(poses, *values):
        capsules = Capsules(poses, poses.new_ones(poses.shape[:-1]))
        return tuple(torch.func.functional_call(routing, dict(zip(names, values, strict=True)), (capsules,)))

    assert torch.autograd.gradcheck(route, (poses, *names.values()))


class Largest(TorchDispatchMode):
    """Records the numbers in the memory of the largest tensor that is made."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in (t for t in tree_leaves(made) if isinstance(t, torch.Tensor)):
            self.elements = max(self.elements, tensor.untyped_storage().nbytes() // tensor.element_size())
        return made


def test_no_votes_are_made_neither_forward_nor_back():
    batch, children, dim_in, parents, dim_out = 2, 20, 5, 7, 11
    routing = HeinsenVectorRouting(children, dim_in, parents, dim_out)
    capsules = Capsules.from_vectors(torch.randn(batch, children, dim_in, requires_grad=True))
    with Largest() as largest:
        routing(capsules).poses.square().sum().backward()
    assert largest.elements == batch * children * parents  # that of the couplings


def test_begins_as_the_paper_does():
    routing = HeinsenVectorRouting(400, 16, 100, 64)
    deviations = {
        "relevance_weight": 2 / 4, "vote_in": 1, "vote_out": 2 / 4, "use": 1, "ignore": 1,
        "prediction.predict_in": 1 / 8, "prediction.predict_out": 1, "prediction.scale": 1 / 4,
    }  # fmt: skip
    for name, parameter in routing.named_parameters():
        if not name.startswith("readout"):
            assert parameter.std().item() == pytest.approx(deviations.get(name, 0), rel=0.1)


def test_the_activations_of_the_children_are_not_looked_at():
    routing, poses = HeinsenVectorRouting(CHILDREN, 4, PARENTS, 5), torch.randn(2, CHILDREN, 4)
    assert_close(routing(Capsules(poses, torch.rand(2, CHILDREN))), routing(Capsules.from_vectors(poses)))


def test_parents_are_normalized_unless_told_not_to():
    routing = HeinsenVectorRouting(CHILDREN, 4, PARENTS, 50)
    raw = HeinsenVectorRouting(CHILDREN, 4, PARENTS, 50, normalize=False)
    raw.load_state_dict(routing.state_dict())
    capsules = Capsules.from_vectors(100 * torch.randn(2, CHILDREN, 4))
    poses = routing(capsules).poses
    assert_close(poses.mean(dim=-1), torch.zeros(2, PARENTS), rtol=0, atol=1e-5)
    assert_close(poses.var(dim=-1, correction=0), torch.ones(2, PARENTS), rtol=0, atol=1e-4)
    assert (raw(capsules).poses.var(dim=-1) > 2).all()


def test_one_dimension_is_not_normalized_to_zero():
    routing = HeinsenVectorRouting(CHILDREN, 4, PARENTS, 1)
    parents = routing(Capsules.from_vectors(torch.randn(2, CHILDREN, 4)))
    F.cross_entropy(parents.activations.logit(), torch.tensor([0, 2])).backward()
    assert parents.poses.all()
    # the bias of the read-out moves all scores alike, which the softmax does not see
    assert all(p.grad.any() for name, p in routing.named_parameters() if name != "readout.score.bias")


def test_a_single_pass_has_no_parameters_without_a_gradient():
    routing = HeinsenVectorRouting(CHILDREN, 4, PARENTS, 5, iterations=1)
    capsules = Capsules.from_vectors(torch.randn(2, CHILDREN, 4))
    routing(capsules).activations.sum().backward()
    assert all(parameter.grad is not None for parameter in routing.parameters())
    assert_close(routing.couplings(capsules), torch.full((2, CHILDREN, PARENTS), 1 / 3))


def test_without_readout_every_parent_is_active():
    routing = HeinsenVectorRouting(CHILDREN, 4, PARENTS, 5, readout=False)
    assert_close(routing(Capsules.from_vectors(torch.randn(2, CHILDREN, 4))).activations, torch.ones(2, PARENTS))


@pytest.mark.parametrize("iterations", [0, -1])
def test_fewer_than_one_pass_is_refused(iterations):
    with pytest.raises(InputError, match=f"iterations={iterations}: expected at least 1"):
        HeinsenVectorRouting(6, 4, 3, 5, iterations=iterations)
