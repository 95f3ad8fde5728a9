"""Convolutional capsules with a shared kernel: plain loops, borders, blocks, and the laws of routing."""

from functools import partial
from math import ceil

import pytest
import torch
from routings import ROUTINGS
from torch.testing import assert_close

from capsule_lightning.capsules import Capsules
from capsule_lightning.errors import InputError
from capsule_lightning.kernels import blocks_of_positions
from capsule_lightning.models.shared_kernel_capsules import SharedKernelCapsules, skip
from capsule_lightning.routing.dynamic import DynamicRouting
from capsule_lightning.routing.self_routing import SelfRouting

TYPES, DIM, PARENTS, DIM_OUT = 3, 2, 2, 4
FORMS = [
    pytest.param({"kernel_size": 3}, id="same"),
    pytest.param({"kernel_size": 5, "stride": 2}, id="smaller"),
    pytest.param({"kernel_size": 4, "stride": 2, "upsampling": "transposed"}, id="transposed"),
    pytest.param({"kernel_size": 3, "stride": 2, "upsampling": "resize"}, id="resized"),
]
every_form = pytest.mark.parametrize("form", FORMS)
BY_DAY = ("DynamicRouting", "EMRouting", "SelfRouting")
every_routing = pytest.mark.parametrize(
    "routing",
    [pytest.param(cls, marks=[] if cls.__name__ in BY_DAY else [pytest.mark.nightly]) for cls in ROUTINGS],
)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of one row of the maps below."""
    monkeypatch.setitem(blocks_of_positions._MOST_NUMBERS, "cpu", 1)


def maps(rows=5, columns=4, batch=2, types=TYPES):
    """Child capsules on a map in float64."""
    poses = torch.randn(batch, rows, columns, types, DIM, dtype=torch.float64)
    return Capsules(poses, torch.rand(batch, rows, columns, types, dtype=torch.float64))


BIASED = partial(DynamicRouting, bias=True)


def layer(routing=BIASED, types=TYPES, **form):
    """A layer in float64 for evaluation, every parameter moved from where it starts."""
    made = SharedKernelCapsules(types, DIM, PARENTS, DIM_OUT, routing=routing, **form)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return made.double().eval()


def plain_votes(poses, weight, kernel_size, stride=1, upsampling=None):
    """Votes ``[b][y][x][i]``, each ``(J * E)``, written out: every child of a window tells every parent one vector."""
    batch, rows, columns, types, _ = poses.shape
    if upsampling == "resize":
        larger = torch.zeros(batch, stride * rows, stride * columns, types, DIM, dtype=poses.dtype)
        for y in range(stride * rows):
            for x in range(stride * columns):
                larger[:, y, x] = poses[:, y // stride, x // stride]
        return plain_votes(larger, weight, kernel_size)
    kernel = weight.reshape(-1, DIM, kernel_size, kernel_size)
    if upsampling == "transposed":
        size, before = (stride * rows, stride * columns), [(kernel_size - stride) // 2] * 2
    else:
        size = ceil(rows / stride), ceil(columns / stride)
        around = [(m - 1) * stride + kernel_size - n for m, n in zip(size, (rows, columns), strict=True)]
        before = [max(0, n) // 2 for n in around]
    votes = torch.zeros(batch, *size, types, len(kernel), dtype=poses.dtype)
    for y in range(size[0]):
        for x in range(size[1]):
            for row in range(rows):
                for column in range(columns):
                    if upsampling == "transposed":  # a child reaches K x K parents
                        a, b = (
                            kernel_size - 1 - p - o + stride * c
                            for p, o, c in zip((y, x), before, (row, column), strict=True)
                        )
                    else:
                        a, b = (c - stride * p + o for p, o, c in zip((y, x), before, (row, column), strict=True))
                    if 0 <= a < kernel_size and 0 <= b < kernel_size:
                        votes[:, y, x] += poses[:, row, column] @ kernel[:, :, a, b].T
    return votes  # fmt: skip


def plain_dynamic(votes, bias, iterations=3):
    """Procedure 1 of one position, votes ``(I, J, E)``."""
    logits = torch.zeros(votes.shape[:2], dtype=votes.dtype)
    for _ in range(iterations):
        parents = []
        for j in range(votes.shape[1]):
            s = bias[j].clone()
            for i in range(len(votes)):
                s = s + logits[i].exp()[j] / logits[i].exp().sum() * votes[i, j]
            parents.append(s.norm() ** 2 / (1 + s.norm() ** 2) * s / s.norm())
        for i in range(len(votes)):
            for j, parent in enumerate(parents):
                logits[i, j] += votes[i, j] @ parent
    return torch.stack(parents)


@every_form
@torch.no_grad()
def test_the_layer_is_what_plain_loops_compute(form):
    conv, capsules = layer(**form), maps(4, 3, batch=1)
    votes = plain_votes(capsules.poses, conv.routing.weight, **form)
    found = conv(capsules)
    assert found.poses.shape == (*votes.shape[:3], PARENTS, DIM_OUT)
    for y, x in ((0, 0), (1, 1), (votes.shape[1] - 1, votes.shape[2] - 1)):
        expected = plain_dynamic(votes[0, y, x].view(TYPES, PARENTS, DIM_OUT), conv.routing.bias)
        assert_close(found.poses[0, y, x], expected)
        assert_close(found.activations[0, y, x], expected.norm(dim=-1))
    windows = conv.window_children(capsules).poses
    assert_close(windows @ conv.routing.weight.view(-1, windows.shape[-1]).T, votes)


@every_routing
@every_form
@torch.no_grad()
def test_votes_of_a_convolution_are_routed_as_the_windows_are(routing, form, small_blocks):
    conv, capsules = layer(routing, **form), maps()
    windows = conv.window_children(capsules)
    found, expected = conv(capsules), conv.routing(windows)
    assert_close(found.poses, expected.poses)
    assert_close(found.activations, expected.activations)


@every_routing
@torch.no_grad()
def test_order_of_the_types_does_not_matter(routing):
    conv, capsules, order = layer(routing, kernel_size=3), maps(), torch.tensor([2, 0, 1])
    before, couplings = conv(capsules), conv.couplings(capsules)
    for tensor in (*conv.parameters(), *conv.buffers()):
        for axis in (axis for axis, size in enumerate(tensor.shape) if size == TYPES):
            tensor.copy_(tensor.index_select(axis, order))
    shuffled = Capsules(*(part[:, :, :, order] for part in capsules))
    assert_close(conv(shuffled), before)
    assert_close(conv.couplings(shuffled), couplings[:, :, :, order])


@every_routing
@torch.no_grad()
def test_couplings_are_those_of_each_window(routing):
    conv, capsules = layer(routing, kernel_size=3), maps()
    windows, couplings = conv.window_children(capsules), conv.couplings(capsules)
    assert couplings.shape == (2, 5, 4, TYPES, PARENTS)
    alone = Capsules(windows.poses[1, 2, 3], windows.activations[1, 2, 3])
    assert_close(couplings[1, 2, 3], conv.routing.couplings(alone))
    total = couplings.sum(dim=-1)
    if routing.__name__ == "StabilizedRouting":  # leaky, and multiplied by the activations of the children
        assert (total <= windows.activations + 1e-6).all()
    elif routing.__name__ != "DualRouting":
        assert_close(total, torch.ones_like(total))


@every_form
@every_routing
@torch.no_grad()
def test_examples_do_not_see_each_other(routing, form):
    conv, capsules = layer(routing, **form), maps()
    assert_close(conv(Capsules(*(part[:1] for part in capsules))), Capsules(*(part[:1] for part in conv(capsules))))


@pytest.mark.parametrize("form", FORMS[:1] + FORMS[2:])
@every_routing
@torch.no_grad()
def test_capsules_outside_of_the_map_are_absent(routing, form):
    conv, capsules, scale = layer(routing, **form), maps(), 1 if "upsampling" not in form else 2
    wide = Capsules(
        torch.nn.functional.pad(capsules.poses, (0, 0, 0, 0, 2, 2, 2, 2)),
        torch.nn.functional.pad(capsules.activations, (0, 0, 2, 2, 2, 2)),
    )
    inside = slice(2 * scale, -2 * scale)
    assert_close(Capsules(*(part[:, inside, inside] for part in conv(wide))), conv(capsules))


@torch.no_grad()
def test_a_window_at_the_edge_is_as_wide_as_the_map_leaves_it():
    conv = layer(kernel_size=3)
    capsules = maps(3, 3)
    weight = conv.routing.weight.view(-1, DIM, 3, 3)
    corner = sum(capsules.poses[0, y, x] @ weight[:, :, y + 1, x + 1].T for y in range(2) for x in range(2))
    expected = plain_dynamic(corner.view(TYPES, PARENTS, DIM_OUT), conv.routing.bias)
    assert_close(conv(capsules).poses[0, 0, 0], expected)


@every_form
@every_routing
def test_blocks_give_the_gradients_of_all_positions_at_once(routing, form, monkeypatch):
    conv, capsules = layer(routing, **form), maps()
    capsules.poses.requires_grad_()
    inputs = [capsules.poses, *conv.parameters()]
    results = []
    for most in (2**19, 200, 1):  # all at once, some rows, a row at a time
        monkeypatch.setitem(blocks_of_positions._MOST_NUMBERS, "cpu", most)
        parents = conv(capsules)
        loss = sum((part * torch.linspace(-1, 2, part.numel()).view_as(part)).sum() for part in parents)
        gradients = torch.autograd.grad(loss, inputs, allow_unused=True)
        results.append([loss.detach(), *(g if g is not None else torch.zeros(()).double() for g in gradients)])
    assert_close(results[1], results[0])
    assert_close(results[2], results[0])


@pytest.mark.parametrize("form", FORMS[1:3])
def test_gradcheck(form, small_blocks):
    conv, capsules = layer(**form), maps(3, 2, batch=1)
    parameters = dict(conv.named_parameters())

    def parents(poses, *values):
        moved = dict(zip(parameters, values, strict=True))
        return tuple(torch.func.functional_call(conv, moved, (Capsules(poses, capsules.activations),)))

    values = [value.detach().requires_grad_() for value in parameters.values()]
    assert torch.autograd.gradcheck(parents, (capsules.poses.requires_grad_(), *values), fast_mode=True)


def test_nothing_of_the_size_of_the_votes_is_kept(monkeypatch):
    conv, capsules = layer(types=8, kernel_size=3), maps(8, 8, types=8)
    votes = 2 * 8 * 8 * 8 * PARENTS * DIM_OUT
    kept = []
    capsules.poses.requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        conv(capsules)
        plain = sum(kept)
        kept.clear()
        monkeypatch.setitem(blocks_of_positions._MOST_NUMBERS, "cpu", 1)
        conv(capsules)
    assert plain > votes
    assert 0 < sum(kept) < 0.7 * votes  # children and weights


def test_statistics_of_the_batch_are_those_of_all_positions(small_blocks):
    conv, capsules = layer(partial(SelfRouting, normalize=True), kernel_size=3).train(), maps()
    running = conv.routing.norm.running_mean.clone()
    found = conv(capsules).poses
    assert_close(found.mean(dim=(0, 1, 2)).flatten(), conv.routing.norm.bias)
    assert not torch.equal(conv.routing.norm.running_mean, running)


@every_form
def test_autocast_gives_float32(form, small_blocks):
    conv, capsules = layer(**form).float(), maps()
    narrow = Capsules(capsules.poses.float().requires_grad_(), capsules.activations.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = conv(narrow)
    found.poses.square().sum().backward()
    assert found.poses.dtype == found.activations.dtype == torch.float32
    # rounding the children alone moves poses by 0.001 in the mean, and by more where the votes disagree
    assert (found.poses.double() - conv.double()(capsules).poses).abs().mean() < 0.003
    assert conv.routing.weight.grad.isfinite().all()
    assert narrow.poses.grad.any()


def test_skip_puts_types_side_by_side_and_cuts_the_surplus():
    above, earlier = maps(6, 6), maps(5, 6, types=2)
    both = skip(above, earlier)
    assert both.poses.shape == (2, 5, 6, TYPES + 2, DIM)
    assert_close(both.poses[..., TYPES:, :], earlier.poses)
    assert_close(both.activations[..., :TYPES], above.activations[:, :5])
    with pytest.raises(InputError, match="5x6"):
        skip(maps(4, 6), earlier)


@pytest.mark.parametrize(
    ("form", "named"),
    [
        ({"kernel_size": 0}, "0x0"),
        ({"stride": 0}, "stride of 0"),
        ({"kernel_size": 1, "stride": 2, "upsampling": "transposed"}, "1x1"),
        ({"upsampling": "linear"}, "linear"),
    ],
)
def test_wrong_arguments_are_named(form, named):
    with pytest.raises(InputError, match=named):
        layer(**form)
