"""Tasks: LightningModules that hold the training protocol around a network. The contract is `tasks.base.Task`."""
