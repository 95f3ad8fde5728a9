"""Images in arrays from the command line: train, go on, test on others, and predict when the file is gone."""

import csv
import logging
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

NET = "--model.net.encoder.channels 4 --model.net.encoder.num_types 2 --model.net.decoder null"
FIT = (
    f"fit --config arrays --data.path pictures.npz {NET} --data.batch_size 8 --data.val_size 4 --run_id one "
    "--trainer.limit_train_batches 2 --trainer.accelerator cpu --test_after_fit false"
)
ONE = "runs/arrays/one"
LAST = f"{ONE}/checkpoints/last.ckpt"


def save(path: Path, low: int, names: str = "images labels") -> np.ndarray:
    """Write 40 images of two classes, which differ in brightness."""
    pixels = np.random.default_rng(low).integers(low, low + 99, (40, 20, 20), dtype=np.uint8)
    pixels[::2] += 80
    np.savez(path, **dict(zip(names.split(), (pixels, np.array(["dark", "light"] * 20)), strict=True)))
    return pixels


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def run(
    run_main: Callable[..., Path], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], str]:
    """The program; gives back what was logged."""
    # Lightning keeps its messages to itself if nobody listened when it was imported
    monkeypatch.setattr(logging.getLogger("lightning.pytorch"), "propagate", True)

    def run(words: str) -> str:
        caplog.clear()
        run_main(*shlex.split(words))
        return caplog.text

    return run


@pytest.mark.long(15)
def test_arrays_are_trained_on_and_others_predicted_when_they_are_gone(
    run: Callable[[str], str], tmp_path: Path
) -> None:
    save(tmp_path / "pictures.npz", 0)
    said = run(f"{FIT} --trainer.max_epochs 1")
    assert "pictures.npz: 40 images of 2 classes, 20x20 in gray" in said
    assert "28 to train on, 4 to validate on (--data.val_size 4.0), 8 to test on (--data.test_size 0.2)" in said
    (tmp_path / "pictures.npz").unlink()
    others = save(tmp_path / "others.npz", 60, "X y")
    Image.fromarray(others[0]).save(tmp_path / "0.png")
    for images in ("others.npz", "0.png"):
        run(f"predict --ckpt_path {LAST} --data.images {images} --output {images}.csv")
    arrays, (photo,) = table(tmp_path / "others.npz.csv"), table(tmp_path / "0.png.csv")
    assert [row["image"] for row in arrays] == [str(number) for number in range(40)]
    lengths = [[float(row[f"length_{name}"]) for name in ("dark", "light")] for row in (photo, arrays[0])]
    assert lengths[0] == pytest.approx(lengths[1], rel=1e-4)  # batches of 1 and of 40 are summed in other orders


@pytest.mark.nightly
def test_runs_on_arrays_go_on_and_are_measured_on_others(
    run: Callable[[str], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "pictures.npz", 0)
    run(f"{FIT} --trainer.max_epochs 1")
    said = run(f"fit --resume {ONE} --trainer.max_epochs 2")
    assert "has changed since this run began" not in said
    (tmp_path / "pictures.npz").unlink()
    others = save(tmp_path / "others.npz", 60, "X y")
    run(f"test --ckpt_path {LAST} --data.path others.npz")
    np.savez(tmp_path / "unlike.npz", X=others, y=np.arange(40) % 3)
    with pytest.raises(SystemExit):
        run(f"test --ckpt_path {LAST} --data.path unlike.npz")
    assert "was trained on the 2 classes dark, light, and these data have 3: 0, 1, 2" in capsys.readouterr().err

    run(f"export {ONE} --output net.safetensors")
    (tmp_path / "photos").mkdir()
    for number, pixels in enumerate(others[:3]):
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    np.save(tmp_path / "three.npy", others[:3])
    np.savez(tmp_path / "three.npz", images=others[:3, :, :, None] / 255, other=others)
    found = []
    for network in (LAST, "net.safetensors"):
        for number, images in enumerate(("photos", "three.npy", "three.npz")):
            output = f"{Path(network).stem}{number}.csv"
            run(f"predict --ckpt_path {network} --data.images {images} --output {output}")
            found.append([Path(row["image"]).stem + str(list(row.values())[1:]) for row in table(tmp_path / output)])
    assert len(found[0]) == 3
    assert all(each == found[0] for each in found)

    for network in (LAST, "net.safetensors"):
        run(f"report --ckpt_path {network} --data.path others.npz --output {Path(network).stem}.html")
        assert "8 test images" in (tmp_path / f"{Path(network).stem}.html").read_text()

    np.save(tmp_path / "large.npy", np.zeros((3, 21, 20), np.uint8))
    with pytest.raises(SystemExit):
        run("predict --ckpt_path net.safetensors --data.images large.npy --output large.csv")
    assert "large.npy: has images (21, 20); expected (20, 20, 1)" in capsys.readouterr().err
