"""What version 0.1.0 wrote, at commit f046ebd, before modules moved and names were spelled as torch spells them."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from program import metrics
from trained import LEAN

from capsule_lightning import load_network
from capsule_lightning.data import image_trees
from capsule_lightning.runs.files import read_yaml
from capsule_lightning.sharing.network_file import read_tensors

OLD = Path(__file__).parents[1] / "fixtures" / "f046ebd"
WHOLE = OLD / "whole.safetensors"
"""Exported from a run that was not killed: the same command, three epochs."""
LENGTHS = [
    [0.0765051, 0.0477979, 0.1014989, 0.0766682, 0.0800306, 0.0964817, 0.1079827, 0.0757196, 0.9841172, 0.0674683],
    [0.0546176, 0.0385381, 0.0805294, 0.0763595, 0.0762275, 0.0832042, 0.0657184, 0.1189944, 0.9633211, 0.0726955],
]
"""What the shipped network said of two images of noise, on one thread of an x86 processor."""


def test_a_run_that_was_killed_before_ends_as_the_one_that_was_not(
    run_main: Callable[..., Path], tmp_path: Path
) -> None:
    shutil.copytree(OLD / "killed", tmp_path / "runs" / "digits" / "killed")
    killed = torch.load(OLD / "killed" / "checkpoints" / "last.ckpt", weights_only=True)
    assert killed["global_step"] == 42  # in the middle of the second epoch, of 20 steps
    run_main("fit", "--resume", "killed")
    last = torch.load(tmp_path / "runs/digits/killed/checkpoints/last.ckpt", weights_only=True)
    assert last["global_step"] == 60
    weights = {name.removeprefix("net."): value for name, value in last["state_dict"].items()}
    whole = read_tensors(WHOLE)
    assert set(weights) == set(whole)
    for name, value in whole.items():
        # equal to the last bit on the processor that wrote them; sums in another order differ there by some 1e-7
        torch.testing.assert_close(weights[name], value, rtol=1e-4, atol=1e-5, msg=name)
    config = read_yaml(tmp_path / "runs/digits/killed/config.yaml")
    assert config["data"]["init_args"]["augmentation"]["class_path"].endswith("geometry.Shift")
    assert config["data"]["init_args"]["normalization"] is None


def test_a_run_of_before_is_tested_and_exported(run_main: Callable[..., Path], tmp_path: Path) -> None:
    shutil.copytree(OLD / "killed", tmp_path / "runs" / "digits" / "killed")
    path = "runs/digits/killed/checkpoints/last.ckpt"
    run_main("test", "--ckpt_path", path)
    run_main("export", "--ckpt_path", path, "--output", "net.safetensors")
    assert read_tensors(tmp_path / "net.safetensors").keys() == read_tensors(WHOLE).keys()


def test_a_shared_network_of_before_is_read_and_tested(
    run_main: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = load_network(WHOLE)
    images = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for name, value in safetensors.torch.load_file(WHOLE).items():
        torch.testing.assert_close(net.state_dict()[name], value, rtol=0, atol=0)
    assert net(images).activations.shape == (3, 10)
    run_main("test", "--ckpt_path", str(WHOLE))
    assert "accuracy" in capsys.readouterr().out


def test_the_shipped_network_gives_the_numbers_it_gave() -> None:
    net = load_network("efficient_capsnet_mnist")
    images = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        lengths = net(images).activations
    torch.testing.assert_close(lengths, torch.tensor(LENGTHS), rtol=0, atol=2e-6)


@pytest.mark.nightly
def test_a_run_on_folders_that_are_numbers_keeps_the_order_in_which_it_numbered_them(
    run_main: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0)
    for number in range(1, 13):
        (tmp_path / "photos" / str(number)).mkdir(parents=True)
        for place in range(9):
            pixels = random.integers(0, 20 * number, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / str(number) / f"{place}.png")
    words = ["fit", "--config=image_folder.yaml", "--data.root=photos", "--data.channels=1", "--data.image_size=[8,8]"]
    words += ["--model.net.encoder.kernel_size=3", "--model.net.encoder.primary_kernel_size=3", LEAN]
    words += ["--model.net.encoder.channels=8", "--model.net.encoder.num_types=4", "--model.net.decoder=null"]
    words += ["--data.batch_size=8", "--data.val_size=12", "--model.lr_scheduler=null", "--trainer.accelerator=cpu"]
    with monkeypatch.context() as before:
        before.setattr(image_trees, "in_order", sorted)  # as it was
        run_main(*words, "--run_id=whole", "--trainer.max_epochs=2")
        run_main(*words, "--run_id=cut", "--trainer.max_epochs=1", "--test_after_fit=false")
    shutil.rmtree(tmp_path / "photos" / ".prepared")
    run_main("fit", "--resume=cut", "--trainer.max_epochs=2", "--test_after_fit=true")
    runs = tmp_path / "runs" / "image_folder"
    one, other = (torch.load(runs / name / "checkpoints/last.ckpt", weights_only=True) for name in ("whole", "cut"))
    assert one["trained_on"]["class_names"] == other["trained_on"]["class_names"] == sorted(map(str, range(1, 13)))
    assert all(torch.equal(value, other["state_dict"][name]) for name, value in one["state_dict"].items())
    assert metrics(runs / "cut")["test/loss"] == metrics(runs / "whole")["test/loss"]
    run_main("test", "--ckpt_path=runs/image_folder/whole/checkpoints/last.ckpt")
    run_main("export", "--ckpt_path=runs/image_folder/whole/checkpoints/last.ckpt", "--output=net.safetensors")
    run_main("test", "--ckpt_path=net.safetensors", "--data=ImageFolderDataModule", "--data.root=photos")
    tables = [*tmp_path.glob("runs/**/test/metrics.csv")]
    assert len(tables) == 2
    for table in tables:
        assert metrics(table.parent)["test/accuracy"] == metrics(runs / "whole")["test/accuracy"]
