"""Data sets as Lightning data modules, one family a file. The contract is `data.base.ImageDataModule`."""
