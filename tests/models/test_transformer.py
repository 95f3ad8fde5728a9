"""The Transformer: equal to torch's own layers and to plain loops, causal, blind to padding, and searched rightly."""

from functools import partial
from itertools import product
from math import sqrt, tanh

import pytest
import torch
from routings import ROUTINGS
from tiers import nightly_but
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from capsule_lightning.capsules import Capsules
from capsule_lightning.errors import InputError
from capsule_lightning.layers.special_tokens import BEGIN, END, PAD
from capsule_lightning.models import translation_search
from capsule_lightning.models.past_future import PastFuture, guided_routing
from capsule_lightning.models.state_aggregation import LayerAggregation, RoutedAggregation
from capsule_lightning.models.transformer import Transformer
from capsule_lightning.models.translation import TranslationNet
from capsule_lightning.models.translation_search import beam_search, greedy, limits
from capsule_lightning.routing.dynamic import DynamicRouting
from capsule_lightning.routing.em import EMRouting
from capsule_lightning.routing.uniform import UniformRouting

VOCABULARY, DIM = 40, 16
#: Each way to put states together, alone, and all at once.
KINDS = {
    "none": {},
    "linear": {"layer_aggregation": "linear"},
    "dynamic": {"layer_aggregation": DynamicRouting},
    "em": {"layer_aggregation": EMRouting},
    "heads": {"head_aggregation": DynamicRouting},
    "heads_em": {"head_aggregation": EMRouting},
    "past_future": {"past_future": True},
    "all": {"layer_aggregation": EMRouting, "head_aggregation": DynamicRouting, "past_future": True},
}


def make(dtype=torch.float64, **options):
    """A small network in evaluation, all of its parameters moved from where they start."""
    torch.manual_seed(0)
    sizes = {"dim": DIM, "num_heads": 2, "num_layers": 2, "hidden": 24, "layer_parents": 4, "head_parents": 4}
    net = Transformer((12,), VOCABULARY, **(sizes | options)).to(dtype).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return net


def sentences(*lengths, begins=False):
    """Random sentences, padded to the longest."""
    torch.manual_seed(sum(lengths))
    rows = torch.full((len(lengths), max(lengths)), PAD)
    for row, length in zip(rows, lengths, strict=True):
        row[:length] = torch.randint(4, VOCABULARY, (length,))
        row[0 if begins else length - 1] = BEGIN if begins else END
    return rows


@pytest.mark.parametrize("kind", nightly_but(("none", "all"), KINDS))
def test_a_later_word_changes_no_earlier_logit(kind):
    net, source, target = make(**KINDS[kind]), sentences(6, 4), sentences(7, 7, begins=True)
    other = target.clone()
    other[:, 4] = (other[:, 4] + 1) % VOCABULARY
    one, two = net(source, target), net(source, other)
    assert_close(one[:, :4], two[:, :4], rtol=0, atol=1e-12)
    assert not torch.allclose(one[:, 4], two[:, 4])


@pytest.mark.parametrize("kind", nightly_but(("none", "all"), KINDS))
def test_padding_changes_nothing_and_a_sentence_alone_gives_what_it_gives_in_a_batch(kind):
    net, source, target = make(**KINDS[kind]), sentences(6, 3), sentences(5, 4, begins=True)
    together, padded = net.answer(source, target), net.answer(F.pad(source, (0, 4)), F.pad(target, (0, 2)))
    for one, other in zip(together, padded, strict=True):
        if one is not None:
            assert_close(other[:, :5], one, rtol=1e-10, atol=1e-10)
    alone = net(source[1:, :3], target[1:, :4])
    assert_close(alone[0], together.logits[1, :4], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", nightly_but(("none", "all"), KINDS))
def test_word_by_word_gives_what_all_words_at_once_give(kind):
    net, source, target = make(**KINDS[kind]), sentences(6, 3), sentences(5, 5, begins=True)
    memory, progress, found = net.read(source), None, []
    for word in target.T:
        logits, progress = net.step(word, memory, progress)
        found.append(logits)
    assert_close(torch.stack(found, dim=1), net(source, target), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("cls", nightly_but((DynamicRouting, EMRouting), ROUTINGS), ids=lambda cls: cls.__name__)
def test_every_routing_puts_layers_together_or_says_why_not(cls):
    try:
        net, told = make(layer_aggregation=cls), ""
    except InputError as error:
        told = str(error)
    if told:
        assert any(word in told for word in ("statistics over the batch", "pose", "dim"))
        return
    source, target = sentences(5), sentences(4, begins=True)
    logits = net(source, target)
    logits.square().mean().backward()
    assert logits.isfinite().all()
    assert all(p.grad is not None for name, p in net.named_parameters() if "together" in name), "ddp would wait"
    assert_close(net(source, target[:, :2]), logits[:, :2], rtol=1e-9, atol=1e-9)


def test_without_routing_it_is_torchs_own_layers():
    net = make()
    sizes = {"dropout": 0.0, "batch_first": True, "norm_first": True, "dtype": torch.float64}
    ours, theirs = net.encoder[0], nn.TransformerEncoderLayer(DIM, 2, 24, **sizes)
    decoder = nn.TransformerDecoderLayer(DIM, 2, 24, **sizes)

    def attention(mine, other):
        weight = torch.cat([mine.query.weight, mine.key.weight, mine.value.weight])
        bias = torch.cat([mine.query.bias, mine.key.bias, mine.value.bias])
        parts = {"in_proj_weight": weight, "in_proj_bias": bias}
        other.load_state_dict(parts | {f"out_proj.{k}": v for k, v in mine.output.state_dict().items()})

    def rest(mine, other):
        for number, norm in enumerate(mine.norms, 1):
            getattr(other, f"norm{number}").load_state_dict(norm.state_dict())
        other.linear1.load_state_dict(mine.feed_forward[0].state_dict())
        other.linear2.load_state_dict(mine.feed_forward[3].state_dict())
        return other.eval()

    attention(ours.attention, theirs.self_attn)
    attention(net.decoder[0].attention, decoder.self_attn)
    attention(net.decoder[0].cross, decoder.multihead_attn)
    states, mask = torch.randn(2, 5, DIM, dtype=torch.float64), torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    expected = rest(ours, theirs)(states, src_key_padding_mask=~mask)
    assert_close(ours(states, mask[:, None, None])[mask], expected[mask])
    words = torch.randn(2, 4, DIM, dtype=torch.float64)
    causal = nn.Transformer.generate_square_subsequent_mask(4, dtype=torch.float64)
    expected = rest(net.decoder[0], decoder)(words, states, causal, memory_key_padding_mask=~mask, tgt_is_causal=True)
    seen = net.decoder[0].cross.look_at(states)
    assert_close(net.decoder[0](words, seen, mask[:, None, None])[0], expected)


def softmax(values):
    values = torch.stack(values)
    return (values - values.max()).exp() / (values - values.max()).exp().sum()


def test_layers_are_put_together_as_a_plain_loop_does_it():
    torch.manual_seed(0)
    layer = LayerAggregation(3, 6, partial(DynamicRouting, iterations=2), 3).double()
    states = [torch.randn(2, 1, 6, dtype=torch.float64) for _ in range(3)]
    weight = layer.together.routing.weight.detach()
    for row in range(2):
        children = [F.layer_norm(state[row, 0], (6,)) for state in states]
        votes = [[weight[i, j] @ children[i] for j in range(3)] for i in range(3)]
        logits = torch.zeros(3, 3, dtype=torch.float64)
        for _ in range(2):
            couplings = torch.stack([softmax(list(logits[i])) for i in range(3)])
            parents = []
            for j in range(3):
                total = sum(couplings[i, j] * votes[i][j] for i in range(3))
                if layer.together.routing.bias is not None:
                    total = total + layer.together.routing.bias[j].detach()
                parents.append(total * total.norm() / (1 + total.norm() ** 2))
            for i, j in product(range(3), range(3)):
                logits[i, j] += votes[i][j] @ parents[j]
        expected = F.layer_norm(torch.cat(parents), (6,))
        assert_close(layer(states)[row, 0].detach(), expected)


def test_parents_whose_length_is_not_their_activation_are_weighted_by_it():
    em, dynamic = (RoutedAggregation(3, 8, 8, routing, 4).double() for routing in (EMRouting, DynamicRouting))
    children = torch.randn(2, 3, 8, dtype=torch.float64)
    poses, activations = em.routing(children_of(children))
    assert_close(em(children), (poses * activations.unsqueeze(-1)).flatten(-2))
    assert_close(dynamic(children), dynamic.routing(children_of(children)).poses.flatten(-2))


def children_of(poses):
    return Capsules(poses, torch.ones(poses.shape[:-1], dtype=poses.dtype))


def test_guided_routing_is_a_plain_loop():
    torch.manual_seed(0)
    words, steps, parents, dim = 3, 2, 4, 5
    votes, query = torch.randn(1, words, parents, dim), torch.randn(1, steps, dim)
    of_votes, of_parents, score = torch.randn(dim, dim), torch.randn(dim, dim), torch.randn(dim)
    votes, query, of_votes, of_parents, score = (x.double() for x in (votes, query, of_votes, of_parents, score))
    found, couplings = guided_routing(votes, query, of_votes, of_parents, score, iterations=3)
    for t in range(steps):
        logits = torch.zeros(words, parents, dtype=torch.float64)
        for _ in range(3):
            shares = torch.stack([softmax(list(logits[i])) for i in range(words)])
            capsules = []
            for j in range(parents):
                total = sum(shares[i, j] * votes[0, i, j] for i in range(words))
                capsules.append(total * total.norm() / (1 + total.norm() ** 2))
            for i, j in product(range(words), range(parents)):
                inner = torch.tanh(of_votes @ votes[0, i, j] + of_parents @ capsules[j] + query[0, t])
                logits[i, j] += tanh(score @ inner) / sqrt(dim)
        assert_close(found[0, t], torch.stack(capsules))
        assert_close(couplings[0, t], shares)


def test_votes_of_padding_are_nothing():
    net = make(past_future=True)
    assert isinstance(net.past_future, PastFuture)
    source = sentences(5, 3)
    votes = net.read(source).votes
    assert votes.shape == (2, 5, 6, 60)
    assert (votes[1, 3:] == 0).all()
    assert (votes[1, :3] != 0).any()


# Search.


@pytest.mark.nightly
@pytest.mark.parametrize("kind", ["none", "all"])
def test_a_beam_of_one_is_the_most_likely_word_each_time(kind):
    net, source = make(**KINDS[kind]), sentences(6, 3, 8)
    assert torch.equal(beam_search(net, source, 1), greedy(net, source))


@pytest.mark.nightly
@pytest.mark.parametrize("beam", [1, 3])
def test_a_sentence_alone_is_translated_as_in_a_batch(beam):
    net, source = make(**KINDS["all"]), sentences(8, 3)
    together = translation_search.translate(net, source, beam)
    alone = translation_search.translate(net, source[1:, :3], beam)
    width = alone.shape[1]
    assert torch.equal(together[1, :width], alone[0])
    assert (together[1, width:] == PAD).all()
    assert (together[1] != PAD).sum() <= limits(net, source)[1]


class Letters(TranslationNet):
    """Says words by a table of log-odds of what follows what, whatever the source."""

    def __init__(self, table):
        super().__init__((6,), len(table))
        self.table = torch.tensor(table).log()

    def answer(self, source, target):
        raise NotImplementedError

    def read(self, source):
        return Rows()

    def step(self, words, memory, before):
        return self.table[words], Rows()


class Rows:
    """Nothing to keep."""

    def of(self, rows):
        return self


def likelihood(net, words):
    """The log-likelihood of a translation over its length, as the search judges it."""
    total = sum(F.log_softmax(net.table[a], -1)[b] for a, b in zip([BEGIN, *words], words, strict=False))
    return total / len(words) ** translation_search.ALPHA


def test_a_wide_beam_finds_the_best_of_all_translations():
    tiny = 1e-9
    table = [[tiny] * 6 for _ in range(6)]
    table[BEGIN][4], table[BEGIN][5] = 0.6, 0.4  # the likelier first word has no likely end
    table[4][END], table[4][4], table[4][5] = 0.3, 0.4, 0.3
    table[5][END], table[5][5] = 0.95, 0.05
    net = Letters(table)
    source = torch.tensor([[4, END]])
    most = int(limits(net, source))
    every = [[*words, END] for length in range(most) for words in product((4, 5), repeat=length)]
    best = max(every, key=lambda words: likelihood(net, words))
    found = beam_search(net, source, 40)[0]
    assert found[found != PAD].tolist() == best == [5, END]
    assert greedy(net, source)[0].tolist() != best


def test_what_never_ends_is_ended_at_its_limit():
    table = [[1e-9] * 6 for _ in range(6)]
    for row in table:
        row[5] = 1.0
    net, source = Letters(table), torch.tensor([[4, END]])
    for found in (greedy(net, source)[0], beam_search(net, source, 3)[0]):
        assert len(found) == limits(net, source)[0]
        assert found[-1] == END


# Bad input.


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_heads": 3}, ["num_heads=3", "16"]),
        ({"layer_parents": 5, "layer_aggregation": UniformRouting}, ["num_parents=5", "16"]),
        ({"layer_aggregation": "linaer"}, ["layer_aggregation", "linaer", "linear"]),
        ({"num_layers": 0}, ["num_layers=0", "1"]),
        ({"dropout": 1.0}, ["dropout=1.0"]),
    ],
)
def test_sizes_that_cannot_be_are_refused(options, words):
    with pytest.raises(InputError) as caught:
        make(**options)
    assert all(word in str(caught.value) for word in words)


def test_a_sentence_that_is_too_long_is_refused():
    with pytest.raises(InputError, match=r"14 tokens.*at most 13.*max_length"):
        make()(sentences(14), sentences(3, begins=True))
