"""Numbers of what counts in a batch, by which sums of losses are divided."""

from __future__ import annotations

import torch
from torch import Tensor


def share_of_count(count: Tensor) -> Tensor:
    """Return the count of a whole batch divided by the number of processes that train on it, of their counts.

    A sum that is divided by it has a mean over processes, and so have its gradients, that one process with the whole
    batch would have. It is at least 1 for the whole batch. Without gradients, in an evaluation, processes may have
    other numbers of batches, and it is the count of this process.

    Args:
        count: scalar, of what this process has of the batch.

    Example:
        >>> share_of_count(torch.tensor(0))
        tensor(1)
    """
    together = torch.distributed.is_available() and torch.distributed.is_initialized()
    if not (together and torch.is_grad_enabled()):
        return count.clamp_min(1)
    total = count.detach().double()
    torch.distributed.all_reduce(total)
    return total.clamp_min(1) / torch.distributed.get_world_size()
