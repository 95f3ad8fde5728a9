"""Runs of translation in real processes: killed and resumed, shared by two, and asked about sentences of one's own."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from forked import ranks, run
from program import metrics
from resumed import die_while_writing, leaves

from capsule_lightning.data.subwords import BytePairVocabulary
from capsule_lightning.errors import printable
from capsule_lightning.sharing.export import export, load_network

pytest.importorskip("tokenizers")
pytest.importorskip("sacrebleu")

FIT = (
    *("fit", "--config=translation.yaml", "--data.vocabulary_size=300", "--data.max_length=30"),
    *("--model.net.dim=32", "--model.net.hidden=32", "--model.net.dropout=0.0", "--model.beam=2"),
    *("--model.net.layer_aggregation=DynamicRouting", "--model.net.past_future=true"),
    *("--trainer.max_epochs=2", "--trainer.log_every_n_steps=1", "--trainer.accelerator=cpu"),
)


@pytest.fixture
def words(tmp_path: Path) -> tuple[str, ...]:
    """Options of ``fit``, with 150 sentences."""
    for name, word in (("a.en", "king"), ("a.es", "rey")):
        (tmp_path / name).write_text("".join(f"{f'{word} ' * (n % 9 + 1)}{n % 23}\n" for n in range(150)))
    sizes = ("--data.batch_tokens=250", "--data.test_size=12", "--data.val_size=11")
    return *FIT, f"--data.source={tmp_path / 'a.en'}", f"--data.target={tmp_path / 'a.es'}", *sizes


def run_of(cwd: Path, name: str) -> Path:
    return cwd / "runs" / "translation" / name


def told(cwd: Path) -> str:
    return (cwd / "output.txt").read_text()[-3000:]


@pytest.mark.nightly
def test_a_run_that_is_killed_while_it_writes_resumes_to_the_same_weights(tmp_path: Path, words) -> None:
    often = ("--trainer.callbacks+=RunCheckpoint", "--trainer.callbacks.every_n_steps=2", "--model.net.dropout=0.2")
    assert run(tmp_path, *words, *often, "--run_id=whole") == 0, told(tmp_path)
    harm = partial(die_while_writing, 4, 0.5)
    assert run(tmp_path, *words, *often, "--run_id=killed", first=harm) == -9
    assert run(tmp_path, *words, *often, "--run_id=killed", "--resume") == 0, told(tmp_path)
    killed, whole = (
        torch.load(run_of(tmp_path, name) / "checkpoints" / "last.ckpt", weights_only=True)
        for name in ("killed", "whole")
    )
    assert killed["global_step"] == whole["global_step"] > 8
    for part in ("state_dict", "optimizer_states"):
        mine, theirs = dict(leaves(killed[part])), dict(leaves(whole[part]))
        assert mine.keys() == theirs.keys()
        for key, value in theirs.items():
            assert torch.equal(torch.as_tensor(mine[key]), torch.as_tensor(value)), (part, *key)


@pytest.mark.nightly
def test_two_processes_give_the_curve_of_one(tmp_path: Path, words) -> None:
    assert run(tmp_path, *words, "--run_id=1") == 0, told(tmp_path)
    assert ranks(tmp_path, 2, *words, "--run_id=2") == [0, 0], told(tmp_path)
    one, two = (metrics(run_of(tmp_path, name)) for name in "12")
    assert {"train/loss", "val/loss", "val/word_loss", "val/past_loss", "test/bleu", "test/chrf"} <= one.keys()
    for name in (name for name in one if "loss" in name):
        assert two[name] == pytest.approx(one[name], rel=1e-3, abs=1e-4), name
    for name in ("test/bleu", "test/chrf"):
        assert two[name] == pytest.approx(one[name], abs=0.5), name  # a word may be another one by rounding


@pytest.mark.nightly
def test_the_network_of_a_run_translates_without_what_it_was_trained_on(tmp_path: Path, words) -> None:
    assert run(tmp_path, *words, "--run_id=a") == 0, told(tmp_path)
    (tmp_path / "new.txt").write_text("king king 4\n\nking 5\n")
    for name in ("a.en", "a.es"):
        (tmp_path / name).unlink()
    checkpoint = str(run_of(tmp_path, "a") / "checkpoints" / "last.ckpt")
    asked = ("predict", f"--ckpt_path={checkpoint}", f"--data.texts={tmp_path / 'new.txt'}")
    assert run(tmp_path, *asked, f"--output={tmp_path / 'said.txt'}") == 0, told(tmp_path)
    assert len((tmp_path / "said.txt").read_text().split("\n")) == 4
    assert run(tmp_path, *asked, f"--output={tmp_path / 'said.txt'}") == 2
    assert "overwrite" in told(tmp_path)
    shared = str(export(checkpoint, tmp_path / "net.safetensors").path)
    asked_shared = ("predict", f"--ckpt_path={shared}", f"--data.texts={tmp_path / 'new.txt'}")
    assert run(tmp_path, *asked_shared, f"--output={tmp_path / 'shared.txt'}") == 0, told(tmp_path)
    said = (tmp_path / "said.txt").read_text()
    assert (tmp_path / "shared.txt").read_text() == said
    found = load_network(shared).predict(["king king 4", "", "king 5"], beam=2)
    assert [printable(text) for text in found] == said.split("\n")[:3]
    (tmp_path / "other.json").write_text(json.dumps(BytePairVocabulary.trained(["una ciudad"], 262).plain()))
    assert run(tmp_path, *asked_shared, f"--data.vocabulary={tmp_path / 'other.json'}") == 2
    assert "vocabulary" in told(tmp_path)
    (tmp_path / "new.txt").write_bytes(b"king\nespa\xf1a\n")
    assert run(tmp_path, *asked, f"--output={tmp_path / 'more.txt'}") == 2
    assert "line 2" in told(tmp_path)
    assert "Traceback" not in told(tmp_path)
