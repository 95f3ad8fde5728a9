"""What a Transformer looks at, and how its layers are put together, beside what its layers compute."""

import torch
from torch.testing import assert_close

from capsule_lightning.analysis.translation import cross_attention, layer_couplings
from capsule_lightning.capsules import Capsules
from capsule_lightning.models.transformer import Transformer
from capsule_lightning.routing.dynamic import DynamicRouting


def make(**options: object) -> Transformer:
    """A small network in evaluation."""
    torch.manual_seed(0)
    sizes = {"dim": 8, "num_heads": 2, "num_layers": 2, "hidden": 8, "layer_parents": 2}
    return Transformer((12,), 40, **sizes, **options).double().eval()  # type: ignore[arg-type]


def test_weights_are_those_by_which_the_layer_sees() -> None:
    net, source, target = make(), torch.tensor([[5, 6, 7, 3]]), torch.tensor([[2, 9, 8]])
    memory = net.read(source)
    layer, states = net.decoder[-1].cross, torch.randn(1, 3, 8, dtype=torch.float64)
    weights = layer.weights(states, memory.seen[-1], memory.mask)
    heads = torch.einsum("bhts,bhsd->bthd", weights, memory.seen[-1].values)
    assert_close(layer.output(heads.flatten(-2)), layer(states, memory.seen[-1], memory.mask))
    seen = cross_attention(net, source, target)
    assert seen.shape == (1, 3, 4)
    assert_close(seen.sum(dim=-1), torch.ones(1, 3, dtype=torch.float64))
    padded = cross_attention(net, torch.tensor([[5, 6, 7, 3, 0, 0]]), target)
    assert_close(padded[..., :4], seen)
    assert not padded[..., 4:].any()


def test_couplings_are_those_of_the_layers() -> None:
    source, target = torch.tensor([[5, 6, 7, 3]]), torch.tensor([[2, 9, 8]])
    assert layer_couplings(make(), source, target) == {}
    net = make(layer_aggregation=DynamicRouting)
    found = layer_couplings(net, source, target)
    states, every = net._embedded(source), []
    for layer in net.encoder:
        states = layer(states, (source != 0)[:, None, None])
        every.append(states)
    children = net.encoder_top.norm(torch.stack(every, dim=-2))[0]  # (S, L, D)
    routing = net.encoder_top.together.routing
    couplings = routing.couplings(Capsules(children, torch.ones(4, 2, dtype=torch.float64)))
    assert_close(found["encoder"], couplings.mean(dim=0))
    assert found["decoder"].shape == (2, 2)
    assert not any(module._forward_pre_hooks for module in net.modules())  # nothing is left behind
