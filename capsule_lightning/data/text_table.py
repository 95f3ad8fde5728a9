"""Texts in a table, with the label of each."""

from __future__ import annotations

import os
from pathlib import Path

from typing_extensions import override

from capsule_lightning.data.image_table import parts_of, require_cells, require_whole_groups
from capsule_lightning.data.label_tables import Table, read_table
from capsule_lightning.data.split_folders import Part
from capsule_lightning.data.table_labels import read_row_labels, read_row_weights, several_of
from capsule_lightning.data.text import TextDataModule, Tokenizer
from capsule_lightning.data.texts import Texts, transferred
from capsule_lightning.errors import InputError, require


class TextTableDataModule(TextDataModule):
    """Texts that a CSV, TSV, Parquet or JSON lines file has in its columns ``text`` and ``label``.

    Columns ``split``, ``group`` and ``weight`` are heeded if they are there, as `ImageTableDataModule` heeds them. With
    ``label_separator`` or ``label_columns`` a text has any number of classes, none included, as `LabelSetTask` takes
    them. `TextDataModule` describes the arguments that are not listed.

    Args:
        table: the file; its first row names the columns. In JSON lines each line is an object, whose keys do; a list
            of labels is one cell, with ``|`` between them.
        text_column, label_column: names of the columns.
        split_column, group_column, weight_column: names of columns; null for ``split``, ``group`` and ``weight`` if
            there are such.
        label_separator, label_columns, several_labels: see `ImageTableDataModule`.
        test_on_several: train and validate on the texts of one class and test on those of several, see `transferred`.

    Raises:
        InputError: the table or a column is missing, a label is missing or not among those to train on, a group is in
            two splits, a weight is not one; or what `TextDataModule` refuses.
    """

    name = "text_table"

    def __init__(
        self,
        table: str = "texts.csv",
        text_column: str = "text",
        label_column: str = "label",
        split_column: str | None = None,
        group_column: str | None = None,
        weight_column: str | None = None,
        label_separator: str | None = None,
        label_columns: list[str] | None = None,
        several_labels: bool | None = None,
        test_on_several: bool = False,
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
        self.table = Path(os.path.expanduser(table))
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
        self.text_column = text_column
        require(label_separator != "", "label_separator='': expected what stands between labels, such as |, or null")
        require(
            label_separator is None or label_columns is None,
            f"label_separator={label_separator}, label_columns={label_columns}: expected one of them",
        )
        rows = read_table(self.table)
        said = read_row_labels(rows, label_column, label_separator, label_columns)
        several = several_of(said, several_labels, label_separator)
        if not (all(said.known) or label_separator):
            missing = [line for line, known in zip(rows.lines, said.known, strict=True) if not known]
            raise InputError(
                f"{self.table}: {len(missing):,} rows have no label, the first in line {missing[0]}; fill it in, or "
                "let a trained network predict them"
            )
        parts, groups, own, note = read_splits(rows, split_column, group_column)
        weight = weight_column or ("weight" if "weight" in rows.columns else None)
        weights = read_row_weights(rows, weight) if weight else []
        listed = rows.column(text_column, "text_column")
        note = f"texts of column {text_column}, {said.note}{note}"
        found = Texts(listed, said.labels, parts, groups, own, note, several, said.names, weights)
        self.take_texts(transferred(found, self.title) if test_on_several else found)

    @property
    @override
    def title(self) -> str:
        return str(self.table)


def read_splits(
    table: Table, split_column: str | None, group_column: str | None
) -> tuple[list[Part], list[str], dict[Part, str], str]:
    """Return the part of each row, its group if there are groups, what the parts are called, and a note.

    Raises:
        InputError: a column is missing, a word is not the name of a split, a group is in two splits.
    """
    split = split_column or ("split" if "split" in table.columns else None)
    group = group_column or ("group" if "group" in table.columns else None)
    words = table.column(split, "split_column") if split else ["train"] * len(table.rows)
    parts = parts_of(table, words, split or "")
    note = f", splits of {split}" if split else ""
    groups = table.column(group, "group_column") if group else []
    if group:
        require_cells(table, groups, group)
        require_whole_groups(table, groups, parts, group)
        note += f", {len(set(groups)):,} groups of {group}, each in one split"
    own: dict[Part, str] = {part: f"{split} {word}" for part, word in zip(parts, words, strict=True) if part != "train"}
    return parts, groups, own, note
