"""Convolution by products of frequencies: equal to the library's in value and gradient, where it can be had."""

from copy import deepcopy

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from capsule_lightning.encoders.sabour import SabourEncoder
from capsule_lightning.errors import InputError
from capsule_lightning.kernels import cpu_frequencies, frequencies
from capsule_lightning.kernels.cpu_conv_relu_conv import Convolution
from capsule_lightning.kernels.cpu_conv_relu_frequency_conv import conv_relu_frequency_conv
from capsule_lightning.kernels.cpu_frequency_conv import frequency_conv2d, products_that_pay
from capsule_lightning.kernels.frequencies import relative_work

GEOMETRIES = [
    pytest.param((3, 4, 5, 20, 20), (9, 9), (2, 2), id="the paper's"),
    pytest.param((1, 2, 3, 11, 14), (3, 5), (1, 2), id="one image, odd sizes"),
    pytest.param((2, 3, 2, 9, 8), (1, 1), (3, 1), id="a stride beyond the kernel"),
    pytest.param((2, 3, 2, 7, 7), (7, 6), (2, 3), id="one output"),
    pytest.param((2, 1, 2, 13, 17), (2, 3), (1, 1), id="one channel"),
]
TINY = {"channels": 4, "kernel_size": 3, "num_types": 2, "dim": 3, "primary_kernel_size": 5}


def convolution(sizes, kernel, dtype=torch.float64):
    """Maps, weight and bias of random numbers."""
    batch, channels, out, *size = sizes
    shapes = (batch, channels, *size), (out, channels, *kernel), (out,)
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


def two_convolutions(function, inputs, strides):
    """What a function makes of images and two convolutions."""
    images, weight, bias, next_weight, next_bias = inputs
    return function(images, Convolution(weight, bias, strides[0]), Convolution(next_weight, next_bias, strides[1]))


def by_the_library(images, first, second):
    return second(first(images).relu())


def with_gradients(out, inputs, **options):
    """It, and the gradients of the inputs."""
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(out.dtype)
    return out, *torch.autograd.grad(out, [x for x in inputs if x is not None], upstream, **options)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def small_parts(monkeypatch):
    """Divide even small work: outputs into tiles, images into blocks, frequencies into parts."""
    monkeypatch.setattr(frequencies, "MOST_OUTPUTS", 3)
    monkeypatch.setattr(cpu_frequencies, "_MOST_NUMBERS", 300)
    monkeypatch.setattr(cpu_frequencies, "_MOST_FACTORS", 100)
    frequencies.tiles_of.cache_clear()
    yield
    frequencies.tiles_of.cache_clear()


@pytest.mark.parametrize(("sizes", "kernel", "stride"), GEOMETRIES)
def test_equals_the_library(sizes, kernel, stride):
    inputs = convolution(sizes, kernel)
    before = [x.detach().clone() for x in inputs]
    ours, library = (with_gradients(f(*inputs, stride), inputs) for f in (frequency_conv2d, F.conv2d))
    for found, wanted in zip(ours, library, strict=True):
        assert_close(found, wanted, atol=1e-11, rtol=1e-12)
    assert all(map(torch.equal, inputs, before))  # the backward pass overwrites only what is its own


@pytest.mark.parametrize(("sizes", "kernel", "stride"), GEOMETRIES)
def test_divided_work_is_the_same_work(sizes, kernel, stride, small_parts):
    test_equals_the_library(sizes, kernel, stride)


@pytest.mark.parametrize("products", [torch.float64, torch.bfloat16])
def test_without_a_bias_with_channels_innermost_and_twice(products):
    maps, weight, _ = convolution((3, 4, 5, 12, 11), (4, 3))
    maps = maps.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    inputs = [maps, weight, None]
    out = frequency_conv2d(*inputs, (2, 2), products)
    once, twice = (with_gradients(out, inputs, retain_graph=True) for _ in range(2))
    for found, again, wanted in zip(once, twice, with_gradients(F.conv2d(*inputs, (2, 2)), inputs), strict=True):
        # bfloat16 has eight bits
        assert_close(found, wanted, atol=1e-11 if products == torch.float64 else 0.3, rtol=0)
        assert torch.equal(found, again)


@pytest.mark.parametrize("strides", [((1, 1), (2, 1)), ((2, 1), (1, 2))])
def test_two_convolutions_equal_the_library(strides):
    shapes = (5, 2, 13, 12), (3, 2, 3, 2), (3,), (4, 3, 2, 3), (4,)
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    ours = two_convolutions(conv_relu_frequency_conv, inputs, strides)
    wanted = with_gradients(two_convolutions(by_the_library, inputs, strides), inputs)
    for _ in range(2):  # the second time, nothing is left of what was kept
        for found, its in zip(with_gradients(ours, inputs, retain_graph=True), wanted, strict=True):
            assert_close(found, its, atol=1e-11, rtol=1e-12)


def test_two_convolutions_in_small_parts(small_parts):
    test_two_convolutions_equal_the_library(((2, 1), (1, 2)))


def test_gradients():
    inputs = convolution((2, 2, 2, 6, 5), (3, 2))
    assert torch.autograd.gradcheck(lambda *x: frequency_conv2d(*x, (2, 1)), inputs)
    shapes = (2, 1, 7, 6), (2, 1, 2, 2), (2,), (2, 2, 3, 2), (2,)
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(lambda *x: two_convolutions(conv_relu_frequency_conv, x, ((1, 1), (2, 1))), inputs)


@pytest.mark.parametrize("wanted", range(5))
def test_only_what_is_asked_for_gets_a_gradient(wanted):
    shapes = (3, 2, 9, 8), (3, 2, 3, 2), (3,), (4, 3, 2, 3), (4,)
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=n == wanted) for n, shape in enumerate(shapes)]
    ours, library = (
        torch.autograd.grad(two_convolutions(f, inputs, ((1, 1), (2, 1))).square().sum(), inputs[wanted])
        for f in (conv_relu_frequency_conv, by_the_library)
    )
    assert_close(ours, library, atol=1e-10, rtol=1e-12)
    inputs[wanted].requires_grad_(False)
    assert not two_convolutions(conv_relu_frequency_conv, inputs, ((1, 1), (2, 1))).requires_grad


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 4.0), (torch.bfloat16, 1.5)])
def test_no_further_from_the_truth_than_rounding_makes_the_library(dtype, most):
    inputs = convolution((4, 32, 32, 20, 20), (9, 9), torch.float32)
    doubles = [x.detach().double().requires_grad_() for x in inputs]
    truth = with_gradients(F.conv2d(*doubles, (2, 2)), doubles)
    ours = with_gradients(frequency_conv2d(*inputs, (2, 2), dtype), inputs)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        library = with_gradients(F.conv2d(*inputs, (2, 2)), inputs)
    for found, other, true in zip(ours, library, truth, strict=True):
        error, usual = (torch.linalg.vector_norm(x.double() - true) for x in (found, other))
        # three products for a complex one lose a few units more than a plain sum does; in bfloat16, where the library
        # rounds maps, weight and sum, the spectra of maps and weight are rounded, too: five times in place of three
        assert error <= most * usual


def test_the_same_bits_every_time():
    inputs = convolution((4, 8, 8, 20, 20), (9, 9), torch.float32)
    once, again = (with_gradients(frequency_conv2d(*inputs, (2, 2)), inputs) for _ in range(2))
    assert all(map(torch.equal, once, again))


def test_a_second_derivative_is_refused():
    inputs = convolution((2, 2, 2, 6, 5), (3, 2))
    (gradient,) = torch.autograd.grad(frequency_conv2d(*inputs, (2, 1)).square().sum(), inputs[1], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.square().sum().backward()


def test_an_empty_batch_gives_an_empty_answer():
    maps, weight, bias = convolution((2, 2, 3, 9, 9), (3, 3))
    assert frequency_conv2d(maps[:0], weight, bias, (2, 2)).shape == (0, 3, 4, 4)
    first = Convolution(weight, bias, (2, 2))
    second = Convolution(torch.zeros(2, 3, 2, 2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64), (1, 1))
    assert conv_relu_frequency_conv(maps[:0], first, second).shape == (0, 2, 3, 3)


def test_the_papers_network_needs_less_than_a_fifth_of_the_products():
    (tile,) = frequencies.tiles_of((6, 6), (9, 9), (2, 2))
    forms = [frequencies.form_of(phase, tile.outputs, phase.positions, True, torch.float32) for phase in tile.phases]
    ranks = [3 * form.from_taps.shape[1] - 2 * form.alone for form in forms]
    assert ranks == [148, 134, 134, 121]
    assert sum(ranks) < 36 * 81 / 5
    assert [len(form.from_positions) for form in forms] == [100, 90, 90, 81]  # a transform keeps the number of numbers


def test_transforms_of_ten_points_lose_little_in_bfloat16():
    (tile,) = frequencies.tiles_of((6, 6), (9, 9), (2, 2))
    assert tile.lengths == (10, 10)
    for phase in tile.phases:
        exact, rounded = (
            frequencies.form_of(phase, tile.outputs, tile.lengths, False, dtype)
            for dtype in (torch.float64, torch.bfloat16)
        )
        found, wanted = (
            torch.einsum("oqfp,qft,fpx->otx", form.to_outputs.double(), form.from_taps.double(), rows) * form.scale
            for form in (rounded, exact)
            for rows in [form.from_positions.double().unflatten(0, (-1, 2))]
        )
        # the eight bits of bfloat16 leave 1.7e-3 of a random number, and five times less of these, enlarged as they are
        assert torch.linalg.vector_norm(found - wanted) < 1e-3 * torch.linalg.vector_norm(wanted)


@pytest.mark.parametrize(
    ("batch", "channels", "kernel", "stride", "outputs", "pays"),
    [
        (128, 256, 9, 2, 6, True),
        (128, 256, 9, 2, 40, True),
        (128, 128, 9, 2, 12, True),  # just within the law, 0.554
        (1, 256, 9, 2, 6, False),  # the kernel's transform is for one image
        (128, 4, 9, 2, 6, False),  # transforms cost more than so few channels save
        (128, 256, 1, 1, 6, False),
        (128, 256, 3, 2, 6, False),
    ],
)
def test_the_law(batch, channels, kernel, stride, outputs, pays, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_supported", lambda: False)
    images, weight = torch.empty(batch, 1, 1, 1), torch.empty(channels, channels, kernel, kernel)
    work = relative_work(batch, (channels, channels), (outputs, outputs), (kernel, kernel), (stride, stride))
    found = products_that_pay(images, (outputs, outputs), weight, (stride, stride))
    assert (found == torch.float32) == pays == (work <= 0.57)
    assert products_that_pay(images, (outputs, outputs), weight.half(), (stride, stride)) is None
    assert products_that_pay(images.to("meta"), (outputs, outputs), weight, (stride, stride)) is None
    with torch.autocast("cpu", torch.float16):
        assert products_that_pay(images, (outputs, outputs), weight, (stride, stride)) is None
    forced = products_that_pay(images, (outputs, outputs), weight, (stride, stride), forced=True)
    assert forced == torch.float32


@pytest.mark.parametrize(("outputs", "channels", "pays"), [(6, 256, True), (12, 128, False)])  # work of 0.34 and 0.55
def test_with_wide_units_the_librarys_convolution_is_harder_to_beat(outputs, channels, pays, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_supported", lambda: True)
    images, weight = torch.empty(128, 1, 1, 1), torch.empty(channels, channels, 9, 9)
    found = products_that_pay(images, (outputs, outputs), weight, (2, 2))
    assert found == (torch.float32 if pays else None)


@pytest.mark.parametrize(
    ("units", "products"),
    [({"avx2", "avx512_bf16"}, torch.bfloat16), ({"avx2"}, torch.float32), ({"avx2", "avx512_bf16", "amx_tile"}, None)],
)
def test_in_bfloat16_the_processor_decides(units, products, monkeypatch):
    for unit in ("avx2", "avx512_bf16", "amx_tile"):
        monkeypatch.setattr(torch.cpu, f"_is_{unit}_supported", lambda unit=unit: unit in units)
    with torch.autocast("cpu", torch.bfloat16):
        assert products_that_pay(torch.empty(128, 1, 1, 1), (6, 6), torch.empty(256, 256, 9, 9), (2, 2)) == products


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize(("mode", "stride"), [("paper", 2), ("official", 1)])
def test_the_encoder_gives_the_same_capsules_and_gradients(padding, mode, stride):
    encoder = SabourEncoder((2, 13, 12), padding=padding, mode=mode, primary_stride=stride, **TINY).double()
    images = torch.rand(3, 2, 13, 12, dtype=torch.float64)
    results = []
    for backend in ("torch", "frequencies"):
        encoder.backend = backend
        poses = encoder(images).poses
        assert ("Frequency" in names_of_graph(poses)) == (backend == "frequencies")
        results.append(with_gradients(poses, list(encoder.parameters())))
    for wanted, found in zip(*results, strict=True):
        assert_close(found, wanted, atol=1e-11, rtol=1e-10)


def names_of_graph(tensor):
    """The names of all functions that a tensor was computed by, as one text."""
    names, left = [], [tensor.grad_fn]
    while left:
        node = left.pop()
        if node is not None:
            names.append(node.name())
            left += [each for each, _ in node.next_functions]
    return " ".join(names)


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_the_encoder_under_autocast(padding):
    encoder, images = SabourEncoder((1, 13, 12), padding=padding, **TINY), torch.rand(2, 1, 13, 12)
    wanted = encoder(images)
    encoder.backend = "frequencies"
    with torch.autocast("cpu", torch.bfloat16):
        found = encoder(images)
        found.poses.sum().backward()
    assert found.poses.dtype == torch.float32
    assert_close(found, wanted, atol=0.01, rtol=0)  # the products have the eight bits of bfloat16
    assert all(parameter.grad.dtype == torch.float32 for parameter in encoder.parameters())


def test_the_encoder_keeps_its_names_and_can_be_copied_and_not_trained():
    encoder, images = SabourEncoder((1, 13, 12), backend="frequencies", **TINY), torch.rand(2, 1, 13, 12)
    plain = SabourEncoder((1, 13, 12), backend="torch", **TINY)
    plain.load_state_dict(encoder.state_dict())
    assert list(plain.state_dict()) == ["conv.weight", "conv.bias", "primary.weight", "primary.bias"]
    with torch.inference_mode():  # first: what is made here is used for training, too
        assert_close(encoder(images), plain(images), atol=1e-5, rtol=0)
    with torch.no_grad():
        assert_close(deepcopy(encoder)(images), plain(images), atol=1e-5, rtol=0)
    encoder(images.to(memory_format=torch.channels_last)).poses.sum().backward()
    plain(images).poses.sum().backward()
    for ours, its in zip(encoder.parameters(), plain.parameters(), strict=True):
        assert_close(ours.grad, its.grad, atol=1e-4, rtol=1e-4)


def test_torch_func_sees_the_library():
    encoder, images = SabourEncoder((1, 13, 12), backend="frequencies", **TINY), torch.rand(2, 1, 13, 12)
    parameters = {name: parameter.detach() for name, parameter in encoder.named_parameters()}

    def total(parameters):
        return torch.func.functional_call(encoder, parameters, (images,)).poses.sum()

    found = torch.func.grad(total)(parameters)
    encoder(images).poses.sum().backward()
    for name, parameter in encoder.named_parameters():
        assert_close(found[name], parameter.grad, atol=1e-4, rtol=1e-4)


@pytest.mark.nightly
def test_what_is_compiled_or_exported_is_the_librarys():
    encoder, images = SabourEncoder((1, 13, 12), backend="frequencies", **TINY), torch.rand(2, 1, 13, 12)
    wanted = encoder(images).poses
    compiled = torch.compile(encoder, fullgraph=True, backend="eager")(images).poses
    exported = torch.export.export(encoder, (images,))
    assert "Frequency" not in names_of_graph(compiled)
    assert sum(node.target == torch.ops.aten.conv2d.default for node in exported.graph.nodes) == 2
    for found in (compiled, exported.module()(images).poses):
        assert_close(found, wanted, atol=1e-5, rtol=0)


def test_what_cannot_be_is_refused_in_one_line():
    with pytest.raises(InputError, match=r"backend='fft': expected one of auto, torch, frequencies$"):
        SabourEncoder((1, 28, 28), backend="fft")
    with pytest.raises(InputError, match=r"primary_kernel_size=40 .* 2116 positions: .* use backend=auto$"):
        SabourEncoder((1, 60, 60), backend="frequencies", primary_kernel_size=40, primary_stride=1)
