"""Volumes in NIfTI files: slices as they should be seen, windows, splits by volume, and what is refused."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from capsule_lightning.data.nifti_files import read_header, read_slices
from capsule_lightning.data.nifti_slices import NiftiSlicesDataModule
from capsule_lightning.errors import InputError

nibabel = pytest.importorskip("nibabel")
SHAPE = (10, 12, 6)
TURNS = {  # how a file keeps a volume whose axes are right, anterior, superior
    "RAS": np.eye(4),
    "LPS": np.diag([-1.0, -1.0, 1.0, 1.0]),
    "PIR": np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]]),
}


def body(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Values from -1000 to 1000 and a mask, axes right, anterior, superior."""
    values = np.random.default_rng(seed).integers(-1000, 1000, SHAPE).astype(np.int16)
    mask = np.zeros(SHAPE, np.uint8)
    mask[6:9, 2:5, 1:4] = 1  # on the right, behind
    values[mask == 1] = 900
    return values, mask


def write(path: Path, values: np.ndarray, affine: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.Nifti1Image(values, np.diag([2.0, 2.0, 5.0, 1.0]) if affine is None else affine).to_filename(path)
    return path


def folders(folder: Path, count: int = 5, **masks: np.ndarray) -> dict[str, str]:
    for number in range(count):
        values, mask = body(number)
        write(folder / f"scans/{number}.nii.gz", values)
        write(folder / f"masks/{number}_seg.nii", masks.get(f"n{number}", mask))
    return {"pictures": str(folder / "scans"), "masks": str(folder / "masks"), "mask_suffix": "_seg"}


def made(options: dict, **more: object) -> NiftiSlicesDataModule:
    given = {"image_size": 12, "batch_size": 2, "val_size": 1, "test_size": 1, **options, **more}
    data = NiftiSlicesDataModule(**given)
    data.setup("fit")
    data.setup("test")
    return data


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_slices_are_seen_alike_whatever_the_order_of_the_file(turn, plane, tmp_path):
    values, _ = body()
    ras = nibabel.Nifti1Image(values, np.eye(4))
    codes = nibabel.orientations.axcodes2ornt(tuple(turn))
    kept = ras.as_reoriented(nibabel.orientations.ornt_transform(nibabel.orientations.io_orientation(np.eye(4)), codes))
    assert_close(kept.affine[:3, :3], TURNS[turn][:3, :3])
    kept.to_filename(tmp_path / "a.nii.gz")
    assert read_header(tmp_path / "a.nii.gz").shape == SHAPE
    expected = {  # a plain statement of `PLANES`: what comes first in a column, and in a row
        "axial": [[[values[x, y, z] for x in range(9, -1, -1)] for y in range(11, -1, -1)] for z in range(6)],
        "coronal": [[[values[x, y, z] for x in range(9, -1, -1)] for z in range(5, -1, -1)] for y in range(12)],
        "sagittal": [[[values[x, y, z] for y in range(11, -1, -1)] for z in range(5, -1, -1)] for x in range(10)],
    }
    assert np.array_equal(read_slices(tmp_path / "a.nii.gz", plane), np.array(expected[plane], np.float32))


def test_slices_of_a_volume_are_in_one_split_and_the_window_is_that_of_the_training_volumes(tmp_path):
    data = made(folders(tmp_path), step=2)
    assert (len(data._train), len(data._val), len(data.store("test"))) == (9, 3, 3)
    assert {len({int(n) // 3 for n in places}) for places in (data._train, data._val)} == {3, 1}
    kept = [data.scans["train"][n].volume.path for n in data.held_out[0]]
    voxels = np.concatenate([np.asarray(nibabel.load(path).dataobj).ravel() for path in kept])
    assert_close(data.window, tuple(np.percentile(voxels, (0.5, 99.5)).tolist()))
    told = data.describe()
    for words in ("top is anterior", "window -9", "5 volumes", "1 classes", "ignored: nothing"):
        assert words in told
    assert data.name_of(1).endswith(".nii.gz axial 2")


def test_a_window_cuts_and_masks_lie_where_the_body_does(tmp_path):
    data = made(folders(tmp_path), window=[-1000, 900])
    store = data.store("train")
    assert store.inputs.dtype == torch.float32
    assert 0 <= store.inputs.min() < 0.01
    assert store.inputs.max() == 1
    seen, masks = read_slices(data.scans["train"][0].volume.path, "axial"), store.labels[:6]
    place = (slice(None), slice(7, 10))  # rows are not stretched: those behind, in the lower half
    assert (masks[1:4][place] == 1).any()
    assert masks[[0, 4, 5]].sum() == 0
    assert masks[:, :7].sum() == 0
    assert masks.unique().tolist() == [0, 1]
    assert (store.inputs[1:4, 0][masks[1:4] == 1] > 0.8).float().mean() > 0.7  # edges are mixed where slices widen
    assert seen.shape == (6, 12, 10)


def test_masks_of_other_volumes_are_refused(tmp_path):
    options = folders(tmp_path)
    _, mask = body()
    write(tmp_path / "masks/2_seg.nii", mask[:9])
    with pytest.raises(InputError, match=r"2_seg\.nii: shape \(9, 12, 6\).*2\.nii\.gz, \(10, 12, 6\)"):
        made(options)
    write(tmp_path / "masks/2_seg.nii", mask, np.diag([2.0, 2.0, 4.0, 1.0]))
    with pytest.raises(InputError, match=r"2_seg\.nii.*sform/qform"):
        made(options)
    (tmp_path / "masks/2_seg.nii").unlink()
    assert "1 volumes are alone and left out: 2" in made(options).describe()
    with pytest.raises(InputError, match="mask_suffix"):
        made(options, mask_suffix="")


def changed(path: Path, place: int, kind: str, *numbers: float) -> Path:
    content = bytearray(path.read_bytes())
    struct.pack_into(f"<{kind}", content, place, *numbers)
    path.write_bytes(bytes(content))
    return path


def read_whole(path: Path) -> np.ndarray:
    read_header(path)
    return read_slices(path, "axial")


@pytest.mark.parametrize(
    ("place", "kind", "numbers", "words"),
    [
        (0, "i", [12], "sizeof_hdr"),
        (40, "4h", [3, 32000, 32000, 32000], r"dim=\(32000, 32000, 32000\).*max_voxels"),
        (40, "5h", [4, 10, 12, 3, 2], r"dim=\(10, 12, 3, 2\): expected three axes"),
        (40, "3h", [2, 10, 72], "expected three axes"),
        (42, "h", [-1], "dim="),
        (42, "h", [40], "bytes; replace it"),
        (70, "2h", [128, 24], "datatype"),  # colors
        (70, "2h", [1792, 128], "datatype"),  # complex numbers
        (108, "f", [2.0**30], "vox_offset"),
        (108, "f", [float("nan")], "header"),
        (344, "4s", [b"ni1\x00"], "another file"),
        (280, "4f", [0, 0, 0, 0], "sform/qform"),
    ],
)
def test_headers_that_state_something_else_are_refused(place, kind, numbers, words, tmp_path):
    path = changed(write(tmp_path / "a.nii", body()[0]), place, kind, *numbers)
    with pytest.raises(InputError, match=words) as error:
        read_whole(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_no_more_is_unpacked_than_the_header_states(tmp_path):
    path = write(tmp_path / "a.nii", body()[0])
    with gzip.open(tmp_path / "b.nii.gz", "wb") as file:
        file.write(path.read_bytes() + bytes(50_000_000))
    tracked = read_slices(tmp_path / "b.nii.gz", "axial", most=1000)
    assert np.array_equal(tracked, read_slices(path, "axial"))
    (tmp_path / "c.nii.gz").write_bytes((tmp_path / "b.nii.gz").read_bytes()[:600])
    with pytest.raises(InputError, match=r"c\.nii\.gz: cannot be read"):
        read_slices(tmp_path / "c.nii.gz", "axial")


def test_values_that_are_no_numbers_or_not_whole_are_refused(tmp_path):
    values = body()[0].astype(np.float32)
    with pytest.raises(InputError, match="not all of them whole"):
        read_slices(write(tmp_path / "a.nii", values + 0.5), "axial", whole_numbers=True)
    values[0, 0, 0] = np.nan
    with pytest.raises(InputError, match=r"a\.nii: has voxels that are no number"):
        read_slices(write(tmp_path / "a.nii", values), "axial")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "no volumes are given"),
        ({"pictures": "a", "masks": "b", "plane": "oblique"}, "plane='oblique'"),
        ({"pictures": "a", "masks": "b", "step": 0}, "step=0"),
        ({"pictures": "a", "masks": "b", "window": (2, 1)}, "window"),
        ({"pictures": "a", "masks": "b", "test_masks": "c"}, "given together"),
    ],
)
def test_options_out_of_range_are_refused(options, words):
    with pytest.raises(InputError, match=words):
        NiftiSlicesDataModule(**options)
