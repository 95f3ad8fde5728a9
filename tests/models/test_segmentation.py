"""Segmentation networks: sizes of the papers, capsules at each pixel, reconstruction, export."""

from functools import partial

import pytest
import torch
import yaml
from torch.testing import assert_close

from capsule_lightning.capsules import Capsules
from capsule_lightning.components.slots import Slot, find_class
from capsule_lightning.decoders.pixels import PixelDecoder
from capsule_lightning.errors import InputError
from capsule_lightning.kernels import blocks_of_positions
from capsule_lightning.models.matwo_capsnet import APPEARANCE, DIM, POSE, MatwoCapsNet, MatwoCapsules
from capsule_lightning.models.segcaps import BiasedDynamicRouting, SegCaps
from capsule_lightning.models.segmentation import SegmentationNet
from capsule_lightning.models.shared_kernel_capsules import SharedKernelCapsules
from capsule_lightning.models.unet import UNet
from capsule_lightning.models.vote_scale import scale_votes
from capsule_lightning.routing.em import EMRouting
from capsule_lightning.routing.self_attention import SelfAttentionRouting
from capsule_lightning.routing.uniform import UniformRouting
from capsule_lightning.sharing.onnx import onnx_model
from capsule_lightning.shipped import CONFIG_DIR

SMALL = {
    "segcaps": partial(SegCaps, types=(1, 2, 2), dims=(4, 4, 6)),
    "segcaps-resize": partial(SegCaps, types=(1, 2, 2), dims=(4, 4, 6), upsampling="resize", background=False),
    "segcaps-scaled": partial(SegCaps, types=(1, 2, 2), dims=(4, 4, 6), stem=(3, 4), pose_length=0.4, recompute=False),
    "matwo": partial(MatwoCapsNet, types=(1, 1, 2, 2), decoder=PixelDecoder),
    "unet": partial(UNet, width=2, depth=2),
}
every_network = pytest.mark.parametrize("network", SMALL)
IN_SHAPE, CLASSES = (3, 13, 10), 3


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def count(module):
    """Number of parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


R1 = partial(BiasedDynamicRouting, iterations=1)


@pytest.mark.parametrize("same_size", [None, R1])
def test_segcaps_has_the_parameters_of_the_paper(same_size):
    with torch.device("meta"):
        net = SegCaps((1, 512, 512), 2, background=False, same_size_routing=same_size)
        both = SegCaps((1, 512, 512), 2)
    assert count(net) - count(net.decoder) == 1_416_112
    assert count(net.decoder) == 9_537
    assert count(both) - count(net) == 16 * 16 + 16
    passes = [m.routing.iterations for m in net.modules() if isinstance(m, SharedKernelCapsules)]
    in_order = [1, 1, 3, 1, 3, 1] + [3] * 3 + [1] * 3 if same_size else [1] + [3] * 11
    assert passes == in_order


def test_parameters_of_each_layer_of_segcaps():
    with torch.device("meta"):
        net = SegCaps((1, 64, 64), 2, background=False)
    found = [count(net.stem), *(count(m) for m in net.modules() if isinstance(m, SharedKernelCapsules))]
    down = [416, 12_832, 25_664, 51_328, 205_056, 410_112, 409_856]
    up, merge, classes = [131_328, 32_832, 8_224], [102_528, 25_664], [272]
    assert found == [*down, *up, *merge, *classes]


def test_matwo_has_the_parameters_of_the_released_code():
    with torch.device("meta"):
        assert count(MatwoCapsNet((1, 128, 128), 6)) == 42_925


def test_unet_is_as_large_as_it_is_told():
    assert count(UNet((1, 32, 32), 2, width=2, depth=1)) < count(UNet((1, 32, 32), 2, width=3, depth=1))
    with torch.device("meta"):
        assert count(UNet((1, 572, 572), 2, norm="none")) == 31_030_658
    for parameters in (43_000, 1_416_384):
        assert abs(count(UNet((1, 32, 32), 2, parameters=parameters)) / parameters - 1) < 0.01
    with pytest.raises(InputError, match="parameters=9"):
        UNet((1, 32, 32), 2, parameters=9)
    with pytest.raises(InputError, match="depth=4"):
        UNet((1, 15, 32), 2)


@every_network
def test_every_pixel_has_class_capsules_and_all_weights_learn(network):
    net, images = SMALL[network](IN_SHAPE, CLASSES), torch.rand(2, *IN_SHAPE)
    capsules = net(images)
    assert capsules.poses.shape[:4] == (2, *IN_SHAPE[1:], CLASSES)
    assert capsules.activations.shape == (2, *IN_SHAPE[1:], CLASSES)
    assert ((capsules.activations >= 0) & (capsules.activations <= 1)).all()
    masks = torch.randint(-1, CLASSES, (2, *IN_SHAPE[1:]))
    loss = (capsules.activations * torch.rand_like(capsules.activations)).sum()
    pictures = net.reconstruct(capsules, masks)
    if net.decoder is not None:
        assert pictures.shape == images.shape
        loss = loss + pictures.square().sum()
    loss.backward()
    assert all(parameter.grad.isfinite().all() and parameter.grad.any() for parameter in net.parameters())


@torch.no_grad()
def test_poses_have_the_stated_length_in_every_layer():
    images, found = torch.rand(4, 1, 32, 32), {}
    for length in (0.4, 0.7, None):
        net = SegCaps((1, 32, 32), CLASSES, types=(2, 3, 4), dims=(8, 8, 12), kernel_size=3, pose_length=length)
        poses = found[length] = []
        for layer in net.modules():
            if isinstance(layer, SharedKernelCapsules):
                layer.register_forward_hook(lambda module, children, parents, poses=poses: poses.append(parents.poses))
        net(images)
    for length in (0.4, 0.7):  # of random children they are these, and those of an image are not random
        lengths = [float(each.norm(dim=-1).mean()) for each in found[length]]
        assert len(lengths) == 12
        assert lengths == pytest.approx([length] * 12, abs=0.2)
    differences = {length: float(found[length][-7].std(dim=(0, 1, 2)).mean()) for length in (0.4, None)}
    assert differences[0.4] > 10 * differences[None]  # at the bottom, between positions


@torch.no_grad()
def test_scaled_votes_of_other_children_give_parents_of_the_length():
    layer = SharedKernelCapsules(4, 16, 4, 16, routing=BiasedDynamicRouting, kernel_size=3)
    children = Capsules.from_vectors(1.2 * torch.nn.functional.normalize(torch.randn(200, 4, 144), dim=-1))
    for length in (0.3, 0.4, 0.6):
        scale_votes(layer.routing, length, children=1.2)
        found = float(layer.routing(children).activations.mean())
        assert found == pytest.approx(length, rel=0.15)  # the scale follows from four draws of children
    silent = EMRouting(3, 72, 4, 16, vote_weights=1)
    before = [parameter.clone() for parameter in silent.parameters()]
    scale_votes(silent, 0.3)
    assert_close(list(silent.parameters()), before)


def test_votes_that_are_kept_give_what_recomputed_ones_do(monkeypatch):
    monkeypatch.setitem(blocks_of_positions._MOST_NUMBERS, "cpu", 1)
    net, images = SMALL["segcaps-scaled"](IN_SHAPE, CLASSES).double(), torch.rand(2, *IN_SHAPE, dtype=torch.float64)
    again = SMALL["segcaps-scaled"](IN_SHAPE, CLASSES, recompute=True).double()
    again.load_state_dict(net.state_dict())
    results = []
    for each in (net, again):
        learned = [weight for name, weight in each.named_parameters() if not name.startswith("decoder")]
        loss = each(images).activations.square().sum()
        results.append([loss, *torch.autograd.grad(loss, learned)])
    assert_close(results[0], results[1])


@every_network
@torch.no_grad()
def test_images_do_not_see_each_other(network):
    net, images = SMALL[network](IN_SHAPE, CLASSES).double().eval(), torch.rand(3, *IN_SHAPE, dtype=torch.float64)
    assert_close(net(images[1:2]), Capsules(*(part[1:2] for part in net(images))))


@every_network
@torch.no_grad()
def test_bfloat16_autocast_runs(network):
    net, images = SMALL[network](IN_SHAPE, CLASSES).eval(), torch.rand(2, *IN_SHAPE)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        capsules = net(images)
    assert capsules.activations.dtype == torch.float32
    assert_close(capsules.activations, net(images).activations, rtol=0, atol=0.1)


@torch.no_grad()
def test_background_is_what_the_labels_leave():
    net = SMALL["segcaps-resize"](IN_SHAPE, CLASSES)
    capsules = net(torch.rand(1, *IN_SHAPE))
    assert_close(capsules.activations[..., 0], 1 - capsules.activations[..., 1:].amax(dim=-1))
    assert not capsules.poses[..., 0, :].any()


@pytest.mark.nightly
@pytest.mark.parametrize("routing", [UniformRouting, SelfAttentionRouting, EMRouting])
def test_segcaps_takes_any_routing(routing):
    net = SMALL["segcaps"](IN_SHAPE, CLASSES, routing=routing)
    net(torch.rand(1, *IN_SHAPE)).activations.sum().backward()
    assert net.stem.weight.grad.isfinite().all()


@torch.no_grad()
def test_predictions_are_masks_and_the_names_in_them():
    net = SMALL["unet"](IN_SHAPE, CLASSES)
    net.class_names = ["background", "cat", "dog"]
    net.head.weight.zero_()
    net.head.bias.copy_(torch.tensor([0.0, 0.0, 1.0]))
    answers = net.predict(torch.rand(2, *IN_SHAPE))
    assert_close(answers.classes, torch.full((2, *IN_SHAPE[1:]), 2))
    assert answers.names == ["dog", "dog"]
    assert net.names_of(torch.tensor([[[0, 2], [1, 0]], [[0, 0], [0, 0]]])) == ["cat, dog", ""]


@torch.no_grad()
def test_the_decoder_sees_the_capsule_of_the_label_alone():
    decoder, poses = PixelDecoder(CLASSES, 4, (2, 3, 3)), torch.randn(1, 3, 3, CLASSES, 4)
    masks = torch.tensor([[[1, 0, 2], [0, -1, 2], [1, 1, 0]]])
    expected, others = decoder(poses, masks), poses.clone()
    for label in range(CLASSES):
        others[..., label, :][masks != label] += 1
    others[..., 0, :] += 1
    assert_close(decoder(others, masks), expected)
    assert_close(expected[0, :, 0, 1], expected[0, :, 1, 1])  # background and what is ignored
    moved = poses.clone()
    moved[0, 0, 0, 1] += 1
    changed = (decoder(moved, masks) != expected).any(dim=1)[0]
    assert changed.nonzero().tolist() == [[0, 0]]


def plain_matwo(capsules, layer, y, x):
    """Parents of one position of a layer with stride 1, of plain loops."""
    routing, kernel = layer.router.routing, layer.router.kernel.size
    rows, columns = capsules.poses.shape[1:3]
    spatial = layer.router.spatial.view(routing.num_in, routing.num_out, kernel, kernel)
    poses, appearances = (torch.zeros(routing.num_in, routing.num_out, n, n).double() for n in (POSE, APPEARANCE))
    for i in range(routing.num_in):
        for j in range(routing.num_out):
            seen = torch.zeros(DIM).double()
            for a in range(kernel):
                for b in range(kernel):
                    row, column = y + a - kernel // 2, x + b - kernel // 2
                    if 0 <= row < rows and 0 <= column < columns:
                        seen += spatial[i, j, a, b] * capsules.poses[0, row, column, i]
            weight = routing.pose_weight[i, j] / routing.pose_weight[i, j].norm(dim=0)
            weight[-1, 0] += x / columns
            weight[-1, 1] += y / rows
            poses[i, j] = seen[: POSE**2].view(POSE, POSE) @ weight
            appearance = seen[POSE**2 :].view(APPEARANCE, APPEARANCE) + routing.bias[i, j]
            appearances[i, j] = appearance @ routing.appearance_weight[i, j]
    logits = torch.zeros(routing.num_in, routing.num_out).double()
    for _ in range(routing.iterations):
        parents = []
        for j in range(routing.num_out):
            s = [
                sum(logits[i, j].sigmoid() * part[i, j] for i in range(routing.num_in)) for part in (poses, appearances)
            ]
            length = s[1].norm()
            parents.append((s[0] / s[0].abs().max(), length / (1 + length**2) * s[1]))
        for i in range(routing.num_in):
            for j, (pose, appearance) in enumerate(parents):
                logits[i, j] += (poses[i, j] * pose).sum() * (appearances[i, j] * appearance).sum()
    return parents


@torch.no_grad()
def test_matwo_capsules_are_what_plain_loops_compute(monkeypatch):
    layer = MatwoCapsules(2, 3, kernel_size=3).double()
    capsules = Capsules(torch.randn(1, 4, 5, 2, DIM).double(), torch.rand(1, 4, 5, 2).double())
    monkeypatch.setitem(blocks_of_positions._MOST_NUMBERS, "cpu", 1)
    found = layer(capsules)
    for y, x in ((0, 0), (2, 3), (3, 4)):
        for j, (pose, appearance) in enumerate(plain_matwo(capsules, layer, y, x)):
            expected = torch.cat([pose.flatten(), appearance.flatten()])
            assert_close(found.poses[0, y, x, j], expected, rtol=1e-4, atol=1e-5)  # 1e-6 is added to the largest
            assert_close(found.activations[0, y, x, j], pose.norm() * appearance.norm() / 4, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", [{}, {"stride": 2}, {"kernel_size": 4, "stride": 2, "transposed": True}])
def test_blocks_of_matwo_capsules_are_the_whole(form, monkeypatch):
    layer, poses = MatwoCapsules(2, 3, **form).double(), torch.randn(2, 4, 6, 2, DIM, dtype=torch.float64)
    poses.requires_grad_()
    results = []
    for most in (2**30, 1):
        monkeypatch.setitem(blocks_of_positions._MOST_NUMBERS, "cpu", most)
        found = layer(Capsules(poses, poses[..., 0]))
        loss = found.activations.sum() + (found.poses * torch.linspace(0, 1, DIM)).sum()
        results.append((*found, *torch.autograd.grad(loss, [poses, *layer.parameters()])))
    assert_close(results[0], results[1])


@pytest.mark.nightly
@every_network
def test_onnx_computes_the_same(network):
    pytest.importorskip("onnxruntime")
    net = SMALL[network](IN_SHAPE, CLASSES).eval()
    onnx_model(net, {})  # which refuses a model that computes something else


@pytest.mark.parametrize(
    ("cls", "options", "named"),
    [
        (SegCaps, {"types": (2, 4)}, r"types=\[2, 4\]"),
        (SegCaps, {"dims": (0, 4, 4)}, r"dims=\[0, 4, 4\]"),
        (SegCaps, {"upsampling": "sub"}, "sub"),
        (SegCaps, {"stem": (8, 0)}, r"stem=\[8, 0\]"),
        (SegCaps, {"pose_length": 1.0}, "pose_length=1.0"),
        (MatwoCapsNet, {"types": (5, 5, 6)}, r"types=\[5, 5, 6\]"),
        (UNet, {"norm": "group"}, "group"),
        (UNet, {"width": 0}, "width=0"),
        (partial(PixelDecoder, hidden=(0,)), None, r"hidden=\[0\]"),
    ],
)
def test_wrong_arguments_are_named(cls, options, named):
    with pytest.raises(InputError, match=named):
        cls(IN_SHAPE, CLASSES, **options) if options else cls(CLASSES, 4, IN_SHAPE)


@pytest.mark.parametrize(
    ("name", "parameters"), [("segcaps", 1_425_921), ("matwo_capsnet", 42_925 - 4 * 11 * 43), ("unet", 1_425_921)]
)
def test_configs_are_networks_of_the_sizes_that_they_state(name, parameters):
    stated = yaml.safe_load((CONFIG_DIR / "model" / f"{name}.yaml").read_text())["model"]["init_args"]["net"]
    cls = find_class(stated["class_path"], Slot((SegmentationNet,)))
    options = {key: made(value) for key, value in stated["init_args"].items()}
    with torch.device("meta"):
        net = cls((1, 64, 64), 2, **options)
    assert abs(count(net) / parameters - 1) < (5e-3 if name == "unet" else 1e-9)


def made(value):
    """What a config's class is to a network: something to call."""
    if not isinstance(value, dict):
        return value
    return partial(find_class(value["class_path"], Slot((torch.nn.Module,))), **value["init_args"])
