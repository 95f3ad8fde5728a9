"""SE-routing equals a plain loop; couplings are one for all positions of a map, and no image has a say in another's."""

import pytest
import torch
from torch.testing import assert_close

from capsule_lightning.capsules import Capsules
from capsule_lightning.errors import InputError
from capsule_lightning.models.shared_kernel_capsules import SharedKernelCapsules
from capsule_lightning.routing.squeeze_excite import SERouting


def make(**options):
    torch.manual_seed(0)
    routing = SERouting(3, 4, 2, 5, bias=True, **options).double()
    children = Capsules.from_vectors(torch.randn(2, 3, 3, 3, 4, dtype=torch.float64))
    return routing, children


def plain(routing, poses, activations):
    """One image: poses ``(P, I, D)``."""
    places, types, _ = poses.shape
    parents = routing.num_out
    votes = [
        [[routing.weight[i, j] @ poses[p, i] for j in range(parents)] for i in range(types)] for p in range(places)
    ]
    said = []
    for i in range(types):
        for j in range(parents):
            active = cosine = 0.0
            for p in range(places):
                mean = sum(votes[p][k][j] for k in range(types)) / types
                active += float(activations[p, i])
                cosine += (votes[p][i][j] @ mean / (votes[p][i][j].norm() * mean.norm())).item()
            said += [active / places, cosine / places]
    said = torch.tensor(said, dtype=torch.float64)
    hidden = (said @ routing.squeeze.flatten(0, 2) + routing.squeeze_bias).relu()
    logits = (hidden @ routing.excite.flatten(1)).view(types, parents) + routing.excite_bias
    c = logits.softmax(dim=1)
    out = torch.zeros(places, parents, routing.dim_out, dtype=torch.float64)
    for p in range(places):
        for j in range(parents):
            s = routing.bias[j] + sum(c[i, j] * votes[p][i][j] for i in range(types))
            out[p, j] = s.norm() / (1 + s.norm() ** 2) * s
    return out


def test_equals_a_plain_loop():
    routing, children = make(map_dims=2, ratio=1)
    found = routing(children)
    for n in range(2):
        expected = plain(routing, children.poses[n].flatten(0, 1), children.activations[n].flatten(0, 1))
        assert_close(found.poses[n].flatten(0, 1), expected)
    couplings = routing.couplings(children)
    assert couplings.shape == (2, 3, 3, 3, 2)
    assert_close(couplings, couplings[:, :1, :1].expand_as(couplings))
    assert not torch.allclose(couplings[0], couplings[1])


def test_batch_mates_change_nothing():
    routing, children = make(map_dims=2, ratio=1)
    assert_close(routing(Capsules(*(part[:1] for part in children))).poses, routing(children).poses[:1])


def test_a_layer_routes_whole_maps():
    """Rows that were routed by themselves would have couplings of their own."""
    torch.manual_seed(0)
    layer = SharedKernelCapsules(
        8, 8, 16, 16, routing=lambda *a, **k: SERouting(*a, **k, map_dims=2), kernel_size=3
    )  # its votes are more than one block
    capsules = Capsules.from_vectors(torch.rand(1, 40, 40, 8, 8))
    expected = layer.couplings(capsules)
    seen = layer(capsules)
    votes = layer.routing.votes(layer.window_children(capsules).poses)
    s = torch.einsum("...ij,...ije->...je", expected, votes)
    n = s.norm(dim=-1, keepdim=True)
    assert_close(seen.poses, s * n / (1 + n**2), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{"ratio": 0}, {"map_dims": -1}])
def test_values_out_of_range_are_refused(options):
    with pytest.raises(InputError, match="=".join(map(str, *options.items()))):
        SERouting(3, 4, 2, 5, **options)
