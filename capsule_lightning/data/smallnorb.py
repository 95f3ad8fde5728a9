"""smallNORB: 24,300 training and 24,300 test stereo pairs of 50 toys in 5 classes, 96x96 gray pixels.

LeCun, Huang & Bottou, Learning methods for generic object recognition with invariance to pose and lighting, CVPR 2004.
"""

from __future__ import annotations

import gzip
import hashlib
import os
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from math import prod
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from capsule_lightning.augmentations.base import Augmentation
from capsule_lightning.augmentations.patch import RandomPatch
from capsule_lightning.data import prepared
from capsule_lightning.data.base import Normalization
from capsule_lightning.data.fitting import Fit
from capsule_lightning.data.module import Split
from capsule_lightning.data.named import ArrayLike, NamedDataModule, as_images
from capsule_lightning.data.pictures import MOST_PIXELS
from capsule_lightning.data.prepared import Images
from capsule_lightning.data.regular_files import kind_of, open_regular
from capsule_lightning.errors import InputError, require

Viewpoints = Literal["none", "azimuth", "elevation"]
TestViewpoints = Literal["novel", "familiar"]


class Matrix(NamedTuple):
    """Format of an original file.

    Attributes:
        magic: number at the start of the file that states the type.
        dtype: the type of the values.
        shape: the dimensions after the first.
    """

    magic: int
    dtype: np.dtype
    shape: tuple[int, ...]


HOME = "https://cs.nyu.edu/~ylclab/data/norb-v1.0-small/"
STEMS: dict[Split, str] = {
    "train": "smallnorb-5x46789x9x18x6x2x96x96-training",
    "test": "smallnorb-5x01235x9x18x6x2x96x96-testing",
}
MATRICES = {
    "dat": Matrix(0x1E3D4C55, np.dtype(np.uint8), (2, 96, 96)),
    "cat": Matrix(0x1E3D4C54, np.dtype("<i4"), ()),
    "info": Matrix(0x1E3D4C54, np.dtype("<i4"), (4,)),
}
MD5 = {
    "smallnorb-5x46789x9x18x6x2x96x96-training-dat.mat.gz": "66054832f9accfe74a0f4c36a75bc0a2",
    "smallnorb-5x46789x9x18x6x2x96x96-training-cat.mat.gz": "23c8b86101fbf0904a000b43d3ed2fd9",
    "smallnorb-5x46789x9x18x6x2x96x96-training-info.mat.gz": "51dee1210a742582ff607dfd94e332e3",
    "smallnorb-5x01235x9x18x6x2x96x96-testing-dat.mat.gz": "e4ad715691ed5a3a5f138751a4ceb071",
    "smallnorb-5x01235x9x18x6x2x96x96-testing-cat.mat.gz": "5aa791cd7e6016cf957ce9bdb93b8603",
    "smallnorb-5x01235x9x18x6x2x96x96-testing-info.mat.gz": "a9454f3864d7fd4bb3ea7fc3eb84924e",
}
TRAINING_INSTANCES = (4, 6, 7, 8, 9)
CATEGORY, INSTANCE, ELEVATION, AZIMUTH, LIGHTING = range(5)  # columns of the facts
LIMITS = {INSTANCE: ("toy", 9), ELEVATION: ("elevation", 8), AZIMUTH: ("azimuth", 34), LIGHTING: ("lighting", 5)}
"""The highest value of each fact."""
FAMILIAR = {"azimuth": (AZIMUTH, (30, 32, 34, 0, 2, 4)), "elevation": (ELEVATION, (0, 1, 2))}
"""Column of the viewpoint, and its values in training: azimuth in 10 degrees; elevations of 30 to 40 degrees."""


class SmallNORBDataModule(NamedDataModule):
    """Toys seen from 18 azimuths and 9 elevations under 6 lightings: 5 toys of each class for training, 5 for testing.

    The original files are looked for in ``root`` and ``root/smallnorb``, packed (``.mat.gz``) or not (``.mat``); images
    are scaled once and kept in ``prepared/smallnorb/<size>``. The usual augmentation is that of Sabour et al. 2017,
    section 7, with the values of the released code: a random 32x32 patch of random brightness and contrast, never
    mirrored, each pair standardized after the crop; evaluation uses the central patch. `ImageDataModule` describes the
    arguments that are not listed.

    Args:
        stereo: use the two views of a pair as two channels. False makes each view an example of its own: one channel,
            48,600 training and 48,600 test images, which must be stated beside any result.
        size: rows and columns that the 96x96 images are scaled to (bilinear, antialiased): 48 in the paper, 64 in
            Efficient-CapsNet.
        viewpoints: train on familiar viewpoints of the training toys alone: ``azimuth`` on 300, 320, 340, 0, 20 and 40
            degrees, ``elevation`` on 30, 35 and 40 (Hinton, Sabour & Frosst, Matrix capsules with EM routing, 2018);
            ``none`` trains and tests on all.
        test_viewpoints: test on the ``novel`` or the ``familiar`` viewpoints of the test toys; without effect if
            ``viewpoints`` is ``none``.
        val_instance: validate on this toy of each class (4, 6, 7, 8 or 9) instead of ``val_size`` images; with a
            ``val_size`` of 0, training still uses all toys. Views of one toy are nearly the same, so single images that
            are held out tell little about new toys.
        images: needs ``stereo: false``, since an image file holds one view.

    Attributes:
        facts: for each loaded split, ``(N, 5)`` int64: category, instance, elevation (0 to 8, from 30 degrees in steps
            of 5), azimuth (in 10 degrees) and lighting (0 to 5) of every image.

    Raises:
        InputError: a value is out of range, or files are missing, damaged or of another format.
    """

    name = "smallnorb"
    class_names = ("animal", "human", "airplane", "truck", "car")
    usual_augmentation = staticmethod(partial(RandomPatch, size=32, flip=False))
    usual_normalization = "per_image"
    columns = 5

    def __init__(
        self,
        root: str | None = None,
        stereo: bool = True,
        size: int = 48,
        viewpoints: Viewpoints = "none",
        test_viewpoints: TestViewpoints = "novel",
        val_instance: int | None = None,
        batch_size: int = 128,
        val_size: float | int = 0.1,
        seed: int | None = None,
        augmentation: Callable[[], Augmentation] | None = None,
        normalization: Normalization | None = None,
        download: bool = True,
        images: str | None = None,
        fake: bool = False,
        background: str = "white",
        invert: bool = False,
        max_pixels: int = MOST_PIXELS,
        skip_damaged: bool = False,
        balanced: bool = False,
        fit: Fit = "squeeze",
    ) -> None:
        super().__init__(
            root,
            batch_size,
            val_size,
            seed,
            augmentation,
            normalization,
            download,
            images,
            fake,
            background,
            invert,
            max_pixels,
            skip_damaged,
            balanced,
            fit,
        )
        original = MATRICES["dat"].shape[-1]
        require(1 <= size <= original, f"size={size}: expected 1 to {original}, the size of the original images")
        for option, word, known in (
            ("viewpoints", viewpoints, get_args(Viewpoints)),
            ("test_viewpoints", test_viewpoints, get_args(TestViewpoints)),
        ):
            require(word in known, f"{option}={word!r}: expected one of {', '.join(known)}")
        if val_instance is not None and val_instance not in TRAINING_INSTANCES:
            toys = ", ".join(map(str, TRAINING_INSTANCES))
            raise InputError(f"val_instance={val_instance}: expected one of {toys}, the toys of the training set")
        require(
            not stereo or images is None,
            f"images={images}: an image file holds one view of the two; set --data.stereo false",
        )
        self.stereo, self.size, self.val_instance = stereo, size, val_instance
        self.viewpoints, self.test_viewpoints = viewpoints, test_viewpoints
        self.stored_shape = (2 if stereo else 1, size, size)
        self.facts: dict[Split, Tensor] = {}

    @override
    def load(self, split: Split) -> Images:
        images, facts = self._find(split, download=False)
        if self.viewpoints != "none":
            column, familiar = FAMILIAR[self.viewpoints]
            chosen = torch.isin(facts[:, column], torch.tensor(familiar))
            if split == "test" and self.test_viewpoints == "novel":
                chosen = ~chosen
            images, facts = images[chosen], facts[chosen]
        if not self.stereo:
            images, facts = images.flatten(0, 1).unsqueeze(1), facts.repeat_interleave(2, dim=0)
        self.facts[split] = facts
        return Images(images, facts[:, CATEGORY])

    @override
    def hold_out(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Hold out the toy ``val_instance`` of each class, or else ``val_size`` images."""
        if self.val_instance is None or self.val_size == 0 or self.fake:
            return super().hold_out(labels)
        held_out = self.facts["train"][:, INSTANCE] == self.val_instance
        return (~held_out).nonzero()[:, 0], held_out.nonzero()[:, 0]

    @override
    def read_original(self, split: Split, download: bool) -> tuple[ArrayLike, ArrayLike]:
        """Read stereo pairs and, in place of labels, their facts ``(N, 5)``."""
        read = {kind: read_matrix(self._file(split, kind, download), m) for kind, m in MATRICES.items()}
        counts = {kind: len(matrix) for kind, matrix in read.items()}
        if len(set(counts.values())) > 1:
            raise InputError(f"the files {STEMS[split]}-*.mat do not belong together: they hold {counts} entries")
        pairs = scale(read["dat"], self.size).movedim(1, -1)
        facts = np.column_stack([read["cat"], read["info"]])
        kept = as_images(pairs, facts)
        self._require_facts(split, kept)
        prepared.save(self._prepared(split), kept)
        return pairs, facts

    @override
    def write_prepared(self) -> Path:
        """Store the pairs and their facts, which reading the original files does."""
        self.prepare_data()
        for split in STEMS:
            if prepared.load(self._prepared(split), columns=self.columns) is None:
                raise InputError(f"{self._prepared(split)}: cannot be written; choose another --data.root")
        return self._prepared("train").parent

    def _require_facts(self, split: Split, read: Images) -> None:
        """Refuse facts that no smallNORB has, before they are kept.

        Raises:
            InputError: a category, a toy, an elevation, an azimuth or a lighting is out of range.
        """
        self.require_usable(split, read.images, read.labels[:, CATEGORY], (2, self.size, self.size))
        lowest, highest = read.labels.amin(dim=0).tolist(), read.labels.amax(dim=0).tolist()
        for column, (name, most) in LIMITS.items():
            if lowest[column] < 0 or highest[column] > most:
                raise InputError(
                    f"the {split} set of {self.name} has {name}s from {lowest[column]} to {highest[column]}, expected "
                    f"0 to {most}; fetch its info file again from {HOME}"
                )

    def _prepared(self, split: Split) -> Path:
        return self.root / "prepared" / self.name / str(self.size) / split

    def _read_tree(self, split: Split) -> Images:
        raise InputError(
            f"{self._tree(split)}: class folders do not say which toy is seen from where; put the original files of "
            f"{HOME} into {self.root / self.name} and remove this folder"
        )

    def _file(self, split: Split, kind: str, download: bool) -> Path:
        """Return the packed file, which has to be byte for byte the original, or else the unpacked one."""
        packed = f"{STEMS[split]}-{kind}.mat.gz"
        folder = self.root / self.name
        if download:
            from torchvision.datasets.utils import download_url

            download_url(HOME + packed, str(folder), packed, MD5[packed])
        places = [place / name for place in (folder, self.root) for name in (packed, packed.removesuffix(".gz"))]
        path = next((place for place in places if kind_of(place) == "file"), None)
        if path is None:
            raise InputError(f"{packed}: no such file here or in {folder}, packed or not; it comes from {HOME}")
        if path.name == packed:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "md5").hexdigest()
            if found != MD5[packed]:
                raise InputError(f"{path}: md5 {found}, expected {MD5[packed]}; fetch it again from {HOME}")
        return path


def read_matrix(path: Path, expected: Matrix) -> np.ndarray:
    """Read a file of the original format, packed or not.

    It holds little-endian numbers of 4 bytes: a magic number that states the type, the number of dimensions, and the
    dimensions, of which there are three even if the matrix has fewer; then the values.

    Args:
        path: the file; packed if it ends in ``.gz``.
        expected: type and dimensions.

    Returns:
        ``(N, *expected.shape)``, read-only.

    Raises:
        InputError: the type or the dimensions differ, or the length does not fit them.
    """
    again = f"fetch it again from {HOME}"
    num_dims = 1 + len(expected.shape)
    start = 4 * (2 + max(num_dims, 3))
    with open_regular(path) as raw, gzip.open(raw) if path.suffix == ".gz" else nullcontext(raw) as file:
        head = file.read(start)
        require(len(head) == start, f"{path}: cut short, {len(head)} bytes are less than the header; {again}")
        magic, found_dims, *dims = np.frombuffer(head, dtype="<u4").tolist()
        require(magic == expected.magic, f"{path}: magic number {magic:#x}, expected {expected.magic:#x}; {again}")
        shape = (dims[0], *expected.shape)
        if found_dims != num_dims or tuple(dims[:num_dims]) != shape:
            stated = dims[: min(found_dims, len(dims))]
            names = ["N", *expected.shape]
            raise InputError(f"{path}: {found_dims} dimensions {stated}, expected {num_dims} of {names}; {again}")
        size = prod(shape) * expected.dtype.itemsize
        if path.suffix != ".gz":  # what the header says is not believed before it is compared
            held = os.fstat(raw.fileno()).st_size - start
            require(held == size, f"{path}: {held} bytes of values, expected {size} of {shape}; {again}")
        content = file.read(size + 1)
    require(len(content) == size, f"{path}: {len(content)} bytes of values, expected {size} of {shape}; {again}")
    return np.frombuffer(content, expected.dtype).reshape(shape)


def scale(images: np.ndarray, size: int) -> Tensor:
    """Scale images ``(N, C, H, W)`` uint8 to ``(N, C, size, size)`` uint8, bilinear and antialiased."""
    out = torch.empty(*images.shape[:2], size, size, dtype=torch.uint8)
    for start in range(0, len(images), 500):  # all of them as float32 would take gigabytes
        some = torch.tensor(images[start : start + 500], dtype=torch.float32)
        scaled = F.interpolate(some, size=(size, size), mode="bilinear", antialias=True)
        out[start : start + 500] = scaled.round().to(torch.uint8)
    return out
