"""Oxford-IIIT Pet: 7,349 photographs of cats and dogs of 37 breeds, with masks.

Parkhi, Vedaldi, Zisserman & Jawahar, Cats and Dogs, CVPR 2012.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

from typing_extensions import override

from capsule_lightning.augmentations.base import Augmentation
from capsule_lightning.data.listed_masks import ListedMasksDataModule
from capsule_lightning.data.mask_pairs import MaskPairs
from capsule_lightning.data.mask_values import Meaning
from capsule_lightning.data.original_files import fetch, names_in, root_of
from capsule_lightning.data.pictures import MOST_PIXELS, Reading
from capsule_lightning.errors import require_one_of

Border = Literal["ignore", "class"]
PET, GROUND, EDGE = 1, 2, 3
"""Values of the masks, called trimaps."""


class OxfordPetsDataModule(ListedMasksDataModule):
    """Photographs of cats and dogs with masks of the animal, as torchvision keeps the original files.

    These are ``<root>/oxford-iiit-pet/images/*.jpg`` and ``annotations/{trainval,test}.txt`` and
    ``annotations/trimaps/*.png``. 3,680 images are for training and validation, 3,669 for tests.

    Args:
        root: folder of the data; null for ``CAPSULE_LIGHTNING_DATA`` or ``data``.
        download: fetch the files, 800 MB, if they are not there.
        border: what the outline of an animal is, which the masks mark and which is neither animal nor ground for
            certain: ``ignore``, so that it does not count, or a ``class`` of its own, the second.
        image_size, channels, augmentation, batch_size, val_size, seed, images, background, invert, max_pixels: see
            `ImageMaskDataModule`.

    Raises:
        InputError: files are missing or do not fit each other, or an option is out of range.
    """

    name = "oxford_pets"

    def __init__(
        self,
        root: str | None = None,
        download: bool = True,
        border: Border = "ignore",
        image_size: int = 128,
        channels: int = 3,
        augmentation: Callable[[], Augmentation] | None = None,
        batch_size: int = 8,
        val_size: float | int = 0.1,
        seed: int | None = None,
        images: str | None = None,
        background: str = "white",
        invert: bool = False,
        max_pixels: int = MOST_PIXELS,
    ) -> None:
        require_one_of("border", border, get_args(Border))
        own = border == "class"
        super().__init__(
            (channels, image_size, image_size),
            augmentation,
            Meaning(
                ["pet", "border"] if own else ["pet"], [PET, EDGE] if own else [PET], [] if own else [EDGE], GROUND
            ),
            batch_size,
            val_size,
            seed,
            images,
            Reading(background, invert, max_pixels),
        )
        self.root, self.download = root_of(root), download

    @override
    def prepare_data(self) -> None:
        from torchvision.datasets import OxfordIIITPet

        def download() -> None:
            OxfordIIITPet(str(self.root), target_types="segmentation", download=True)

        if self.needs_originals:
            fetch(self.root / "oxford-iiit-pet", download if self.download else None)

    @override
    def find_pairs(self) -> dict[str, MaskPairs]:
        folder = self.root / "oxford-iiit-pet"
        found = {}
        for split, file in (("train", "trainval"), ("test", "test")):
            names = [row[0] for row in names_in(folder / "annotations" / f"{file}.txt", 4)]
            images = [folder / "images" / f"{name}.jpg" for name in names]
            found[split] = MaskPairs(
                images, [folder / "annotations" / "trimaps" / f"{name}.png" for name in names], [], []
            )
        return found
