"""Volumes in NIfTI files: slices as they should be seen, windows, splits by volume, and what is refused."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from trained import fit

from capsule_lightning.cli import main
from capsule_lightning.data.nifti_files import mask_file, read_header, read_slices
from capsule_lightning.data.nifti_slices import NiftiSlicesDataModule
from capsule_lightning.data.nifti_volumes import NiftiVolumesDataModule, are_volumes
from capsule_lightning.data.trained_on import annotated_on
from capsule_lightning.errors import InputError
from capsule_lightning.sharing.export import export

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


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_a_mask_lies_where_its_volume_does_in_any_order_of_voxels(plane, tmp_path):
    """Whatever is seen in slices is written where it was: other programs read the volume itself back."""
    values, _ = body()
    for number, turn in enumerate(("RAS", "LPS", "PIR")):
        path = tmp_path / ("a.nii.gz" if number else "a.nii")
        codes = nibabel.orientations.axcodes2ornt(tuple(turn))
        affine = np.array([[2.0, 0.1, 0, 7], [0, 3, 0, -8], [0, 0, 4, 9], [0, 0, 0, 1]])
        turned = nibabel.Nifti1Image(values, affine).as_reoriented(
            nibabel.orientations.ornt_transform(nibabel.orientations.io_orientation(affine), codes)
        )
        turned.header.set_xyzt_units("mm", "sec")
        turned.header["cal_max"] = 800
        turned.header.set_slope_inter(2, -1)
        turned.set_sform(turned.affine, 2)
        turned.to_filename(path)
        volume = read_header(path)
        seen = (read_slices(path, plane) > 0).astype(np.uint8)
        assert seen.shape[1:] == volume.slice_shape(plane)
        (tmp_path / f"mask_{path.name}").write_bytes(mask_file(volume, seen, plane))
        mask, original = nibabel.load(tmp_path / f"mask_{path.name}"), nibabel.load(path)
        assert np.array_equal(np.asarray(mask.dataobj), np.asarray(original.dataobj) > 0)
        assert_close(mask.affine, original.affine, rtol=0, atol=1e-6)
        assert mask.get_data_dtype() == np.uint8
        for field in ("dim", "pixdim", "sform_code", "qform_code", "xyzt_units"):
            assert np.array_equal(mask.header[field], original.header[field]), field
        assert mask.header["cal_max"] == 0
        assert volume.voxel_size == pytest.approx(24)


def volumes(folder: Path, **options: object) -> NiftiVolumesDataModule:
    given = {"class_names": ["organ"], "shape": [1, 12, 12], "window": [-1000, 1000], "batch_size": 4, **options}
    data = NiftiVolumesDataModule(images=str(folder), **given)
    data.setup("predict")
    return data


def test_slices_to_predict_are_those_of_training(tmp_path):
    options = folders(tmp_path, count=3)
    trained = made({**options, "window": [-1000, 1000], "val_size": 0}, test_size=0.5)
    data = volumes(tmp_path / "scans")
    slices = torch.cat([data.on_after_batch_transfer(batch, 0).images for batch in data.predict_dataloader()])
    assert len(slices) == 18
    paths = [volume.path for volume in data.volumes]
    for split in ("train", "test"):
        for number, scan in enumerate(trained.scans[split]):
            first = 6 * paths.index(scan.volume.path)
            assert_close(trained.store(split).inputs[6 * number : 6 * number + 6], slices[first : first + 6])
    assert data.place_of(6) == (1, 0)
    assert data.name_of(17).endswith("2.nii.gz axial 5")
    assert are_volumes(tmp_path / "scans")
    assert are_volumes(tmp_path / "scans/0.nii.gz")
    assert not are_volumes(tmp_path)
    assert len(volumes(tmp_path / "scans/0.nii.gz").store("predict")) == 6


def test_files_beside_volumes_are_named_and_left_out(tmp_path, monkeypatch):
    lines = []
    monkeypatch.setattr("capsule_lightning.data.nifti_volumes.rank_zero_info", lines.append)
    folders(tmp_path, count=2)
    volumes(tmp_path / "scans")
    assert not lines
    for name in ("photo.png", ".DS_Store"):
        (tmp_path / "scans" / name).write_bytes(b"")
    assert len(volumes(tmp_path / "scans").volumes) == 2
    (line,) = lines
    assert "photo.png" in line
    assert ".DS_Store" not in line


def test_what_training_has_settled_is_stated_and_what_is_missing_is_asked_for(tmp_path):
    data = made(folders(tmp_path))
    slot = annotated_on(data, ["background", "organ"]).slot
    assert slot["init_args"]["window"] == pytest.approx(list(data.window))
    assert slot["init_args"]["plane"] == "axial"
    with pytest.raises(InputError, match=r"window=None.*state --data\.window"):
        volumes(tmp_path / "scans", window=None)
    with pytest.raises(InputError, match="takes pictures of 3 channels"):
        volumes(tmp_path / "scans", shape=[3, 12, 12])


@pytest.mark.nightly
def test_predict_writes_a_mask_for_each_volume(tmp_path, monkeypatch, capsys):
    options = folders(tmp_path, count=5)
    words = [f"--data.{name}={value}" for name, value in options.items()]
    words += ["--data.image_size=16", "--data.val_size=1", "--data.test_size=1", "--data.plane=coronal"]
    net = ("--config=model/unet_small.yaml", "--model.loss.class_weights=null")
    checkpoint = fit(tmp_path, "--config=segmentation.yaml", "--data=NiftiSlicesDataModule", *words, *net)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    oblique = np.array([[-2.0, 0, 0, 5], [0, 0, 3, 6], [0, -4, 0, 7], [0, 0, 0, 1]])
    write(tmp_path / "new/one.nii", np.swapaxes(body(9)[0], 1, 2), oblique)
    write(tmp_path / "new/two.nii.gz", body(8)[0][:, :7])
    shared = export(checkpoint, tmp_path / "net.safetensors").path
    for source, name in ((checkpoint, "a"), (shared, "b")):
        main(["predict", f"--ckpt_path={source}", "--data.images=new", f"--output={name}.csv"])
        told = capsys.readouterr().out
        assert "2 masks" in told
        for file in ("one.nii", "two.nii.gz"):
            mask, volume = nibabel.load(tmp_path / name / "masks" / file), nibabel.load(tmp_path / "new" / file)
            assert mask.shape == volume.shape
            assert_close(mask.affine, volume.affine)
        rows = (tmp_path / f"{name}.csv").read_text().splitlines()
        assert rows[0].startswith("volume,mask,ml_")
        assert len(rows) == 3
    for file in ("one.nii", "two.nii.gz"):
        assert (tmp_path / "a/masks" / file).read_bytes() == (tmp_path / "b/masks" / file).read_bytes()
