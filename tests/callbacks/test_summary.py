"""The table of a network's parts."""

import re
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from capsule_lightning.callbacks.summary import NetworkSummary, output_shapes, parts
from capsule_lightning.encoders.efficient import EfficientEncoder
from capsule_lightning.errors import InputError
from capsule_lightning.models.capsnet import CapsNet
from capsule_lightning.tasks.classification import ClassificationTask

SMALL = partial(EfficientEncoder, channels=(4, 8), kernel_sizes=(5, 3), strides=(2, 2))


def test_the_parts_of_the_papers_network():
    found = {part.name: part[1:] for part in parts(CapsNet((1, 28, 28), 10), 1)}
    assert found == {
        "encoder": ("SabourEncoder", (1152, 8), 20_992 + 5_308_672),
        "routing": ("DynamicRouting", (10, 16), 1_474_560),
        "decoder": ("DenseDecoder", (1, 28, 28), 1_411_344),
    }


def test_only_the_network_is_shown_and_its_total(capsys):
    task = ClassificationTask((1, 28, 28), 10)
    NetworkSummary().on_fit_start(SimpleNamespace(is_global_zero=True), task)
    output = capsys.readouterr().out
    assert re.search(r"network +CapsNet +8,215,568", output)
    for other in ("metrics", "confusion", "Loss", "FLOPs", "mode"):
        assert other not in output
    assert max(map(len, output.splitlines())) <= 80


def test_other_processes_print_nothing(capsys):
    NetworkSummary().on_fit_start(SimpleNamespace(is_global_zero=False), ClassificationTask((1, 28, 28), 10))
    assert capsys.readouterr().out == ""


def test_trying_the_network_leaves_no_trace():
    net = CapsNet((1, 20, 20), 5, encoder=SMALL)
    frozen = next(module for module in net.modules() if isinstance(module, nn.BatchNorm2d)).eval()
    before, state = {name: value.clone() for name, value in net.state_dict().items()}, torch.get_rng_state()
    assert output_shapes(net)["routing"] == (5, 16)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert (net.training, frozen.training) == (True, False)
    assert not any(module._forward_hooks for module in net.modules())


class Broken(CapsNet):
    def class_capsules(self, images):
        raise RuntimeError("not for one image")


def test_a_network_that_cannot_be_tried_is_shown_without_shapes():
    assert {part.shape for part in parts(Broken((1, 20, 20), 5, encoder=SMALL), 1)} == {()}


def test_shared_parameters_count_once():
    layer = nn.Linear(2, 3)
    (first, second) = parts(nn.Sequential(layer, nn.Sequential(layer, nn.Linear(3, 1))), 1)
    assert (first.parameters, second.parameters) == (9, 13)


def test_a_depth_of_zero_is_refused():
    with pytest.raises(InputError, match="max_depth=0"):
        NetworkSummary(max_depth=0)
