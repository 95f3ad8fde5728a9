"""The plain forms of the zoo compute what the package's networks and routings compute, with the same weights."""

from functools import partial

import pytest
import torch
from plain_forms.em import EMNet
from plain_forms.heinsen import MatrixLayer, VectorLayer
from plain_forms.pairs import PAIRS, Pair
from plain_forms.self_routing import SelfRoutingCapsules
from plain_forms.variational_bayes import BayesNet

from capsule_lightning.encoders.matrix import MatrixEncoder
from capsule_lightning.models.conv_capsnet import ConvCapsNet
from capsule_lightning.models.conv_capsules import ConvCapsules
from capsule_lightning.routing.em import EMRouting
from capsule_lightning.routing.heinsen_matrix import HeinsenMatrixRouting
from capsule_lightning.routing.heinsen_vector import HeinsenVectorRouting
from capsule_lightning.routing.self_routing import SelfRouting
from capsule_lightning.routing.variational_bayes import VariationalBayesRouting

STEREO = (2, 32, 32)
SILENT = 1e-7
"""Ours counts children that are not active, such as those around a map, as active by 1e-8."""


def conv_capsnet(routing, types, **encoder):
    return ConvCapsNet(STEREO, 5, encoder=partial(MatrixEncoder, **encoder), routing=routing, types=types)


def self_routing_layer():
    routing = partial(SelfRouting, normalize=True)
    return ConvCapsules((5, 5), 3, 4, 2, 4, routing=routing, kernel_size=3, stride=2, padding=1)


SMALL = {
    "EM routing": Pair(
        partial(EMNet, 4, (3, 2, 2)), partial(conv_capsnet, EMRouting, [2, 2], channels=4, num_types=3), STEREO, 2
    ),
    "variational Bayes": Pair(
        partial(BayesNet, 4, (3, 2, 2)),
        partial(conv_capsnet, VariationalBayesRouting, [2, 2], channels=4, num_types=3, normalize=True),
        STEREO,
        2,
    ),
    "self-routing": Pair(partial(SelfRoutingCapsules, 3, 2, 3, 2, 1, dim=4), self_routing_layer, (5, 5, 3, 4), 2, True),
    "Heinsen, matrices": Pair(
        partial(MatrixLayer, 6, 3, 2), partial(HeinsenMatrixRouting, 6, 4, 3, 4), (6, 4), 2, True
    ),
    "Heinsen, vectors": Pair(
        partial(VectorLayer, 6, 4, 3, 5), partial(HeinsenVectorRouting, 6, 4, 3, 5, readout=False), (6, 4), 2, True
    ),
}


@pytest.mark.parametrize("name", SMALL)
def test_small_plain_forms_compute_what_the_package_computes(name):
    assert_equal(SMALL[name], SILENT if "self" in name else 1e-10)


@pytest.mark.nightly
@pytest.mark.parametrize("name", PAIRS)
def test_plain_forms_compute_what_the_package_computes(name):
    assert_equal(PAIRS[name], SILENT if "self" in name else 1e-10)


def assert_equal(pair, tolerance):
    """Compare outputs and all gradients of both forms in float64, in training mode."""
    plain, ours = pair.plain().double(), pair.ours().double()
    with torch.no_grad():
        for weight, given in zip(plain.parameters(), ours.parameters(), strict=True):
            if not given.any():  # where training starts at 0, nothing would be compared
                given.normal_(std=0.1)
            weight.copy_(given)
    children, upstream, results = pair.inputs(2, torch.float64), [], []
    for form, net in (("plain", plain), ("ours", ours)):
        inputs = [each.detach().clone().requires_grad_() for each in children]
        outputs = pair.outputs(form, net, inputs)
        upstream = upstream or [torch.randn(each.shape, dtype=each.dtype) for each in outputs]
        asked = outputs[: len(upstream)]  # the plain forms of some layers have poses alone
        sum((output * by).sum() for output, by in zip(asked, upstream, strict=True)).backward()
        gradients = {f"input {number}": each.grad for number, each in enumerate(inputs)}
        results.append((asked, gradients | {key: weight.grad for key, weight in enumerate(net.parameters())}))
    (wanted, wanted_gradients), (found, found_gradients) = results
    for this, other in zip(found, wanted, strict=True):
        assert (this - other).abs().max() <= tolerance * other.abs().max()
    scale = max(float(gradient.norm()) for gradient in wanted_gradients.values() if gradient is not None)
    for key, other in wanted_gradients.items():
        if other is not None:  # a gradient that must be 0, as normalization removes a shift, is 0 but for rounding
            assert (found_gradients[key] - other).norm() <= 10 * tolerance * other.norm() + 1e-12 * scale, key
