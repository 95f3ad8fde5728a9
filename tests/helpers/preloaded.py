"""Imports what `fork_server` forks processes with; they do not look for garbage among it."""

import gc
from importlib import import_module

from capsule_lightning.comparison.study_processes import PRELOADED
from capsule_lightning.loggers.wandb_service import import_before_torch

import_before_torch()
for name in (*PRELOADED, "forked", "matplotlib.pyplot"):
    import_module(name)
gc.freeze()
