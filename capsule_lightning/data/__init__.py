"""Data sets as Lightning data modules, one family a file.

The contracts are `data.module.DataModule` and, for images, `data.base.ImageDataModule`.
"""
