"""The split of a run: kept when data change, never mixed, and told."""

import copy
import shutil

import lightning as L
import numpy as np
import pytest
import torch
from one_process import one_process

from capsule_lightning.augmentations.identity import NoAugmentation
from capsule_lightning.data.digits import DigitsDataModule
from capsule_lightning.data.image_folder import ImageFolderDataModule
from capsule_lightning.data.split_record import KEY
from capsule_lightning.errors import InputError


def ready(make, stage="fit", **options):
    data = make(**options)
    data.setup(stage)
    return data


def folder(root, **options):
    return ImageFolderDataModule(str(root), augmentation=NoAugmentation, batch_size=4, channels=1, **options)


def pixels(data, part):
    """What is to be seen in the images of a part of the data."""
    if part == "test":
        images = data.store("test").inputs
    else:
        images = data.store("train").inputs[data._train if part == "train" else data._val]
    return {image.numpy().tobytes() for image in images}


def parts(data):
    return {part: pixels(data, part) for part in ("train", "val", "test")}


@pytest.fixture
def photos(tmp_path, write_tree):
    write_tree(tmp_path / "photos", ["cat", "dog", "emu"], count=20, shape=(6, 6))
    return tmp_path / "photos"


@pytest.fixture
def begun(photos):
    """The parts of a run, and its state."""
    data = ready(lambda: folder(photos))
    state = data.state_dict()
    return parts(data), torch.load(saved(state, photos.parent / "state.pt"), weights_only=True)


def saved(state, path):
    torch.save(state, path)
    return path


@pytest.fixture
def told(monkeypatch):
    lines = []
    for module in ("module", "listed_images"):
        monkeypatch.setattr(f"capsule_lightning.data.{module}.rank_zero_info", lines.append)
    return lines


def test_nothing_is_told_if_nothing_changed(photos, begun, told):
    before, state = begun
    data = ready(lambda: folder(photos))
    data.load_state_dict(state)
    assert parts(data) == before
    assert told == []


def test_nothing_is_recorded_before_anything_is_read(photos):
    assert folder(photos).state_dict() == {}
    assert ready(DigitsDataModule, "test").state_dict() == {}


@pytest.mark.parametrize("options", [{"seed": 3}, {"val_size": 0.3}, {"seed": 9, "val_size": 12}])
@pytest.mark.parametrize("make", [DigitsDataModule, None], ids=["digits", "folder"])
def test_another_seed_or_size_does_not_change_the_split(photos, told, make, options):
    make = make or (lambda **more: folder(photos, **more))
    first = ready(make, seed=0)
    data = ready(make, **{"seed": 0, **options})
    assert parts(data)["val"] != parts(first)["val"]
    data.load_state_dict(first.state_dict())
    assert parts(data) == parts(first)
    assert data.seed == 0
    assert any("seed_everything=" in line for line in told) == ("seed" in options)
    assert any("examples to validate on are those that this run began with" in line for line in told)


def test_images_that_are_new_or_gone_leave_the_others_where_they_are(photos, begun, told, write_image):
    before, state = begun
    for number in range(100, 140):
        write_image(photos / "cat" / f"{number}.png", (6, 6))
    gone = [photos / "dog" / f"{number}.png" for number in range(5)]
    lost = {np.asarray(read_gray(path)).tobytes() for path in gone}
    for path in gone:
        path.unlink()
    data = ready(lambda: folder(photos))
    assert pixels(data, "test") & before["train"]  # what would have leaked
    data.load_state_dict(state)
    assert parts(data) == {part: images - lost for part, images in before.items()}
    (line,) = [line for line in told if "has changed" in line]
    assert "5 images are gone" in line
    assert "40 are new" in line
    batches = [batch for batch in data.train_dataloader()]
    assert sum(len(batch.labels) for batch in batches) == 4 * (len(before["train"] - lost) // 4)


def read_gray(path):
    from PIL import Image

    with Image.open(path) as image:
        return image.copy()


def test_images_that_are_others_under_the_same_name_are_told(photos, begun, told, write_image):
    _, state = begun
    for number in range(3):
        write_image(photos / "emu" / f"{number}.png", (6, 6))
    ready(lambda: folder(photos)).load_state_dict(state)
    assert "3 are others of the same name" in "".join(told)


def test_the_test_images_of_a_measurement_are_those_of_the_run(photos, begun, write_image):
    before, state = begun
    for number in range(100, 140):
        write_image(photos / "cat" / f"{number}.png", (6, 6))
    data = folder(photos)
    data.trainer = one_process()
    data.trainer.training = False
    data.setup("test")
    assert pixels(data, "test") & before["train"]
    data.load_state_dict(state)
    assert pixels(data, "test") == before["test"]


def test_other_images_are_refused_for_training_and_taken_as_they_are_for_a_test(tmp_path, begun, write_tree):
    _, state = begun
    write_tree(tmp_path / "others", ["cat", "dog", "emu"], count=20, shape=(6, 6))
    with pytest.raises(InputError, match=r"none of the 60 images .*--data\.root"):
        ready(lambda: folder(tmp_path / "others")).load_state_dict(state)
    data = folder(tmp_path / "others")
    data.trainer = one_process()
    data.trainer.training = False
    data.setup("test")
    seen = pixels(data, "test")
    data.load_state_dict(state)
    assert pixels(data, "test") == seen


def test_images_to_test_on_that_were_trained_on_are_told(tmp_path, write_tree, told):
    for split, count in (("train", 10), ("test", 4)):
        write_tree(tmp_path / split, ["a", "b"], count=count, shape=(6, 6))
    state = ready(lambda: folder(tmp_path)).state_dict()
    for number in range(10):
        shutil.copy(tmp_path / f"train/a/{number}.png", tmp_path / f"test/b/copy{number}.png")
    data = folder(tmp_path)
    data.trainer = one_process()
    data.trainer.training = False
    data.setup("test")
    data.load_state_dict(state)
    assert len(data.store("test")) == 18  # a test folder is taken as it is
    assert "10 images to test on" in "".join(told)
    assert "0 images are gone, 0 are others of the same name, 10 are new" in "".join(told)


def test_a_moved_folder_is_the_same(photos, begun, told):
    before, state = begun
    shutil.move(photos, photos.with_name("there"))
    data = ready(lambda: folder(photos.with_name("there")))
    data.load_state_dict(state)
    assert parts(data) == before
    assert told == []


def test_another_training_set_is_told(told, monkeypatch):
    state = ready(DigitsDataModule).state_dict()
    load = DigitsDataModule.load

    def fewer(self, split):
        images, labels = load(self, split)
        return type(load(self, split))(images[5:], labels[5:])

    monkeypatch.setattr(DigitsDataModule, "load", fewer)
    ready(DigitsDataModule).load_state_dict(state)
    assert "1,437 examples then, 1,432 now" in "".join(told)


HARM = {
    "nothing": lambda split: split.clear(),
    "text": lambda split: split.update(val="all"),
    "seed": lambda split: split.update(seed="0"),
    "negative": lambda split: split.update(seed=-1),
    "large": lambda split: split.update(seed=2**32),
    "more": lambda split: split.update(more=1),
    "floats": lambda split: split.update(val=torch.rand(3)),
    "files": lambda split: split.update(files=[1]),
    "columns": lambda split: split.update(files={"train": torch.zeros(3, 5).long(), "test": torch.zeros(3, 2).long()}),
}


@pytest.mark.parametrize("harm", HARM.values(), ids=HARM)
def test_a_record_that_is_none_is_refused_in_one_line(harm):
    data = ready(DigitsDataModule)
    state = copy.deepcopy(data.state_dict())
    harm(state[KEY])
    with pytest.raises(InputError, match="the checkpoint's record of the split") as raised:
        data.load_state_dict(state)
    assert str(raised.value).isprintable()


@pytest.mark.parametrize("state", [5, [], {}, {"brightness": 3}, {"brightness": {"mean": "x"}}], ids=str)
def test_a_state_without_a_record_changes_nothing(state):
    data = ready(DigitsDataModule)
    before = parts(data)
    data.load_state_dict(state)
    assert parts(data) == before


class Seen(L.LightningModule):
    """Notes what it is trained, validated and tested on."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = {"train": set(), "val": set(), "test": set()}

    def note(self, part, batch):
        self.seen[part] |= {image.tobytes() for image in (255 * batch.pictures).round().to(torch.uint8).numpy()}
        return self.weight * 0

    def training_step(self, batch):
        return self.note("train", batch)

    def validation_step(self, batch):
        self.note("val", batch)

    def test_step(self, batch):
        self.note("test", batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def quiet(folder, epochs):
    return L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


def test_the_trainer_keeps_the_split_when_training_goes_on(photos, tmp_path, write_image):
    first, trainer = Seen(), quiet(tmp_path, 1)
    trainer.fit(first, folder(photos))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    trainer.test(first, trainer.datamodule, verbose=False)
    for number in range(100, 140):
        write_image(photos / "cat" / f"{number}.png", (6, 6))
    again = Seen()
    quiet(tmp_path, 3).fit(again, folder(photos, seed=7), ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    quiet(tmp_path, 1).test(again, folder(photos), ckpt_path=tmp_path / "a.ckpt", verbose=False, weights_only=True)
    assert again.seen["val"] == first.seen["val"]
    assert again.seen["test"] == first.seen["test"]
    assert not again.seen["train"] & (first.seen["test"] | first.seen["val"])
    assert len(again.seen["train"] | first.seen["val"] | first.seen["test"]) <= 60
