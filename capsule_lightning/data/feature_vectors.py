"""A data set of vectors: rows of a table, or features that were computed elsewhere."""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from capsule_lightning.data.base import ImageBatch, ImageDataModule, Normalization
from capsule_lightning.data.division import Division
from capsule_lightning.data.image_trees import in_order
from capsule_lightning.data.label_tables import TABLES, read_table
from capsule_lightning.data.loader import MemoryStore, Store, StoredBatch
from capsule_lightning.data.module import DataModule, Split
from capsule_lightning.data.prepared import Images
from capsule_lightning.data.row_splits import RowSplits
from capsule_lightning.data.statistics import Brightness
from capsule_lightning.data.to_predict import unknown
from capsule_lightning.data.vector_files import Columns, number_columns, read_unlabeled, read_vectors
from capsule_lightning.errors import printable, require, some_of

REACH = 3.0
"""Standard deviations on each side of the mean that a reconstruction can reach."""


class FeatureDataModule(ImageDataModule):
    """Vectors of numbers in a table, or in arrays, straight into the network: ``(D, 1, 1)``, a pixel of D channels.

    A table has a row for each vector: a CSV, TSV or Parquet file with a column ``label``, where present ``split`` and
    ``group``, see `ImageTableDataModule`, and columns of numbers. Arrays are those of an ``.npz`` file or of the
    ``.npy`` files of a folder: ``features`` and ``labels``, ``X`` and ``y``, or ``train_features``, ``train_labels``,
    ..., see `ImageArrayDataModule`; beside ``features``, ``split`` and ``group`` may have a word for each vector.

    Each number is normalized by its mean and standard deviation over the vectors to train on. A decoder reconstructs
    them from 3 standard deviations below the mean to 3 above, as 0 to 1; figures of pictures are not drawn. Vectors are
    not augmented. `ImageDataModule` describes the arguments that are not listed.

    Args:
        path: the table, the ``.npz`` file or the folder.
        columns: names of the columns of numbers; null for all but those of labels, splits and groups, and ``path``.
        label_column, split_column, group_column: see `ImageTableDataModule`.
        features_name, labels_name: names of the arrays if they have others, see `ImageArrayDataModule`.
        test_size: number or fraction of the vectors that form the test set if none are listed as such; the choice is
            stratified and the same for every seed.
        folds: number of parts, stratified and the same for every seed, one of which is the test set in place of
            ``test_size`` vectors; null for none.
        fold: which of the ``folds`` parts to test on, from 0.
        normalization: ``channel``, or ``none`` to take the numbers as they are.
        images: a file of vectors without labels, for ``predict``: a table with the same columns of numbers, an ``.npy``
            file, or an ``.npz`` file with ``features``.

    Raises:
        InputError: a file, a column, an array or a label is missing, a cell is no finite number, a group is in two
            splits, or a value is out of range.
    """

    name = "features"
    example_name = "vector"
    usual_normalization: ClassVar[Normalization] = "channel"

    def __init__(
        self,
        path: str | None = None,
        columns: list[str] | None = None,
        label_column: str = "label",
        split_column: str | None = None,
        group_column: str | None = None,
        features_name: str | None = None,
        labels_name: str | None = None,
        test_size: float | int = 0.2,
        folds: int | None = None,
        fold: int = 0,
        batch_size: int = 128,
        val_size: float | int = 0.1,
        seed: int | None = None,
        normalization: Normalization | None = None,
        images: str | None = None,
        balanced: bool = False,
    ) -> None:
        super().__init__(None, batch_size, val_size, seed, None, normalization, images=images, balanced=balanced)
        require(path, "no file of vectors is given: set --data.path to a table, an .npz file or a folder of .npy files")
        require(
            normalization != "per_image", "normalization=per_image: is for images; expected channel or none for vectors"
        )
        require(
            (features_name is None) == (labels_name is None),
            f"features_name={features_name}, labels_name={labels_name}: expected both names, or neither",
        )
        self.path = Path(os.path.expanduser(str(path)))
        self.columns = Columns(label_column, split_column, group_column, columns)
        names = None if features_name is None else (features_name, str(labels_name))
        division = Division(test_size, folds, fold, "vector")
        self.vectors = read_vectors(self.path, self.columns, names)
        division.require_possible(self.vectors.own_parts)
        parts = self.vectors.parts
        self.class_names = in_order(
            [each for each, part in zip(self.vectors.labels, parts, strict=True) if part == "train"]
        )
        require(
            len(self.class_names) > 1,
            f"{self.path}: only the class {self.class_names[0]} to train on; expected two classes or more",
        )
        unknown = sorted(set(self.vectors.labels) - set(self.class_names))
        require(
            not unknown,
            f"{self.path}: {some_of(unknown)} are labels that no vector to train on has; add such vectors, or take "
            "these out",
        )
        number_of = {name: number for number, name in enumerate(self.class_names)}
        self._labels = torch.tensor([number_of[label] for label in self.vectors.labels])
        self.splits = RowSplits(
            self.title,
            self._labels,
            parts,
            self.vectors.groups,
            self.vectors.own_parts,
            self.class_names,
            division,
            val_size,
        )
        self.splits.require_enough()

    @property
    @override
    def in_shape(self) -> tuple[int, int, int]:
        return self.vectors.values.shape[1], 1, 1

    @override
    def load(self, split: Split) -> Images:
        places = self.splits.places(split)
        return Images(self.vectors.values[places][:, :, None, None], self._labels[places])

    @override
    def setup(self, stage: str | None = None) -> None:
        """Read what the stage needs, and measure the vectors to train on if they are to be normalized."""
        if stage == "predict" and self.predict_path is not None:
            vectors = self._predicted(Path(os.path.expanduser(self.predict_path)))
            self.stores["predict"] = MemoryStore(vectors, unknown(len(vectors)))
        else:
            DataModule.setup(self, stage)
        if self.normalization == "channel" and self.statistics is None:
            store = self.store("train")
            places = self._train if len(self._train) else self.hold_out(store.labels)[0]
            values = store.take(places)[:, :, 0, 0].double()
            deviation = values.std(dim=0, correction=0)
            self.statistics = values.mean(dim=0).tolist(), deviation.where(deviation > 0, 1.0).tolist()

    @override
    def on_after_batch_transfer(self, batch: StoredBatch | ImageBatch, dataloader_idx: int) -> ImageBatch:
        """Normalize, on the device."""
        if isinstance(batch, ImageBatch):
            return batch
        vectors = batch.inputs
        if self.normalization != "channel" or self.statistics is None:
            return ImageBatch(vectors, vectors.clamp(0, 1), batch.labels, batch.indices)
        mean, deviation = (torch.tensor(each, device=vectors.device).view(-1, 1, 1) for each in self.statistics)
        vectors = (vectors - mean) / deviation
        return ImageBatch(vectors, (vectors / (2 * REACH) + 0.5).clamp(0, 1), batch.labels, batch.indices)

    @override
    def hold_out(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Hold out the vectors that are listed to validate on, or else ``val_size`` vectors."""
        return self.splits.hold_out(self.seed)

    @override
    def open(self, split: Split) -> Store:
        """Return the vectors of a split, which were checked when they were read."""
        return MemoryStore(*self.load(split))

    @override
    def brightness(self) -> Brightness:
        """Return nothing of use: vectors are neither bright nor dark."""
        return Brightness(0.0, 1.0)

    @property
    @override
    def title(self) -> str:
        return str(self.path)

    @override
    def origin_of(self, part: str) -> str:
        origin = self.splits.origin_of(part)
        return super().origin_of(part) if origin is None else origin

    @override
    def describe(self) -> str:
        """Return what has been read so far: vectors, classes, splits, and where they are from."""
        if len(self._train):
            self.store("test")
        count, dims = self.vectors.values.shape
        lines = [f"{self.title}: {count:,} vectors of {dims:,} numbers, {self.num_classes} classes"]
        lines += [self.describe_splits(), self.vectors.note]
        flat = int((self.vectors.values.amax(dim=0) == self.vectors.values.amin(dim=0)).sum())
        lines += [f"{flat:,} of the numbers are the same in all vectors"] if flat else []
        return "\n  ".join(map(printable, lines))

    def _predicted(self, path: Path) -> Tensor:
        """Return vectors to predict, ``(N, D, 1, 1)``."""
        columns = self.columns
        if columns.numbers is None and self.path.suffix.lower() in TABLES:
            columns = columns._replace(numbers=number_columns(read_table(self.path), columns))
        require(
            path.suffix.lower() not in TABLES or columns.numbers is not None,
            f"{path}: is a table, and this network was trained on arrays; give an .npz or .npy file of vectors, or "
            "name the columns with --data.columns",
        )
        values = read_unlabeled(path, columns, self.in_shape[0])
        require(
            values.shape[1] == self.in_shape[0],
            f"{path}: has {values.shape[1]} columns of numbers; expected {self.in_shape[0]}, as in training",
        )
        return values[:, :, None, None]
