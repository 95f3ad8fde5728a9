from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from program import Run

from capsule_lightning.errors import InputError

MNIST = ("fit", "--config", "mnist.yaml")
FAKE = (*MNIST, "--data.fake", "true", "--data.val_size", "0.2", "--config", "trainer/debug")
NET = "--model.net"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("fti",), ["'fti'", "did you mean 'fit'"]),
        (("fit", "--config", "mnits.yaml"), ["'mnits.yaml'", "did you mean 'mnist.yaml'"]),
        ((*MNIST, "--data.batchsize", "3"), ["batchsize", "did you mean 'batch_size'"]),
        ((*MNIST, "--model.net.rooting", "X"), ["rooting", "did you mean 'routing'"]),
        ((*MNIST, "--modle.net", "X"), ["modle"]),
        ((*MNIST, f"{NET}.routing", "DynamicRoutin"), ["DynamicRoutin", "did you mean 'DynamicRouting'"]),
        ((*MNIST, "--data.batch_size", "many"), ["batch_size", "many", "int"]),
        ((*MNIST, "--data.root", "nowhere", "--data.download", "false"), ["mnist", "nowhere", "digits.yaml"]),
        ((*FAKE, "--data.batch_size", "0"), ["batch_size=0", "at least 1"]),
        ((*FAKE, "--data.batch_size", "100000"), ["batch_size=100000", "training images", "at most"]),
        ((*FAKE, "--data.val_size", "-1"), ["val_size=-1"]),
        ((*FAKE, f"{NET}.routing.iterations", "0"), ["iterations=0", "at least 1"]),
        ((*FAKE, f"{NET}.encoder.kernel_size", "30"), ["28x28", "too small", "kernels 30"]),
        ((*FAKE, f"{NET}.encoder.channels", "0"), ["channels=0"]),
        ((*FAKE, "--model.reconstruction_weight", "-1"), ["reconstruction_weight=-1"]),
        ((*FAKE, "--data.augmentation.pixels", "28"), ["pixels=28", "28x28"]),
        (("test", "--config", "mnist.yaml"), ["test needs a trained network", "--ckpt_path"]),
        (("test", "--ckpt_path", "none.ckpt"), ["none.ckpt", "no such checkpoint"]),
        (("prepare", "mnits"), ["'mnits'", "did you mean 'mnist'"]),
    ],
    ids=lambda value: " ".join(value[-2:]) if isinstance(value, tuple) else "",
)
def test_bad_input_is_one_message_and_status_2(
    words: tuple[str, ...],
    expected: list[str],
    run_main: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run_main(*words)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    for word in expected:
        assert word in error
    assert not (tmp_path / "runs").exists()


def test_debug_shows_the_traceback(run_main: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="no config"):
        run_main("fit", "--config", "nothing", "--debug")


def test_a_config_of_the_user_is_named_in_its_error(
    run_main: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.yaml").write_text("trainer:\n  max_epoch: 3\n")
    with pytest.raises(SystemExit):
        run_main(*MNIST, "--config", "mine.yaml")
    error = capsys.readouterr().err
    assert "max_epoch" in error
    assert "did you mean 'trainer.max_epochs'" in error


def test_a_run_folder_that_cannot_be_written(
    run_main: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as stopped:
        run_main(*FAKE, "--runs", "file/runs")
    assert stopped.value.code == 2
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize("fault", ["empty class", "unreadable image", "several sizes"])
def test_a_faulty_folder_of_images(
    fault: str, run_main: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(8):
            Image.new("RGB", (32, 32), (number, 0, 0)).save(tmp_path / "photos" / name / f"{number}.png")
    size = "[32,32]"
    if fault == "empty class":
        (tmp_path / "photos" / "eel").mkdir()
        expected = "photos/eel"
    elif fault == "unreadable image":
        (tmp_path / "photos" / "dog" / "broken.png").write_bytes(b"no image")
        expected = "dog/broken.png"
    else:
        Image.new("RGB", (20, 30)).save(tmp_path / "photos" / "dog" / "other.png")
        size, expected = "null", "30x20"
    with pytest.raises(SystemExit) as stopped:
        run_main("fit", "--config", "image_folder", "--data.root", "photos", "--data.image_size", size)
    assert stopped.value.code == 2
    assert expected in capsys.readouterr().err


def test_a_checkpoint_of_another_network(
    run_main: Callable[..., Path], trained: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run_main("test", "--ckpt_path", trained.checkpoint, "--model.net.dim", "8")
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert "another network" in error
    assert "net.routing.weight" in error


def test_a_file_that_is_no_checkpoint(
    run_main: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"weights": 1}, tmp_path / "other.ckpt")
    (tmp_path / "torn.ckpt").write_bytes(b"PK\x03\x04 torn")
    for name in ("other.ckpt", "torn.ckpt"):
        with pytest.raises(SystemExit) as stopped:
            run_main("test", "--config", "digits", "--ckpt_path", name)
        assert stopped.value.code == 2
        assert name in capsys.readouterr().err
