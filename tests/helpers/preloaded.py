"""Imports what `fork_server` forks processes with; they do not look for garbage among it."""

import gc
from contextlib import suppress
from importlib import import_module
from pkgutil import walk_packages

import capsule_lightning
from capsule_lightning.comparison.study_processes import PRELOADED
from capsule_lightning.loggers.wandb_service import import_before_torch

import_before_torch()
for needed in (*PRELOADED, "forked", "matplotlib.pyplot"):
    import_module(needed)

EXTRAS = ["datasets", "h5py", "nbformat", "nibabel", "sacrebleu", "sklearn.metrics", "tokenizers"]
ours = [module.name for module in walk_packages(capsule_lightning.__path__, "capsule_lightning.")]
ours.remove("capsule_lightning.__main__")
for wished in EXTRAS + ours:
    with suppress(ImportError):  # of a library that is not there
        import_module(wished)

gc.freeze()
