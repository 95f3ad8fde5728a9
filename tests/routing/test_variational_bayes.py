"""Variational-Bayes routing: equal to the paper's formulas written as loops, in one window and across positions."""

from functools import partial

import numpy as np
import pytest
import torch
from matrix_routing import CHILDREN, DIM, PARENTS, case, convolution, one_window, procedure, windows
from torch.testing import assert_close

from capsule_lightning.capsules import Capsules
from capsule_lightning.errors import InputError
from capsule_lightning.routing.variational_bayes import VariationalBayesRouting, variational_bayes_routing


def digamma(x):
    """The asymptotic series, where it is exact, and the recurrence to come there."""
    shift = 0.0
    while x < 30:
        shift, x = shift - 1 / x, x + 1
    return shift + np.log(x) - 1 / (2 * x) - 1 / (12 * x**2) + 1 / (120 * x**4) - 1 / (252 * x**6)


def variational_bayes(beta_u, beta_a, alpha=1.0, kappa=1.0, psi=1.0):
    """The updates of the paper, around the mean of the votes, for the parents of one window; for `procedure`."""

    def fit(votes, weights, t):
        mass = [sum(weights[:, j]) for j in range(votes.shape[1])]
        parents = []
        for j, r in enumerate(mass):
            mu = sum(weights[i, j] * votes[i, j] for i in range(len(votes))) / r
            m = (r * mu + kappa * 0) / (kappa + r)
            inverse = 1 / psi + sum(weights[i, j] * (votes[i, j] - mu) ** 2 for i in range(len(votes)))
            inverse = inverse + kappa * r / (kappa + r) * (mu - 0) ** 2
            dim, nu = len(mu), len(mu) + 1 + r
            log_precision = sum(digamma((nu - d) / 2) for d in range(dim)) + dim * np.log(2) - np.log(inverse).sum()
            log_share = digamma(alpha + r) - digamma(sum(alpha + other for other in mass))
            entropy = dim / 2 * np.log(2 * np.pi * np.e) - log_precision / 2
            score = beta_a[j] - (np.exp(log_share) * entropy + beta_u[j])
            parents.append((m, score, inverse, nu, kappa + r, log_precision, log_share))
        return parents

    def log_weights(votes, parents):
        logits = np.zeros(votes.shape[:2])
        for i, j in np.ndindex(*logits.shape):
            m, _, inverse, nu, k, log_precision, log_share = parents[j]
            distance = len(m) / k + nu * ((votes[i, j] - m) ** 2 / inverse).sum()
            logits[i, j] = log_share + log_precision / 2 - len(m) / 2 * np.log(2 * np.pi) - distance / 2
        return logits

    return fit, log_weights


@pytest.mark.parametrize("prior", [{}, {"alpha": 0.5, "kappa": 2.0, "psi": 3.0}])
@pytest.mark.parametrize("iterations", [1, 2, 3])
def test_equals_the_formulas_of_the_paper(iterations, prior):
    votes, activations, beta_u, beta_a = (part.detach() for part in case(2))
    means, scores, couplings = variational_bayes_routing(votes, activations, beta_u, beta_a, iterations, **prior)
    for n in range(2):
        steps = variational_bayes(beta_u.numpy(), beta_a.numpy(), **prior)
        parents, r = one_window(votes[n].numpy(), activations[n].numpy(), steps, iterations)
        np.testing.assert_allclose(means[n], [m for m, *_ in parents], atol=1e-9, rtol=0)
        np.testing.assert_allclose(scores[n], [score for _, score, *_ in parents], atol=1e-9, rtol=0)
        np.testing.assert_allclose(couplings[n], r, atol=1e-9, rtol=0)


@pytest.mark.parametrize("floor", [0.0, 1e-3])
@pytest.mark.parametrize("competition", ["positions", "window"])
@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (2, 0), (1, 1)])
def test_a_child_divides_itself_among_the_parents_of_all_positions_that_see_it(stride, padding, competition, floor):
    layer, maps = convolution(partial(VariationalBayesRouting, floor=floor), stride, padding, competition)
    layer.eval()
    found, couplings = layer(maps), layer.couplings(maps).detach()
    votes, activations, children = windows(layer, maps)
    if competition == "window":
        children = np.arange(children.size).reshape(children.shape)
    steps = variational_bayes(layer.routing.beta_u.detach().numpy(), layer.routing.beta_a.detach().numpy())
    parents, r = procedure(votes, activations, children, *steps, iterations=3, start=1 / PARENTS, floor=floor)
    assert (r.sum() < len(np.unique(children)) - 0.01) == (floor > 0)  # some children are below it
    means, scores = ([[parent[n] for parent in window] for window in parents] for n in range(2))
    standard = np.sqrt(1 + 1e-5)  # the running variance is 1 before training
    np.testing.assert_allclose(found.poses[0].flatten(0, 1).detach(), np.array(means) / standard, atol=1e-9, rtol=0)
    logits = torch.logit(found.activations[0].flatten(0, 1).detach())
    np.testing.assert_allclose(logits, np.array(scores) / standard, atol=1e-9, rtol=1e-9)
    np.testing.assert_allclose(couplings[0].flatten(0, 1), r, atol=1e-9, rtol=0)


@pytest.mark.parametrize("iterations", [1, 3])
def test_gradient_is_the_numerical_one(iterations):
    assert torch.autograd.gradcheck(lambda *inputs: variational_bayes_routing(*inputs, iterations, kappa=2.0), case())


def test_parents_without_children_stay_at_the_prior():
    votes, activations, beta_u, beta_a = (part.detach() for part in case())
    means, scores, _ = variational_bayes_routing(votes, 0 * activations, 0 * beta_u, 0 * beta_a)
    assert_close(means, torch.zeros_like(means))
    assert_close(scores, scores[:1].expand(PARENTS))


def test_children_couple_to_the_parent_that_they_agree_about():
    votes = torch.stack([0.1 * torch.randn(32, 4), 3 * torch.randn(32, 4)], dim=1)
    _, scores, couplings = variational_bayes_routing(votes, torch.ones(32), torch.zeros(2), torch.zeros(2))
    assert (couplings[:, 0] > 0.9).all()
    assert scores[0] > scores[1]


def test_parents_are_normalized_over_the_batch_and_all_positions():
    routing = VariationalBayesRouting(CHILDREN, DIM, PARENTS, DIM, std=1.0).double()
    capsules = Capsules(torch.randn(8, 5, CHILDREN, DIM).double(), torch.rand(8, 5, CHILDREN).double())
    parents = routing(capsules)
    # the elements of a pose are normalized together
    for values in (parents.poses.movedim(2, -1), torch.logit(parents.activations).unsqueeze(2)):
        zeros = torch.zeros(PARENTS, dtype=torch.float64)
        assert_close(values.mean(dim=(0, 1, 2)), zeros, atol=1e-9, rtol=0)
        # a little less than 1, by the constant that keeps the division finite
        assert_close(values.var(dim=(0, 1, 2), unbiased=False), zeros + 1, atol=0.1, rtol=0)
    assert (parents.poses.mean(dim=(0, 1)).abs() > 1e-3).any()
    alone = Capsules(*(part[:1, :1] for part in capsules))
    evaluated = routing.eval()(alone)
    assert_close(routing.eval()(capsules).poses[:1, :1], evaluated.poses)
    assert not torch.allclose(evaluated.poses, parents.poses[:1, :1])


def test_what_the_normalization_takes_away_has_no_effect_in_training():
    routing = VariationalBayesRouting(CHILDREN, DIM, PARENTS, DIM).double()
    capsules = Capsules(torch.randn(8, CHILDREN, DIM).double(), torch.rand(8, CHILDREN).double())
    before = routing(capsules).activations
    torch.nn.init.normal_(routing.beta_a)
    assert_close(routing(capsules).activations, before)


def test_one_position_in_all_is_normalized_by_the_running_statistics():
    routing = VariationalBayesRouting(CHILDREN, DIM, PARENTS, DIM, std=1.0)
    many = Capsules(torch.randn(8, CHILDREN, DIM), torch.rand(8, CHILDREN))
    routing(many)
    state = {name: value.clone() for name, value in routing.state_dict().items()}
    one = Capsules(*(part[:1] for part in many))
    parents = routing.train()(one)
    assert_close(parents, routing.eval()(one))
    assert parents.poses.any()
    assert_close(routing.state_dict(), state)


def test_routes_in_float32_under_autocast():
    votes, *others = (part.detach().float() for part in case(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow = variational_bayes_routing(votes.bfloat16(), *others)
    assert_close(narrow, variational_bayes_routing(votes.bfloat16().float(), *others), rtol=0, atol=0)


@pytest.mark.parametrize("wrong", ["alpha", "kappa", "psi"])
def test_priors_of_zero_are_refused(wrong):
    with pytest.raises(InputError, match=f"{wrong}=0: expected a number above 0"):
        VariationalBayesRouting(CHILDREN, DIM, PARENTS, DIM, **{wrong: 0})


def test_fewer_than_one_iteration_is_refused():
    with pytest.raises(InputError, match="iterations=0: expected at least 1"):
        VariationalBayesRouting(CHILDREN, DIM, PARENTS, DIM, iterations=0)
    with pytest.raises(InputError, match="iterations=0: expected at least 1"):
        variational_bayes_routing(*case(), 0)
