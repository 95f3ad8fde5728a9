"""The parts of scenes, batch by batch, the same on any number of processes and after an interruption."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from capsule_lightning.data.loader import ExactLoader, Store, StoredBatch
from capsule_lightning.data.scene_composition import CUTOUT, Rules

_EVALUATION, _FIXED = -1, -2  # where an epoch's number is asked for; those of training begin at 0


class SceneParts(NamedTuple):
    """What scenes are made of.

    Attributes:
        inputs: ``(B, N, A, h, w)`` uint8, cut-outs, the last of whose channels is the opacity.
        labels: ``(B, N)`` int64, their classes.
        indices: ``(B)`` int64, numbers of the scenes.
        draws: ``(B, K)`` float32 in [0, 1).
        grounds: ``(B, C, H, W)`` uint8, photographs behind the objects; None for none.
    """

    inputs: Tensor
    labels: Tensor
    indices: Tensor
    draws: Tensor
    grounds: Tensor | None


class SceneLoader(ExactLoader):
    """Yields the parts of scenes out of a subset of cut-outs.

    Scene n is a function of ``seed``, n and, if scenes are fresh, the epoch alone: more scenes, other batches and other
    numbers of processes do not change it. Evaluation has the same scenes in every epoch.

    Args:
        store: the cut-outs, ``(N, A, h, w)`` uint8.
        pool: ``(M)`` int64, the cut-outs to choose from.
        scenes: number of scenes in an epoch.
        batch_size, training, seed, rank, world_size: see `ExactLoader`.
        rules: what scenes may be like.
        fresh: whether training has other scenes in each epoch.
        grounds: ``(G, C, H, W)`` uint8, photographs to choose from; None for none.
    """

    def __init__(
        self,
        store: Store,
        pool: Tensor,
        scenes: int,
        batch_size: int,
        *,
        rules: Rules,
        fresh: bool = True,
        grounds: Tensor | None = None,
        training: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__(
            store,
            torch.arange(scenes),
            batch_size,
            training=training,
            num_draws=rules.num_draws,
            seed=seed,
            rank=rank,
            world_size=world_size,
        )
        self.pool, self.rules, self.fresh, self.grounds = pool.to(store.labels.device), rules, fresh, grounds

    @override
    def plan(self) -> tuple[Tensor, Tensor]:
        random = self.random(self.epoch if self.training else _EVALUATION)
        chance = self.random(_FIXED) if self.training and not self.fresh else random
        draws = torch.rand(len(self.subset), self.num_draws, generator=chance)
        if not self.training:
            return self.subset, draws
        order = torch.randperm(len(self.subset), generator=random)
        return order, draws[order]

    @override
    def batch(self, indices: Tensor, draws: Tensor | None) -> StoredBatch:
        assert draws is not None
        drawn = self.rules.of_objects(draws)[..., CUTOUT]
        chosen = self.pool[(drawn.double() * len(self.pool)).long()]  # (B, N)
        cutouts = torch.unflatten(self.store.take(chosen.flatten()), 0, chosen.shape)
        grounds = None if self.grounds is None else self.grounds[(draws[:, 1].double() * len(self.grounds)).long()]
        return SceneParts(cutouts, self.store.labels[chosen], indices, draws, grounds)  # type: ignore[return-value]
