"""Networks for relations: attention and layers as plain loops, and padding that has no say."""

import math
from functools import partial

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from capsule_lightning.capsules import Capsules
from capsule_lightning.errors import InputError
from capsule_lightning.models.relation_capsnet import RelationCapsNet, RelationLinear
from capsule_lightning.models.relations import entity_attention
from capsule_lightning.routing.constant import ConstantRouting

SHAPE = 30, 12, 9
SMALL = {"hidden": 6, "dim_words": 5, "dim_places": 2}
CAPSULES = {"types": 2, "dim": 3, "dim_out": 4}
NETS = {
    f"{encoder}{'' if attention else '-plain'}-{kind.__name__}": partial(
        kind, encoder=encoder, attention=attention, **SMALL, **(CAPSULES if kind is RelationCapsNet else {})
    )
    for encoder in ("lstm", "cnn")
    for attention in (True, False)
    for kind in (RelationCapsNet, RelationLinear)
}


def sentence(length):
    """One sentence whose entities are its first and last word, ``(1, 3, length)``."""
    tokens = torch.randint(1, SHAPE[0], (length,))
    distances = [(torch.arange(length) - head).clamp(-5, 5) + 6 for head in (0, length - 1)]
    return torch.stack([tokens, *distances]).unsqueeze(0)


def build(name):
    torch.manual_seed(0)
    return NETS[name](SHAPE, 3).double().eval()


@pytest.mark.parametrize("name", NETS)
def test_padding_and_neighbors_change_nothing(name):
    net, several = build(name), [sentence(n) for n in (1, 2, 5, 9)]
    together = net(torch.cat([F.pad(each, (0, 9 - each.shape[2])) for each in several]))
    far = net(torch.cat([F.pad(each, (0, 14 - each.shape[2])) for each in several]))
    assert_close(far, together, rtol=0, atol=1e-12)
    for n, each in enumerate(several):
        assert_close(net(each), Capsules(*(part[n : n + 1] for part in together)), rtol=0, atol=1e-12)
    assert len({round(float(part), 9) for part in together.activations[:, 0].detach()}) == 4


def test_attention_equals_a_plain_loop():
    torch.manual_seed(0)
    states = torch.randn(2, 4, 3, dtype=torch.float64)
    first, second = torch.tensor([[1, 0, 0, 0], [0, 1, 0, 0]]).bool(), torch.tensor([[0, 0, 1, 0], [0, 0, 1, 0]]).bool()
    here = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]]).bool()
    found = entity_attention(states, first, second, here)
    for n, (one, other, length) in enumerate([(0, 2, 3), (1, 2, 4)]):
        scores = [math.exp(float(states[n, i] @ (states[n, one] + states[n, other]))) for i in range(length)]
        expected = [score / sum(scores) for score in scores] + [0.0] * (4 - length)
        assert_close(found[n], torch.tensor(expected, dtype=torch.float64))


def test_relation_capsules_equal_plain_loops():
    net, given = build("cnn-RelationCapsNet"), sentence(4)
    vectors = torch.cat([net.words(given[0, 0]), *(net.places[n](given[0, n + 1]) for n in range(2))], dim=1)
    zero = torch.zeros(1, vectors.shape[1], dtype=torch.float64)
    padded = torch.cat([zero, vectors, zero])
    kernel, bias = net.encoder.weight, net.encoder.bias
    states = [
        torch.stack([(kernel[f] * padded[i : i + 3].T).sum() + bias[f] for f in range(6)]).relu() for i in range(4)
    ]
    query = states[0] + states[3]
    scores = torch.stack([(state @ query).exp() for state in states])
    alpha = scores / scores.sum()
    children, shares = [], []
    for i in range(4):
        pair = torch.stack([states[i], states[i + 1] if i < 3 else torch.zeros(6, dtype=torch.float64)]).T
        s = torch.stack([(net.primary.weight[f] * pair).sum() + net.primary.bias[f] for f in range(6)]).view(2, 3)
        children += [each.norm() / (0.5 + each.norm() ** 2) * each for each in s]
        shares += [alpha[i], alpha[i]]
    votes = [[net.routing.weight[0, j] @ child for j in range(3)] for child in children]
    b = torch.zeros(8, 3, dtype=torch.float64)
    for _ in range(3):
        c = b.exp() / (1 + b.exp().sum(dim=1, keepdim=True)) * torch.stack(shares).unsqueeze(1)  # alpha_i times leaky
        v = []
        for j in range(3):
            s = sum(c[i, j] * votes[i][j] for i in range(8))
            v.append(s.norm() / (0.5 + s.norm() ** 2) * s)
        b = b + torch.stack([torch.stack([votes[i][j] @ v[j] for j in range(3)]) for i in range(8)])
    assert_close(net(given).poses[0], torch.stack(v))


def test_a_routing_of_a_fixed_number_of_children_takes_sentences_too():
    net = RelationCapsNet(SHAPE, 3, routing=ConstantRouting, **SMALL, **CAPSULES).eval()
    short = sentence(4)
    assert_close(net(F.pad(short, (0, 8))), net(short))


def test_examples_have_both_entities_at_distance_zero():
    given = NETS["lstm-RelationLinear"](SHAPE, 3).example_inputs(5)
    assert ((given[:, 1:] == SHAPE[1] // 2).sum(dim=2) == 1).all()
    assert given[:, 1:].min() >= 1
    assert given[:, 1:].max() < SHAPE[1]


@pytest.mark.parametrize("options", [{"hidden": 5}, {"encoder": "rnn"}, {"dropout": 2.0}, {"dim_words": 0}])
def test_what_cannot_be_is_refused(options):
    with pytest.raises(InputError, match="expected"):
        RelationLinear(SHAPE, 3, **options)


def test_texts_without_entities_are_refused():
    with pytest.raises(InputError, match="distances"):
        build("lstm-RelationLinear")(torch.ones(2, 9, dtype=torch.int64))
    with pytest.raises(InputError, match="data module of relations"):
        RelationLinear((30, 9), 3)


def test_relation_capsules_begin_where_the_margin_loss_has_a_gradient():
    torch.manual_seed(0)
    sentences = (30, 42, 60)
    net = RelationCapsNet(sentences, 7, encoder="cnn", hidden=16, types=8, dropout=0.0)
    inputs = net.example_inputs(16)
    lengths = net(inputs).activations.mean(dim=0)
    assert lengths.min() > 0.05
    assert lengths.max() < 0.9


def test_word_votes_add_up_to_the_logits_of_the_control_and_to_what_class_capsules_hold():
    net, text = build("lstm-RelationLinear"), F.pad(sentence(6), (0, 2))
    votes = net.word_votes(text)
    assert_close(votes.sum(dim=1) + net.head.bias, net(text).poses[..., 0])
    assert not votes[:, 6:].any()
    net = build("cnn-plain-RelationCapsNet")
    net.routing = ConstantRouting(net.routing.num_in, 3, 3, 4, vote_weights=1).double()
    poses, votes = net(text).poses, net.word_votes(text)
    children = net.relation_children(*net.read(text))
    expected = torch.einsum("bij,bije->bje", net.routing.couplings(children), net.routing.votes(children.poses))
    last = net.word_votes(text)[:, 5]  # half of what the last word and padding hold is nobody's
    assert_close(F.normalize(poses, dim=-1), F.normalize(expected, dim=-1))
    assert (votes.sum(dim=1) + last >= expected.norm(dim=-1) - 1e-9).all()
