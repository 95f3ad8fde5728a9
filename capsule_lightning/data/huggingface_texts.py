"""Texts in the format of Hugging Face's library ``datasets``, on disk or from its hub."""

from __future__ import annotations

from typing import Any

from typing_extensions import override

from capsule_lightning.data.huggingface_files import UNLABELED, read_dataset
from capsule_lightning.data.split_folders import USUAL, Part
from capsule_lightning.data.text import TextDataModule, Tokenizer
from capsule_lightning.data.texts import Texts
from capsule_lightning.errors import InputError, require, some_of


class HuggingFaceTextDataModule(TextDataModule):
    """A data set of Hugging Face's library, with a column of texts and one of labels, a list of them for several.

    No code of a data set is ever run. Splits have their usual names, such as ``train``, ``validation`` and ``test``; a
    ``ClassLabel`` names the classes. A split without labels is left out. `TextDataModule` describes the arguments that
    are not listed, and `HuggingFaceDataModule` the first three.

    Args:
        path, subset, revision: see `HuggingFaceDataModule`.
        text_column, label_column: names of the columns.

    Raises:
        InputError: ``datasets`` is not installed; there is no such data set, split or column; or what `TextDataModule`
            refuses.
    """

    name = "huggingface_texts"

    def __init__(
        self,
        path: str | None = None,
        subset: str | None = None,
        revision: str | None = None,
        text_column: str = "text",
        label_column: str = "label",
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
        require(path, "no data set is given: set --data.path to a folder, or to the name of a data set on the hub")
        self.path, self.text_column = str(path), text_column
        found = read_dataset(self.path, subset, revision)
        part_of = {word: part for part, usual in USUAL.items() for word in usual}
        named = {part_of[name.lower()]: name for name in reversed([*found]) if name.lower() in part_of}
        require("train" in named, f"{path}: expected a split train; there are {some_of([*found])}")
        listed: list[str] = []
        labels: list[tuple[str, ...]] = []
        parts: list[Part] = []
        own: dict[Part, str] = {}
        names: list[str] = []
        order: tuple[Part, ...] = ("train", "val", "test")
        for part in (each for each in order if each in named):
            rows, title = found[named[part]], f"{path}, {named[part]}"
            for option, column in (("text_column", text_column), ("label_column", label_column)):
                require(
                    column in rows.column_names,
                    f"{title}: no column {column}; there are {some_of(rows.column_names)}; set --data.{option}",
                )
            names = names or names_of(rows.features[label_column])
            here, said = rows[:][text_column], rows[:][label_column]
            require(
                all(isinstance(text, str) for text in here),
                f"{title}: {text_column} holds {rows.features[text_column]}; expected texts; set --data.text_column",
            )
            if part != "train" and all(label in (UNLABELED, None) for label in said):
                continue
            listed += here
            labels += [labels_of(label, names, title) for label in said]
            parts += [part] * len(here)
            own |= {} if part == "train" else {part: named[part]}
        several = any(len(each) != 1 for each in labels)
        self.take_texts(Texts(listed, labels, parts, (), own, "", several, names))

    @property
    @override
    def title(self) -> str:
        return self.path


def names_of(feature: Any) -> list[str]:
    """Return the names of classes that a column of labels, or of lists of labels, states; none if it states none."""
    return list(getattr(feature, "names", None) or getattr(getattr(feature, "feature", None), "names", None) or [])


def labels_of(said: Any, names: list[str], title: str) -> tuple[str, ...]:
    """Return a cell's labels as words.

    Raises:
        InputError: it holds neither words nor whole numbers, or a number without a name.
    """
    found = []
    for each in said if isinstance(said, list) else [said]:
        if isinstance(each, bool) or not isinstance(each, int | str) or each == UNLABELED:
            raise InputError(f"{title}: has the label {each!r}; expected a word or a whole number for each text")
        require(isinstance(each, str) or not names or each < len(names), f"{title}: label {each} has no name")
        found.append(each if isinstance(each, str) else names[each] if names else str(each))
    return tuple(found)
