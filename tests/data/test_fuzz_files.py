"""Files of data with anything in them: read, or refused in one line; see `tests/cli/test_fuzz.py`."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from doors import Door, Doors, answered, every_door, go_through, mutated, plain, replaced
from hypothesis import strategies as st
from PIL import Image

from capsule_lightning.data.boxes import BoxesDataModule
from capsule_lightning.data.coco_keypoints import CocoKeypointsDataModule
from capsule_lightning.data.image_arrays import ImageArrayDataModule
from capsule_lightning.data.image_masks import ImageMaskDataModule
from capsule_lightning.data.nifti_files import read_header, read_slices

SIZE = {"image_size": 8, "batch_size": 1, "val_size": 0, "test_size": 1}
COCO: dict[str, Any] = {
    "images": [{"id": n, "file_name": f"{n}.png", "height": 12, "width": 10} for n in range(3)],
    "categories": [{"id": 1, "name": "person", "keypoints": ["nose", "tail"], "skeleton": [[1, 2]]}],
    "annotations": [
        {"id": n, "image_id": n, "category_id": 1, "bbox": [1, 2, 5, 6], "iscrowd": 0, "area": 20.0,
         "keypoints": [2, 3, 2, 4, 5, 1], "num_keypoints": 2}
        for n in range(3)
    ],
}  # fmt: skip
VOC = """<annotation><filename>0.png</filename><size><width>10</width><height>12</height></size><object><name>cat</name>
<difficult>0</difficult><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>8</xmax><ymax>9</ymax></bndbox></object></annotation>"""


def file_of(picture: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, format=kind, **options)
    return file.getvalue()


PICTURE = file_of(Image.new("RGB", (10, 12), (200, 90, 10)), "PNG")
VALUES = (np.arange(120).reshape(12, 10) % 3).astype(np.uint8)
MASKS = [file_of(Image.fromarray(VALUES), kind) for kind in ("PNG", "TIFF", "BMP", "GIF")]
MASKS += [file_of(Image.fromarray(VALUES.astype(np.int32)), "TIFF"), file_of(Image.fromarray(VALUES > 0), "PNG")]


def pictures(folder: Path, count: int = 3) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for n in range(count):
        (folder / f"{n}.png").write_bytes(PICTURE)


def boxes(folder: Path, path: str) -> None:
    answered(lambda where, _: BoxesDataModule(str(where / path), **SIZE).setup("fit"), folder, None)


def coco(folder: Path, content: bytes) -> None:
    pictures(folder)
    (folder / "all.json").write_bytes(content)
    boxes(folder, "all.json")
    options = {"size": 8, "batch_size": 1, "val_size": 0, "test_size": 1}
    answered(
        lambda where, _: CocoKeypointsDataModule(str(where / "all.json"), str(where), **options).setup("fit"),
        folder,
        None,
    )


def voc(folder: Path, content: bytes) -> None:
    pictures(folder / "JPEGImages", 2)
    (folder / "Annotations").mkdir()
    (folder / "Annotations" / "0.xml").write_bytes(content)
    (folder / "Annotations" / "1.xml").write_text(VOC.replace("0.png", "1.png"))
    boxes(folder, "")


def yolo(folder: Path, content: bytes) -> None:
    pictures(folder / "images")
    (folder / "labels").mkdir()
    (folder / "labels" / "0.txt").write_bytes(content)
    (folder / "labels" / "1.txt").write_text("0 0.5 0.5 0.2 0.2")
    boxes(folder, "")


def masks(folder: Path, content: bytes) -> None:
    pictures(folder / "images")
    (folder / "masks").mkdir()
    for n in range(3):
        (folder / "masks" / f"{n}.png").write_bytes(content if n == 0 else MASKS[0])
    given = {"pictures": str(folder / "images"), "masks": str(folder / "masks"), "channels": 1, **SIZE}
    answered(lambda _, options: ImageMaskDataModule(**options).setup("fit"), folder, given)


def nifti(folder: Path, content: bytes) -> None:
    (folder / "a.nii.gz").write_bytes(content)

    def read(where: Path, _: Any) -> None:
        path = where / "a.nii.gz"
        assert read_slices(path, "axial", 10**6).shape[0] == read_header(path, 10**6).slices("axial")

    answered(read, folder, None)


def arrays(ending: str) -> Door:
    """The door of files of arrays that end so."""

    def through(folder: Path, content: bytes) -> None:
        (folder / f"a{ending}").write_bytes(content)
        options = {"batch_size": 1, "val_size": 0, "test_size": 1}
        answered(lambda where, _: ImageArrayDataModule(str(where / f"a{ending}"), **options).setup("fit"), folder, None)

    return through


def volume() -> bytes:
    nibabel = pytest.importorskip("nibabel")
    return nibabel.Nifti1Image(np.arange(120, dtype=np.int16).reshape(4, 5, 6), np.eye(4)).to_bytes()


def hdf5() -> bytes:
    h5py = pytest.importorskip("h5py")
    file = io.BytesIO()
    with h5py.File(file, "w") as made:
        made["images"], made["labels"] = np.zeros((4, 8, 8), np.uint8), np.arange(4)
    return file.getvalue()


def matlab() -> bytes:
    from scipy.io import savemat

    file = io.BytesIO()
    savemat(file, {"images": np.zeros((4, 8, 8), np.uint8), "labels": np.arange(4)})
    return file.getvalue()


words = st.lists(
    st.sampled_from(["0", "1", "0.5", "1e9", "-1", "nan", "1e400", "x", "\x00", "0x1"]) | st.text(max_size=3)
)
lines = st.lists(words.map(" ".join), max_size=3).map(lambda rows: "\n".join(rows).encode("utf-8", "surrogatepass"))
stated = st.builds(replaced, st.just(COCO), st.floats(0, 1, exclude_max=True), plain)
DOORS: Doors = {
    "COCO": (coco, stated.map(lambda said: json.dumps(said).encode()) | st.binary(max_size=99), 1000),
    "VOC": (voc, mutated(VOC.encode()) | st.binary(max_size=99), 1000),
    "YOLO": (yolo, lines | st.binary(max_size=99), 1000),
    "masks": (masks, st.sampled_from(MASKS).flatmap(mutated), 1500),
    "NIfTI": (nifti, st.deferred(lambda: mutated(volume(), 352)) | st.binary(max_size=600), 3000),
    "HDF5": (arrays(".h5"), st.deferred(lambda: mutated(hdf5())), 1000),
    "MATLAB": (arrays(".mat"), st.deferred(lambda: mutated(matlab())), 1500),
}


@every_door(DOORS)
def test_every_file_is_read_or_refused(door: str, examples: int, tmp_path: Path) -> None:
    if door == "NIfTI":
        pytest.importorskip("nibabel")
    if door == "HDF5":
        pytest.importorskip("h5py")
    go_through(*DOORS[door][:2], examples, tmp_path)
