"""Processes that are not in step."""

import time

import lightning as L


class SlowRank(L.Callback):
    """Lets one rank be slower than the others.

    Args:
        rank: the slow one; -1 for none.
        seconds: that it waits in each step.
        steps: first steps in which it waits.
    """

    def __init__(self, rank: int = -1, seconds: float = 0.3, steps: int = 40) -> None:
        self.rank, self.seconds, self.steps = rank, seconds, steps

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        if trainer.global_rank == self.rank and trainer.global_step < self.steps:
            time.sleep(self.seconds)
