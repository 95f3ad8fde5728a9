"""Train in float64, in which sums in another order differ by some 1e-15: what differs by more is no rounding."""

import lightning as L


class Double(L.Callback):
    """Make a network of float64 before an optimizer and other processes take hold of it."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        pl_module.double()
        pl_module.net.register_forward_pre_hook(lambda _, inputs: tuple(each.double() for each in inputs))
