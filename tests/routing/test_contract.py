"""The laws of every routing algorithm, each checked on every algorithm of the package and every switch it has."""

import inspect
from functools import partial

import pytest
import torch
from routings import ROUTINGS
from torch.testing import assert_close

from capsule_lightning.capsules import Capsules
from capsule_lightning.errors import InputError
from capsule_lightning.layers.squash import squash
from capsule_lightning.routing.dual import DualRouting
from capsule_lightning.routing.dynamic import DynamicRouting
from capsule_lightning.routing.stabilized import StabilizedRouting
from capsule_lightning.routing.uniform import UniformRouting

CHILDREN, CHILD_DIM, PARENTS = 7, 4, 3
SHAPES = ["num_in", "dim_in", "num_out", "dim_out"]


def switched(cls):
    """The algorithm with its defaults, and with each of its switches thrown."""
    yield pytest.param(partial(cls), id=cls.__name__)
    for name, parameter in inspect.signature(cls).parameters.items():
        if isinstance(parameter.default, bool):
            yield pytest.param(partial(cls, **{name: not parameter.default}), id=f"{cls.__name__}-{name}")
        for value in {"vote_weights": (1,), "pose": ("matrix",)}.get(name, ()):
            yield pytest.param(partial(cls, **{name: value}), id=f"{cls.__name__}-{name}-{value}")


def build(case, num_in=CHILDREN, num_out=PARENTS):
    """A routing in float64, every parameter moved from where it starts, so that none of them is a constant."""
    try:
        net = case(num_in, CHILD_DIM, num_out, 9)
    except InputError:  # matrix poses keep their size
        net = case(num_in, CHILD_DIM, num_out, CHILD_DIM)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return net.double().eval()  # statistics of a batch, where an algorithm keeps them, tie its examples


def children(*leading, num_in=CHILDREN):
    """Random child capsules in float64."""
    return Capsules.from_vectors(squash(torch.randn(*leading, num_in, CHILD_DIM, dtype=torch.float64)))


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_the_algorithms_are_found():
    assert {DynamicRouting, UniformRouting} <= set(ROUTINGS)


@pytest.mark.parametrize("cls", ROUTINGS)
def test_shapes_come_first_and_the_rest_is_keyword_only(cls):
    names, parameters = zip(*inspect.signature(cls).parameters.items(), strict=True)
    assert list(names[:4]) == SHAPES
    assert all(p.kind is p.POSITIONAL_OR_KEYWORD and p.default is p.empty for p in parameters[:4])
    assert all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in parameters[4:])


@pytest.mark.parametrize("cls", ROUTINGS)
@pytest.mark.parametrize("name", SHAPES)
def test_sizes_below_one_are_refused(cls, name):
    with pytest.raises(InputError, match=f"{name}=0"):
        cls(**dict.fromkeys(SHAPES, 4) | {name: 0})


@pytest.mark.parametrize("case", [case for cls in ROUTINGS for case in switched(cls)])
class TestLaws:
    @pytest.mark.parametrize("leading", [(), (1,), (2, 3)])
    def test_leading_dimensions_are_free(self, case, leading):
        net, capsules = build(case), children(*leading)
        flat = Capsules(capsules.poses.reshape(-1, CHILDREN, CHILD_DIM), capsules.activations.reshape(-1, CHILDREN))
        parents, expected = net(capsules), net(flat)
        assert parents.poses.shape == (*leading, PARENTS, net.dim_out)
        assert_close(parents.poses, expected.poses.reshape(parents.poses.shape))
        assert_close(parents.activations, expected.activations.reshape(*leading, PARENTS))
        assert_close(net.couplings(capsules), net.couplings(flat).reshape(*leading, CHILDREN, PARENTS))

    def test_order_of_the_children_does_not_matter(self, case):
        net, capsules, order = build(case), children(2), torch.randperm(CHILDREN)
        before, couplings = net(capsules), net.couplings(capsules)
        moved = net(capsules._replace(poses=capsules.poses[:, order])).poses
        assert net.vote_weights == 1 or not torch.allclose(moved, before.poses)
        with torch.no_grad():
            for parameter in (*net.parameters(), *net.buffers()):
                for axis in (axis for axis, size in enumerate(parameter.shape) if size == CHILDREN):
                    parameter.copy_(parameter.index_select(axis, order))
        shuffled = Capsules(capsules.poses[:, order], capsules.activations[:, order])
        assert_close(net(shuffled), before)
        assert_close(net.couplings(shuffled), couplings[:, order])

    def test_children_share_vote_weights(self, case):
        types = 2
        shared, alone = (partial(case, vote_weights=n) for n in (types, None))
        few, many = build(shared, num_in=6), build(alone, num_in=6)
        with torch.no_grad():
            for target, source in zip(many.parameters(), few.parameters(), strict=True):
                repeats = [n // m for n, m in zip(target.shape, source.shape, strict=True)]
                target.copy_(source.repeat(repeats))
        capsules = children(2, num_in=6)
        assert_close(few(capsules), many(capsules))
        assert sum(p.numel() for p in few.parameters()) < sum(p.numel() for p in many.parameters())

    def test_children_that_are_not_there_change_nothing(self, case):
        net, some = build(partial(case, vote_weights=1)), children(2)
        padded = Capsules(*(torch.cat([part, torch.zeros_like(part[:, :2])], dim=1) for part in some))
        if not net.any_number:
            pytest.skip("takes as many children as it was built for")
        assert_close(net(padded), net(some), rtol=0, atol=1e-6)  # self-routing counts them with 1e-8
        assert_close(net.couplings(padded)[:, :CHILDREN], net.couplings(some), rtol=0, atol=1e-6)

    def test_activations_are_lengths_where_it_says_so(self, case):
        parents = build(case)(children(2))
        lengths = parents.poses.norm(dim=-1)
        assert torch.allclose(parents.activations, lengths, rtol=0, atol=1e-12) == case.func.gives_lengths

    @pytest.mark.parametrize("num_out", [1, PARENTS])
    def test_couplings_of_a_child_sum_to_one(self, case, num_out):
        couplings = build(case, num_out=num_out).couplings(children(2))
        total = couplings.sum(dim=-1)
        assert couplings.shape == (2, CHILDREN, num_out)
        assert (couplings >= 0).all()
        if case.keywords.get("leaky"):
            assert (total < 1).all()
        elif case.func in (DualRouting, StabilizedRouting):  # a child may have several parents, or none
            assert (couplings <= 1).all()
        else:
            assert_close(total, torch.ones_like(total))

    @pytest.mark.parametrize("num_in", [1, CHILDREN])
    @pytest.mark.parametrize("size", [0.0, 1.0, 1e5])
    def test_values_and_gradients_are_finite(self, case, num_in, size):
        net = build(case, num_in=num_in).float()
        poses = (size * torch.randn(2, num_in, CHILD_DIM)).requires_grad_()
        parents = net(Capsules.from_vectors(poses))
        loss = sum((part * torch.rand_like(part)).sum() for part in parents)  # plain sums may be constant
        gradients = torch.autograd.grad(loss, [poses, *net.parameters()])
        assert parents.poses.isfinite().all()
        # a length just below one may round to one place above it
        assert ((parents.activations >= 0) & (parents.activations <= 1 + 1e-6)).all()
        assert all(gradient.isfinite().all() for gradient in gradients)
        assert size != 1 or all(gradient.any() for gradient in gradients)

    @pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("narrow", [False, True])
    def test_autocast_gives_float32(self, case, half, narrow):
        net, capsules = build(case).float(), children(2)
        dtype = half if narrow else torch.float32
        narrow = Capsules(capsules.poses.to(dtype), capsules.activations.to(dtype))
        with torch.autocast("cpu", dtype=half):
            parents, couplings = net(narrow), net.couplings(narrow)
        assert parents.poses.dtype == parents.activations.dtype == couplings.dtype == torch.float32
        # bfloat16 votes carry eight bits (float16 eleven), of which the sum over the children keeps six and more
        wide = Capsules(*(part.double() for part in narrow))
        largest = max(1.0, parents.poses.abs().max().item())  # layer-normalized poses are longer than 1
        assert_close(parents, net.double()(wide), rtol=0, atol=0.01 * largest, check_dtype=False)

    def test_float64_stays_float64(self, case):
        net, capsules = build(case), children(2)
        parents = net(capsules)
        assert parents.poses.dtype == parents.activations.dtype == net.couplings(capsules).dtype == torch.float64

    def test_state_dict_round_trip(self, case):
        net, other, capsules = build(case), build(case), children(2)
        assert not torch.equal(net(capsules).poses, other(capsules).poses)
        other.load_state_dict(net.state_dict())
        assert_close(other(capsules), net(capsules), rtol=0, atol=0)

    def test_examples_do_not_see_each_other(self, case):
        net, first, others = build(case), children(1), children(3)
        together = Capsules(*(torch.cat(pair) for pair in zip(first, others, strict=True)))
        alone = net(first)
        assert_close(net(together).poses[:1], alone.poses)
        assert_close(net(together).activations[:1], alone.activations)
        assert_close(net.couplings(together)[:1], net.couplings(first))


BY_DAY = (DynamicRouting,)


# one algorithm as it is; every one with every switch at night
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(*param.values, id=param.id, marks=[pytest.mark.nightly] if number or cls not in BY_DAY else [])
        for cls in ROUTINGS
        for number, param in enumerate(switched(cls))
    ],
)
def test_compiles_into_one_graph(case):
    net, capsules = build(case).float(), Capsules(*(x.float() for x in children(2)))
    torch.compiler.reset()
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    parents, expected = compiled(capsules), net(capsules)
    assert_close(parents, expected, rtol=1e-5, atol=1e-6)
    found, plain = (
        torch.autograd.grad(p.poses.square().sum() + p.activations.square().sum(), list(net.parameters()))
        for p in (parents, expected)
    )
    assert_close(found, plain, rtol=1e-4, atol=1e-5)
