"""Data sets as Lightning data modules, one file for each family. The contract is `data.base.ImageDataModule`."""
