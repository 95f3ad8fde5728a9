"""Text files in class folders."""

from __future__ import annotations

import os
from pathlib import Path

from typing_extensions import override

from capsule_lightning.data.image_trees import class_folders
from capsule_lightning.data.split_folders import Part, find_splits
from capsule_lightning.data.text import TextDataModule, Tokenizer
from capsule_lightning.data.text_lines import MOST_BYTES, read_text
from capsule_lightning.data.texts import Texts
from capsule_lightning.errors import require

SUFFIX = ".txt"


class TextFolderDataModule(TextDataModule):
    """Text files in ``<root>/{train,test}/<class>/*.txt``, or in ``<root>/<class>/*.txt`` with a test set split off.

    The folders of the splits may have any of their usual names, such as ``Training``, ``valid`` and ``Testing``.
    Classes are in the order of the alphabet, or of their numbers if all folders are called by whole numbers.
    `TextDataModule` describes the arguments that are not listed.

    Args:
        root: the folder.
        split_folders: whether the folders of ``root`` are splits, and not classes; null to judge by their names and by
            what they hold.
        encoding: of the files.

    Raises:
        InputError: there is no such tree, a file is not text in this encoding, or what `TextDataModule` refuses.
    """

    name = "text_folder"

    def __init__(
        self,
        root: str = "data",
        split_folders: bool | None = None,
        encoding: str = "utf-8",
        tokenizer: Tokenizer = "words",
        vocabulary_size: int = 30000,
        min_count: int = 2,
        max_length: int = 200,
        vocabulary: str | None = None,
        by_length: bool = False,
        class_names: list[str] | None = None,
        test_size: float | int = 0.2,
        folds: int | None = None,
        fold: int = 0,
        batch_size: int = 50,
        val_size: float | int = 0.1,
        seed: int | None = None,
        balanced: bool = False,
        texts: str | None = None,
        word_vectors: str | None = None,
    ) -> None:
        self.root = Path(os.path.expanduser(root))
        super().__init__(
            tokenizer,
            vocabulary_size,
            min_count,
            max_length,
            vocabulary,
            by_length,
            class_names,
            test_size,
            folds,
            fold,
            batch_size,
            val_size,
            seed,
            balanced,
            texts,
            word_vectors,
        )
        require(self.root.is_dir(), f"{self.root}: no such folder; set --data.root to a folder of class folders")
        found = find_splits(self.root, split_folders)
        folders: dict[Part, Path | None] = {"train": found.train, "val": found.val, "test": found.test}
        there = {part: folder for part, folder in folders.items() if folder is not None}
        rows = [(part, label, path) for part, folder in there.items() for label, path in files_of_classes(folder)]
        size = sum(path.stat().st_size for _, _, path in rows)
        require(size <= MOST_BYTES, f"{self.root}: has {size:,} bytes of text, at most {MOST_BYTES:,} are read")
        own: dict[Part, str] = {part: folder.name for part, folder in there.items() if part != "train"}
        found_texts = [read_text(path, encoding) for _, _, path in rows]
        labels = [(label,) for _, label, _ in rows]
        self.take_texts(Texts(found_texts, labels, [part for part, _, _ in rows], (), own, found.note))

    @property
    @override
    def title(self) -> str:
        return str(self.root)


def files_of_classes(folder: Path) -> list[tuple[str, Path]]:
    """Return class and path of each text file of class folders, in order of their names.

    Raises:
        InputError: there are no class folders, or one has no text file.
    """
    names = class_folders(folder)
    require(names, f"{folder}: no class folders; expected {folder}/<class>/<name>{SUFFIX}")
    files: list[tuple[str, Path]] = []
    for name in names:
        here = sorted(path for path in (folder / name).rglob(f"*{SUFFIX}") if path.is_file())
        require(here, f"{folder / name}: no file that ends in {SUFFIX}; put texts into it, or remove it")
        files += [(name, path) for path in here]
    return files
