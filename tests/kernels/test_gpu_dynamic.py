"""Where the Triton kernels cannot be used, and how they are launched; what they compute is tested in `test_dynamic`."""

from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from capsule_lightning.errors import InputError
from capsule_lightning.kernels import gpu_dynamic
from capsule_lightning.kernels.gpu_dynamic import supports, triton_dynamic_routing
from capsule_lightning.layers.votes import vote
from capsule_lightning.routing.dynamic import DynamicRouting, dynamic_routing

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def route(parents=3, parent_dim=6):
    poses, weight = torch.zeros(2, 7, 4, device=DEVICE), torch.zeros(7, parents, parent_dim, 4, device=DEVICE)
    return triton_dynamic_routing(poses, weight)


def test_without_triton_one_is_told(monkeypatch):
    monkeypatch.setattr(gpu_dynamic, "triton", None)
    assert not supports(1, 1)
    with pytest.raises(InputError, match="triton is not installed"):
        route()


@pytest.mark.skipif(DEVICE == "cuda", reason="there is a GPU")
def test_without_a_gpu_one_is_told(monkeypatch):
    triton = pytest.importorskip("triton")

    def compiled():
        """Any function."""

    monkeypatch.setattr(gpu_dynamic, "_sum_children", triton.JITFunction(compiled))
    with pytest.raises(InputError, match="the poses are on cpu, but the kernels need a GPU"):
        route()


@pytest.mark.parametrize(
    ("capability", "hip", "parents", "expected"),
    [
        ((9, 0), None, 10, "triton"),
        ((7, 0), None, 10, "triton"),
        ((6, 1), None, 10, "torch"),
        ((9, 0), "7.1", 10, "torch"),
        ((9, 0), None, 257, "torch"),
    ],
)
def test_kernels_are_chosen_where_they_run(capability, hip, parents, expected, monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.version, "hip", hip)
    poses = SimpleNamespace(device=torch.device("cuda"))
    assert DynamicRouting(7, 4, parents, 16)._choose_backend(poses) == expected


@pytest.mark.parametrize(("parents", "parent_dim"), [(65, 64), (1, 4097)])
def test_parents_too_large_for_registers_are_refused(parents, parent_dim):
    pytest.importorskip("triton")
    assert supports(64, 64)
    assert not supports(parents, parent_dim)
    with pytest.raises(InputError, match=f"{parents} parents of dimension {parent_dim} .* product of at most 4096"):
        route(parents, parent_dim)


def test_more_partial_sums_than_a_kernel_adds_at_a_time(monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setattr(gpu_dynamic, "_chunks", lambda blocks, device: 40)
    poses, weight = torch.randn(2, 41, 2), torch.randn(41, 3, 2, 2)
    found = triton_dynamic_routing(poses.to(DEVICE), weight.to(DEVICE), 2).cpu()
    assert_close(found, dynamic_routing(vote(poses, weight), 2)[0])
