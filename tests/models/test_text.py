"""Networks on text: the papers' sizes, layers as plain loops, and padding that has no say."""

from functools import partial

import pytest
import torch
from routings import ROUTINGS
from tiers import nightly_but
from torch.nn import functional as F
from torch.testing import assert_close

from capsule_lightning.capsules import Capsules
from capsule_lightning.errors import InputError
from capsule_lightning.layers.squash import squash
from capsule_lightning.layers.token_windows import spread
from capsule_lightning.losses.margin import margin_loss
from capsule_lightning.models.kim_cnn import KimCNN
from capsule_lightning.models.text_capsnet import TextCapsNet
from capsule_lightning.routing.em import EMRouting
from capsule_lightning.routing.hidden import HiddenRouting
from capsule_lightning.routing.uniform import UniformRouting

SHAPE = WORDS, LONGEST = 40, 17
SMALL = {"filters": 5, "types": 3, "dim": 4, "dim_words": 6}
NETS = {
    "A": partial(TextCapsNet, ngrams=[3], **SMALL),
    "B": partial(TextCapsNet, **SMALL),
    "EM": partial(TextCapsNet, ngrams=[2, 3], routing=EMRouting, **SMALL),
    "mean": partial(TextCapsNet, ngrams=[2, 3], average=True, **SMALL),
    "CNN": partial(KimCNN, filters=5, dim_words=6),
}


def build(name, num_classes=3):
    torch.manual_seed(0)
    return NETS[name](SHAPE, num_classes).double().eval()


def weights(net):
    return sum(p.numel() for name, p in net.named_parameters() if not name.startswith("embedding"))


def test_sizes_are_those_of_the_papers():
    text = 100, 200
    capsule_a = TextCapsNet(text, 9, ngrams=[3], orphan=False)
    assert weights(capsule_a) == weights(TextCapsNet(text, 8, ngrams=[3])) == 43_680
    assert capsule_a.branches[0].class_routing.num_in == 1552  # of 97 places
    assert weights(KimCNN(text, 9)) == 363_009


@pytest.mark.parametrize("name", nightly_but(("A", "mean"), NETS))
def test_padding_and_neighbors_change_nothing(name):
    net = build(name)
    lengths = [1, 2, 3, 4, 5, 6, 8, 11, 16, 17]
    texts = [torch.randint(1, WORDS, (1, n)) for n in lengths]
    together = net(torch.cat([F.pad(text, (0, 17 - text.shape[1])) for text in texts]))
    far = net(torch.cat([F.pad(text, (0, 30 - text.shape[1])) for text in texts]))
    assert_close(far, together, rtol=0, atol=1e-12)
    for n, text in enumerate(texts):
        alone = net(text)
        assert_close(alone, Capsules(*(part[n : n + 1] for part in together)), rtol=0, atol=1e-12)
    lengths = together.activations[-2:]  # of the two longest
    assert not torch.allclose(lengths[0], lengths[1], rtol=1e-3, atol=0)


@pytest.mark.nightly
@pytest.mark.parametrize("routing", ROUTINGS)
def test_padding_changes_nothing_whatever_the_routing(routing):
    torch.manual_seed(0)
    net = TextCapsNet(SHAPE, 3, ngrams=[2, 3], routing=routing, **SMALL).double().eval()
    text = torch.randint(1, WORDS, (2, 9))
    padded = F.pad(text, (0, 11))
    assert_close(net(padded), net(text), rtol=0, atol=1e-6)
    assert net.word_votes(padded).shape == (2, 20, 3)
    net(padded).activations.sum().backward()


def test_a_text_without_words_has_no_say():
    for name in ("A", "B"):
        assert not build(name)(torch.zeros(2, 5, dtype=torch.int64)).poses.any()


def test_a_mean_over_the_text_does_not_depend_on_its_length():
    short, long = torch.full((1, 7), 5), torch.full((1, 17), 5)  # whole windows alone, each of the same words
    assert_close(build("mean")(long), build("mean")(short), rtol=0, atol=1e-10)
    assert (build("A")(long).activations > 1.01 * build("A")(short).activations).all()


def test_what_lies_beyond_the_longest_text_is_not_read():
    net, text = build("B"), torch.randint(1, WORDS, (2, 25))
    assert_close(net(text), net(text[:, :LONGEST]))


def test_capsule_a_equals_plain_loops():
    net, text = build("A"), torch.tensor([[4, 9, 2, 7, 5, 1, 0, 0]])
    branch = net.branches[0]
    words = [net.embedding.weight[token] for token in text[0].tolist()]
    windows = []
    for start in (0, 2, 4):  # the last brings the sixth word
        kernel, bias = branch.convolution.convolution.weight, branch.convolution.convolution.bias
        seen = torch.stack(words[start : start + 3]).T
        windows.append(torch.stack([(kernel[f] * seen).sum() + bias[f] for f in range(5)]))
    primary = []
    for features in windows:
        s = (branch.primary.weight @ features.relu() + branch.primary.bias).view(3, 4)
        primary += [each.norm() / (0.5 + each.norm() ** 2) * each for each in s]
    middle = branch.routing(Capsules.from_vectors(torch.stack(primary)))  # of one window of three places
    expected = branch.class_routing(middle)
    found = net(text)
    assert_close(found.poses[0], expected.poses[:3], rtol=0, atol=1e-12)  # the fourth is the orphan
    assert_close(found.activations[0], expected.activations[:3], rtol=0, atol=1e-12)


def test_capsule_b_is_the_mean_pose_of_its_branches():
    net, text = build("B"), torch.randint(1, WORDS, (2, 12))
    words, lengths = net.embedding(text), torch.tensor([12, 12])
    mean = sum(branch(words, lengths).poses for branch in net.branches)[:, :3] / 3
    assert_close(net(text), Capsules.from_vectors(mean))


def test_kim_cnn_equals_a_plain_loop():
    net, text = build("CNN"), torch.tensor([[4, 9, 2, 7, 0, 0, 0]])
    words = net.embedding.weight[text[0]]
    found = []
    for layer, n in zip(net.convolutions, (3, 4, 5), strict=True):
        kernel, bias = layer.convolution.weight, layer.convolution.bias
        for f in range(5):
            places = range(max(1, 4 - n + 1))  # windows within the four words, the first whatever they are
            found.append(max(((kernel[f] * words[p : p + n].T).sum() + bias[f]).relu().item() for p in places))
    logits = net.head.weight @ torch.tensor(found, dtype=torch.float64) + net.head.bias
    assert_close(net(text).poses[0, :, 0], logits)


def test_word_votes_add_up_to_what_the_class_capsules_hold():
    torch.manual_seed(0)
    net = TextCapsNet(SHAPE, 3, ngrams=[3], routing=UniformRouting, orphan=False, **SMALL).double().eval()
    text = torch.tensor([[4, 9, 2, 7, 5, 1, 3, 0, 0]])  # three whole windows, so that no word shares with padding
    poses, _ = net(text)
    lengths = (squash_inverse(poses)).norm(dim=-1)
    votes = net.word_votes(text)
    assert_close(votes.sum(dim=1), lengths)
    assert not votes[0, 7:].any()


def test_word_votes_of_the_control_add_up_to_its_logits():
    net, text = build("CNN"), torch.randint(1, WORDS, (2, LONGEST))  # no window reaches beyond the last word
    votes = net.word_votes(text)
    assert_close(votes.sum(dim=1) + net.head.bias, net(text).poses[..., 0])
    assert not net.word_votes(F.pad(text[:, :8], (0, 3)))[:, 8:].any()


def test_a_word_that_no_primary_capsule_votes_for_gets_nothing():
    net = TextCapsNet(SHAPE, 3, ngrams=[1], stride=1, window=2, **{**SMALL, "dim": 4}).double().eval()
    text = torch.tensor([[4, 9, 2, 7]])
    net.branches[0].convolution.convolution.bias.data.zero_()
    net.branches[0].primary.bias.data.zero_()
    net.embedding.weight.data[9] = 0  # its primary capsules are 0
    votes = net.word_votes(text)
    assert not votes[0, 1].any()
    assert (votes[0, [0, 2, 3]].abs().sum(dim=1) > 0).all()


def squash_inverse(v):
    """Return s of ``v = |s| s / (1 + |s|^2)``."""
    length = v.norm(dim=-1, keepdim=True)
    return v / length * (length / (1 - length)).sqrt()


def test_what_windows_hold_is_divided_among_their_words():
    values = torch.rand(2, 4, 3)
    found = torch.zeros(2, 10, 3)
    for n in range(4):
        for place in range(3):
            found[:, 2 * n + place] += values[:, n] / 3
    assert_close(spread(values, 3, 2, 10), found)
    assert_close(spread(values, 3, 2, 5), found[:, :5])


def test_given_vectors_are_where_training_starts():
    net = TextCapsNet(SHAPE, 2, static=True, **SMALL)
    before = net.embedding.weight.clone()
    vectors = torch.randn(WORDS, 6)
    vectors[7] = torch.nan
    net.start_from(vectors)
    assert_close(net.embedding.weight[8:], vectors[8:])
    assert_close(net.embedding.weight[7], before[7])
    assert not net.embedding.weight[0].any()
    assert not net.embedding.weight.requires_grad
    with pytest.raises(InputError, match="dim_words 300"):
        net.start_from(torch.zeros(WORDS, 300))


@pytest.mark.nightly
def test_it_learns_which_words_make_a_class():
    torch.manual_seed(0)
    net = TextCapsNet((12, 12), 2, ngrams=[2], dropout=0.0, **SMALL | {"filters": 8})
    text = torch.randint(2, 10, (64, 12))
    labels = torch.arange(64) % 2
    text[torch.arange(64), torch.randint(12, (64,))] = 10 + labels
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(70):
        optimizer.zero_grad()
        margin_loss(net(text).activations, labels, down_weight=0.25).backward()
        optimizer.step()
    net.eval()
    assert (net(text).activations.argmax(dim=1) == labels).float().mean() > 0.9
    assert net.predict(text).classes.tolist() == net(text).activations.argmax(dim=1).tolist()


@pytest.mark.parametrize("options", [{"ngrams": []}, {"ngrams": [0]}, {"types": 0}, {"dropout": 1.5}, {"dim_words": 0}])
def test_what_cannot_be_is_refused(options):
    with pytest.raises(InputError, match="expected"):
        TextCapsNet(SHAPE, 3, **options)


def test_images_are_refused():
    with pytest.raises(InputError, match="data module of texts"):
        TextCapsNet((3, 28, 28), 3)
    with pytest.raises(InputError, match="whole numbers"):
        build("A")(torch.rand(2, 1, 28, 28))


def test_two_steps_of_routing_are_a_network_too():
    net = TextCapsNet(SHAPE, 3, ngrams=[3], class_routing=partial(HiddenRouting, hidden=4), **SMALL)
    assert net(net.example_inputs(2)).activations.shape == (2, 3)


def test_squash_with_an_offset():
    s = torch.tensor([3.0, 4.0])
    assert_close(squash(s, offset=0.5), s * 5 / 25.5)
