"""A stand-in for the trainer of one process among several, as far as data modules ask."""

from types import SimpleNamespace

import torch


def one_process(rank=0, world_size=1, device="cpu"):
    """The trainer of the process ``rank`` of ``world_size``, which trains on ``device``."""
    strategy = SimpleNamespace(root_device=torch.device(device))
    return SimpleNamespace(global_rank=rank, world_size=world_size, strategy=strategy)
