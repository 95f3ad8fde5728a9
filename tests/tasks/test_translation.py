"""The translation task: what it minimizes and reports, what it refuses, and that a run learns, tests and predicts."""

import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from torch.testing import assert_close

from capsule_lightning.callbacks.translations import Translations
from capsule_lightning.data.digits import DigitsDataModule
from capsule_lightning.data.translation import TranslationDataModule
from capsule_lightning.errors import InputError
from capsule_lightning.losses.translation import bag_loss, next_word_loss
from capsule_lightning.models.transformer import Transformer
from capsule_lightning.routing.dynamic import DynamicRouting
from capsule_lightning.tasks.translation import TranslationTask

pytest.importorskip("sacrebleu")
pytest.importorskip("tokenizers")

NET = partial(Transformer, dim=16, num_heads=2, num_layers=2, hidden=32, dropout=0.0, layer_parents=4)
DATA = {"vocabulary_size": 280, "max_length": 30, "batch_tokens": 256, "test_size": 5, "val_size": 6, "seed": 0}


def task_of(net=NET, **options):
    torch.manual_seed(0)
    return TranslationTask((30,), 280, net=net, lr_scheduler=None, **options)


def trainer(folder, **options):
    plain = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return L.Trainer(default_root_dir=folder, **{**plain, "enable_checkpointing": False, **options})


@pytest.fixture
def data(tmp_path: Path) -> TranslationDataModule:
    """Sentences of a few words, each of which has one translation."""
    words = {"king": "rey", "city": "ciudad", "light": "luz", "sea": "mar"}
    lines = [[a, b, c] for a in words for b in words for c in words]
    for name, said in (("a.en", words.keys()), ("a.es", words.values())):
        say = dict(zip(words, said, strict=True))
        (tmp_path / name).write_text("".join(" ".join(say[word] for word in line) + "\n" for line in lines))
    return TranslationDataModule(source=str(tmp_path / "a.en"), target=str(tmp_path / "a.es"), **DATA)


def test_the_loss_is_a_mean_over_words() -> None:
    task = task_of(smoothing=0.2)
    batch = task.example_batch(3)
    batch.target[1, 4:] = 0
    losses = task.losses(task.output(batch), batch)
    words = batch.target[:, 1:]
    expected = next_word_loss(task(batch.source, batch.target[:, :-1]), words, 0.2) / (words != 0).sum()
    assert tuple(losses) == task.loss_names == ("loss", "word_loss")
    assert_close(losses["loss"], expected)
    assert task.weight(batch) == (words != 0).sum()
    assert_close(expected, torch.log(torch.tensor(280.0)), rtol=0.5, atol=0)


def test_past_and_future_have_their_losses() -> None:
    task = task_of(partial(NET, past_future=True), bag_weight=2.0)
    batch = task.example_batch(2)
    output = task.output(batch)
    losses = task.losses(output, batch)
    assert tuple(losses) == task.loss_names == ("loss", "word_loss", "past_loss", "future_loss")
    words = batch.target[:, 1:]
    for name, logits in (("past_loss", output.answer.past), ("future_loss", output.answer.future)):
        assert_close(losses[name], bag_loss(logits, words, name == "past_loss") / words.numel())
    assert_close(losses["loss"], losses["word_loss"] + 2 * (losses["past_loss"] + losses["future_loss"]))
    losses["loss"].backward()
    assert all(parameter.grad is not None for parameter in task.parameters()), "ddp would wait for it"


@pytest.mark.nightly
def test_a_run_learns_tests_and_predicts(data, tmp_path) -> None:
    torch.manual_seed(0)
    net = partial(NET, dim=64, num_heads=4, hidden=128, layer_aggregation=DynamicRouting)
    task = task_of(net, optimizer=partial(torch.optim.Adam, lr=0.003), beam=2, smoothing=0.0)
    fit = trainer(tmp_path / "run", max_epochs=80, check_val_every_n_epoch=80)
    fit.fit(task, data)
    assert fit.callback_metrics["val/chrf"] > 75  # BLEU counts four words in a row, and these sentences have three
    assert json.loads((tmp_path / "run" / "vocabulary.json").read_text()) == data.vocabulary.plain()
    test = trainer(tmp_path / "run", callbacks=[Translations()])
    (metrics,) = test.test(task, data, verbose=False)
    rows = [line.split("\t") for line in (tmp_path / "run" / "test_translations.tsv").read_text().splitlines()]
    assert rows[0] == ["source", "translation", "reference"]
    assert len(rows) == 6
    assert sum(row[1] == row[2] for row in rows) >= 2
    said = json.loads((tmp_path / "run" / "sacrebleu.json").read_text())
    assert said["bleu"]["score"] == pytest.approx(metrics["test/bleu"])
    assert "tok:13a" in said["bleu"]["signature"]
    (tmp_path / "new.txt").write_text("sea king\n\nlight city king\n")
    own = TranslationDataModule(texts=str(tmp_path / "new.txt"), **DATA)
    own.load_state_dict(data.state_dict())
    out = trainer(tmp_path / "out", callbacks=[Translations()])
    out.predict(task, own, return_predictions=False)
    lines = (tmp_path / "out" / "translations.txt").read_text().split("\n")
    assert len(lines) == 4
    assert lines[1] == lines[3] == ""
    assert lines[2] == "luz ciudad rey"


def test_data_without_sentences_are_refused() -> None:
    task = task_of()
    task._trainer = SimpleNamespace(datamodule=DigitsDataModule())
    with pytest.raises(InputError, match=r"TranslationTask needs pairs.*DigitsDataModule"):
        task.setup("fit")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"smoothing": 1.0}, "smoothing=1.0"),
        ({"beam": 0}, "beam=0"),
        ({"val_beam": 65}, "val_beam=65"),
        ({"bag_weight": -1.0}, "bag_weight=-1.0"),
    ],
)
def test_values_out_of_range_are_refused(options, words) -> None:
    with pytest.raises(InputError, match=words):
        task_of(**options)


def test_without_translating_in_validation_the_loss_selects() -> None:
    task = task_of(val_beam=0)
    assert task.selected_by == ("loss", "min")
    assert not task.metrics("val")
    assert set(task.metrics("test")) == {"bleu", "chrf"}
