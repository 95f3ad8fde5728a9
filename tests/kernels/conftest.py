"""Triton compiles for a GPU; where there is none, its interpreter runs the kernels, if told so before they are made."""

import os
import sys
from importlib import reload
from importlib.metadata import PackageNotFoundError, version

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
    # Lightning imports Triton, and has then defined Triton's own kernels (sum, max, ...) for a GPU
    for name in ("triton.language.standard", "triton.language", "capsule_lightning.kernels.gpu_dynamic"):
        if name in sys.modules:
            reload(sys.modules[name])


def major_minor(package: str) -> tuple[int, ...]:
    """Its version, or (0, 0) where it is not installed."""
    try:
        return tuple(map(int, version(package).split(".")[:2]))
    except PackageNotFoundError:
        return 0, 0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what Triton up to 3.6 cannot interpret with NumPy from 2.4 on; compiled kernels do not need NumPy."""
    if torch.cuda.is_available() or not (major_minor("triton") < (3, 7) and major_minor("numpy") >= (2, 4)):
        return
    for item in items:
        if item.path.parent.name == "kernels" and ("triton" in item.name or "partial_sums" in item.name):
            item.add_marker(pytest.mark.skip(reason="this Triton's interpreter does not work with this NumPy"))
