"""Features that are computed once: the numbers of a run without them, and nothing computed twice."""

import json
import re
from functools import partial
from importlib import import_module

import lightning as L
import pytest
import torch
from forked import start
from program import metrics
from safetensors.torch import save_file
from torch.testing import assert_close

from capsule_lightning.augmentations.geometry import Shift
from capsule_lightning.augmentations.identity import NoAugmentation
from capsule_lightning.callbacks.frozen_features import FrozenFeatures
from capsule_lightning.data.digits import DigitsDataModule
from capsule_lightning.data.feature_cache import FeatureCache
from capsule_lightning.encoders.backbone import BackboneEncoder
from capsule_lightning.errors import InputError
from capsule_lightning.models.capsnet import CapsNet
from capsule_lightning.sharing.network_file import load_network
from capsule_lightning.tasks.classification import ClassificationTask

TRIED = 2  # random images, of which the loss is tried before training
ENCODER = partial(BackboneEncoder, name="test_resnet", size=(32, 32), num_types=2, dim=4)


class Digits(DigitsDataModule):
    """The first 128 digits."""

    def load(self, split):
        found = super().load(split)
        return found._replace(images=found.images[:128], labels=found.labels[:128])


def make_task(frozen=True, seed=0):
    torch.manual_seed(seed)
    return ClassificationTask((1, 8, 8), 10, partial(CapsNet, encoder=partial(ENCODER, frozen=frozen), decoder=None))


def run(folder, callbacks=(), frozen=True, augmentation=NoAugmentation, seed=0, **options):
    """Two epochs of training, validation and a test; gives back the losses and the task."""
    task, losses = make_task(frozen, seed), []
    task.on_train_batch_end = lambda *_: losses.append(task.step_losses["loss"].clone())
    data = Digits(root=str(folder), batch_size=32, val_size=30, seed=0, augmentation=augmentation)
    trainer = L.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
        callbacks=list(callbacks),
        **options,
    )
    trainer.fit(task, data)
    losses.append(trainer.callback_metrics["val/loss"])
    trainer.test(task, data, verbose=False)
    losses.append(trainer.callback_metrics["test/loss"])
    return torch.stack(losses), task, trainer


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A run that has computed the features, and one without them."""
    folder = tmp_path_factory.mktemp("kept")
    return folder, run(folder, [FrozenFeatures()]), run(folder)


@pytest.mark.long(12)
def test_a_run_has_the_numbers_of_one_without_the_cache(kept):
    _, (losses, task, _), (expected, plain, _) = kept
    assert len(losses) == 8
    # the backbone sees 64 images at a time here and 32 there, which may change the last bits of its sums
    assert_close(losses, expected, rtol=1e-5, atol=1e-6)
    for name, value in task.state_dict().items():
        assert_close(value, plain.state_dict()[name], rtol=1e-3, atol=1e-5, msg=name)


def test_the_network_stays_whole(kept, tmp_path):
    _, (_, task, trainer), _ = kept
    trainer.save_checkpoint(tmp_path / "net.ckpt")
    loaded, images = load_network(tmp_path / "net.ckpt"), torch.rand(3, 1, 8, 8)
    assert_close(loaded(images).activations, task.net.eval()(images).activations)


def test_what_is_kept_is_not_computed_again(kept, monkeypatch):
    folder, (losses, _, _), _ = kept
    compute = BackboneEncoder.compute_features

    def tried(encoder, images):
        assert len(images) == TRIED, "computed again"
        return compute(encoder, images)

    monkeypatch.setattr(BackboneEncoder, "compute_features", tried)
    again, _, _ = run(folder, [FrozenFeatures()])
    assert torch.equal(again, losses)
    (cache,) = (folder / ".prepared" / "features").iterdir()
    facts = json.loads((cache / "source.json").read_text())
    assert (facts["backbone"], facts["size"], facts["precision"]) == ("test_resnet", [32, 32], "32-true")


def test_an_interrupted_computation_goes_on(tmp_path, monkeypatch):
    compute, seen = BackboneEncoder.compute_features, []

    def cut(encoder, images):
        if len(images) == TRIED:
            return compute(encoder, images)
        seen.append(len(images))
        if len(seen) == 2:
            raise KeyboardInterrupt
        return compute(encoder, images)

    monkeypatch.setattr(BackboneEncoder, "compute_features", cut)
    with pytest.raises(BaseException):  # noqa: B017, PT011  Lightning makes an exit of it
        run(tmp_path, [FrozenFeatures()])
    cut_at = sum(seen[:1])
    seen[:] = [0, 0]
    run(tmp_path, [FrozenFeatures()])
    assert sum(seen) == 2 * 128 - cut_at  # each image of training and test once


def test_a_cache_finds_images_whatever_set_they_are_in(tmp_path):
    cache, keys = FeatureCache(tmp_path, (2, 1, 1)), torch.tensor([5, -3, 8, 5])
    features = torch.arange(8.0).view(4, 2, 1, 1)
    found, missing = cache.find(keys)
    assert found is None
    assert missing.tolist() == [0, 1, 2]  # each key once
    cache.add(keys[:2], features[:2])
    cache.add(keys[2:3], features[2:3])
    found, missing = cache.find(torch.tensor([8, 5, -3, 5]))
    assert torch.equal(found.take(torch.tensor([3, 0, 2])), features[[0, 2, 1]])
    assert not len(missing)


def test_a_damaged_part_is_made_again(tmp_path):
    cache, keys, features = FeatureCache(tmp_path, (2, 1, 1)), torch.tensor([1, 2]), torch.ones(2, 2, 1, 1)
    cache.add(keys, features)
    (path,) = tmp_path.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-3])
    (tmp_path / "other.safetensors").write_text("none")
    assert cache.find(keys)[1].tolist() == [0, 1]
    cache.add(keys, features)
    assert torch.equal(cache.find(keys)[0].take(torch.tensor([1, 0])), features)
    FeatureCache(tmp_path, (3, 1, 1)).add(torch.tensor([3]), torch.ones(1, 3, 1, 1))
    assert cache.find(torch.tensor([3]))[1].tolist() == [0]  # of another shape


@pytest.mark.nightly
def test_two_processes_at_once_share_the_work(tmp_path):
    words = (
        *("fit", "--config", "digits.yaml", "--config", "model/backbone_linear.yaml", "--trainer.max_epochs=1"),
        *("--model.net.encoder.name=test_resnet", "--model.net.encoder.size=[32,32]"),
        *("--model.net.encoder.frozen=true", "--trainer.callbacks+=FrozenFeatures", "--trainer.accelerator=cpu"),
    )
    weights = tmp_path / "net.safetensors"
    save_file(import_module("timm").create_model("test_resnet").state_dict(), weights)
    words += (f"--model.net.encoder.weights={weights}",)
    runs = [start(tmp_path, *words, f"--run_id={name}") for name in ("one", "two")]
    for process in runs:
        process.join(300)
    said = (tmp_path / "output.txt").read_text()
    assert [process.exitcode for process in runs] == [0, 0], said
    computed = [int(n.replace(",", "")) for n in re.findall(r"features of ([\d,]+) images computed", said)]
    assert sum(computed) == 1797  # each digit once
    one, two = (metrics(tmp_path / "runs" / "digits" / name) for name in ("one", "two"))
    assert one["test/loss"] == two["test/loss"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frozen": 2}, r"backbone is trained.*frozen true"),
        ({"augmentation": Shift}, r"Shift gives other images.*NoAugmentation"),
    ],
)
def test_what_changes_from_epoch_to_epoch_is_refused(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        run(tmp_path, [FrozenFeatures()], **options)
    assert not (tmp_path / ".prepared").exists()


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file: features cannot be kept there .*trainer.callbacks.folder"):
        run(tmp_path, [FrozenFeatures(str(tmp_path / "file"))])


def test_other_weights_and_sizes_have_features_of_their_own():
    torch.manual_seed(0)
    one, other = (ENCODER((1, 8, 8), frozen=True) for _ in range(2))
    assert one.fingerprint() != other.fingerprint()
    other.backbone.load_state_dict(one.backbone.state_dict())
    assert one.fingerprint() == other.fingerprint()
    larger = ENCODER((1, 8, 8), frozen=True, size=(64, 64))
    larger.backbone.load_state_dict(one.backbone.state_dict())
    assert one.fingerprint() != larger.fingerprint()
