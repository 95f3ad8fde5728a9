"""Trees of class folders, decoded once and kept."""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import NamedTuple

import torch

from capsule_lightning.data import prepared
from capsule_lightning.data.facts import Facts, read_facts
from capsule_lightning.data.image_files import read_files
from capsule_lightning.data.image_trees import ClassTree, fingerprint
from capsule_lightning.data.pictures import Reading
from capsule_lightning.data.prepared import Images
from capsule_lightning.errors import InputError

MET = "met"
"""Under which `source.json` has what was met in the files."""

MOST_NAMES = 1000
"""Most files that are not images whose names are kept."""


class DecodedTree(NamedTuple):
    """The pictures of a tree.

    Attributes:
        images: the pictures.
        files: the N files that they are of, relative to the tree's folder.
        facts: what was met in them.
        folder: where they are kept.
        made_from: fingerprint of the files; None if the pictures are in the folder already.
    """

    images: Images
    files: list[PurePath]
    facts: Facts
    folder: Path
    made_from: str | None

    def keep(self) -> None:
        """Write the pictures into the folder, if that is possible and they are not there already."""
        if self.made_from is not None:
            met = self.facts._replace(others=self.facts.others[:MOST_NAMES])._asdict()
            prepared.save(self.folder, self.images, self.made_from, {MET: met})


def decode_tree(
    tree: ClassTree, top: Path, folder: Path, shape: tuple[int, int, int], resize: bool, reading: Reading
) -> DecodedTree:
    """Return the pictures of a tree: those that are kept, if the files have not changed, or else decode them.

    Args:
        tree: the files.
        top: the folder that their names are relative to.
        folder: where the pictures are kept.
        shape: ``(C, H, W)`` of a picture.
        resize: scale pictures of another size.
        reading: how files become pictures.

    Raises:
        InputError: files cannot be read, or have another size; no file of a class can be read.
    """
    made_from = fingerprint(tree.paths, top, reading.mark)
    odd = {each.path: each.reason for each in tree.odd}
    files = [path.relative_to(top) for path in tree.paths]
    images, found = prepared.load(folder, made_from), prepared.source(folder)
    facts = read_facts((found or {}).get(MET))
    if images is not None and facts is not None:
        names = set(map(str, files))
        facts = facts._replace(damaged={name: why for name, why in facts.damaged.items() if name in names})
        left = [number for number, file in enumerate(files) if str(file) not in facts.damaged]
        if len(left) == len(images.labels) and (reading.skip_damaged or not facts.damaged):
            labels = torch.tensor([tree.labels[number] for number in left])  # a table may give the same files others
            kept, facts = Images(images.images, labels), facts.below(top, odd, tree.others)
            return DecodedTree(kept, [files[number] for number in left], facts, folder, None)
    read = read_files(tree.paths, shape, resize, reading)
    labels = torch.tensor(tree.labels)[read.kept]
    for label in sorted(set(tree.labels) - set(labels.tolist())):
        raise InputError(f"{top}: no image of the class {tree.class_names[label]} can be read; replace or remove it")
    facts = read.facts.below(top, {}, ())
    decoded = DecodedTree(Images(read.images, labels), [files[n] for n in read.kept], facts, folder, made_from)
    return decoded._replace(facts=facts.below(top, odd, tree.others)) if odd or tree.others else decoded
