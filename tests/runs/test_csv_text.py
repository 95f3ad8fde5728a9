"""Rows as CSV, whose names do nothing in a spreadsheet."""

import csv
import io

import pytest

from capsule_lightning.runs.csv_text import csv_text


@pytest.mark.parametrize(
    "name", ["=1+1", "+1+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", '=HYPERLINK("http://x","y")', "=A,B"]
)
def test_a_name_is_no_formula(name: str) -> None:
    (row,) = csv.reader(io.StringIO(csv_text([(name, 1)]), newline=""))
    assert row == [f"'{name}", "1"]


@pytest.mark.parametrize("cell", [-0.5, "-0.5", "+1e-3", "-inf", "cat", "a=b", "", "3-4", "' quoted"])
def test_numbers_and_plain_names_stay(cell: object) -> None:
    assert next(csv.reader([csv_text([(cell, "x")])])) == [str(cell), "x"]
