"""Full precision for what half precision is too coarse for: exponentials, iterated softmax, lengths, sums."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")

_HALF = (torch.float16, torch.bfloat16)


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Make a tensor function compute outside autocast, with half-precision tensor arguments widened to float32.

    float32 and float64 arguments stay as they are, so that a reference check in float64 stays in float64.
    """

    def widen(value: object) -> object:
        return value.float() if isinstance(value, Tensor) and value.dtype in _HALF else value

    @wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        device = next((a.device.type for a in (*args, *kwargs.values()) if isinstance(a, Tensor)), "cpu")
        # "meta", used for counting shapes, has no autocast; asking torch what has breaks the graph up to torch 2.11
        with nullcontext() if device == "meta" else torch.autocast(device_type=device, enabled=False):
            return function(*map(widen, args), **{k: widen(v) for k, v in kwargs.items()})  # type: ignore[arg-type]

    return wrapper
