"""Triton compiles for a GPU; where there is none, its interpreter runs the kernels, if told so before they are made."""

import os
import sys
from importlib import reload

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
    # Lightning imports Triton, and has then defined Triton's own kernels (sum, max, ...) for a GPU
    for name in ("triton.language.standard", "triton.language", "capsule_lightning.kernels.dynamic_triton"):
        if name in sys.modules:
            reload(sys.modules[name])
