"""A Parquet file is read as text, and never unfolds to more than a table may have."""

import io
import tracemalloc

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from capsule_lightning.data import label_tables
from capsule_lightning.data.label_tables import read_table
from capsule_lightning.errors import InputError


def one_text(rows, characters):
    """A Parquet file that holds one text once, and says that it stands in every row."""
    words = pyarrow.DictionaryArray.from_arrays(np.zeros(rows, np.int32), ["x" * characters])
    content = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"path": words, "label": words}), content)
    return content.getvalue()


@pytest.mark.parametrize(("rows", "characters"), [(64, 2**18), (2**18, 3)], ids=["long", "many"])
def test_what_would_fill_the_memory_is_refused_before_it_is_unfolded(tmp_path, monkeypatch, rows, characters):
    path = tmp_path / "labels.parquet"
    path.write_bytes(one_text(2, 3))
    assert read_table(path).rows == [("xxx", "xxx")] * 2  # imports what reads it
    monkeypatch.setattr(label_tables, "MOST_BYTES", 2**20)
    path.write_bytes(one_text(rows, characters))
    assert path.stat().st_size < 2**20
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=r"labels\.parquet: has [\d,]+ bytes of text; split the table"):
            read_table(path)
        assert tracemalloc.get_traced_memory()[1] < 2**21  # unfolded, they take 16 MiB and more
    finally:
        tracemalloc.stop()


def test_lists_structures_and_long_bytes_are_no_columns(tmp_path):
    path = tmp_path / "labels.parquet"
    rows = {"path": ["a.png"], "box": [[1, 2]], "image": [{"bytes": b"", "path": "a.png"}], "label": [1]}
    long = pyarrow.array([b"x" * 65], pyarrow.binary(65))
    pyarrow.parquet.write_table(pyarrow.table(rows).append_column("hash", long), path)
    assert list(read_table(path).columns) == ["path", "label"]
