"""Texts: vocabulary, splits, batches, and what is refused."""

import io
import json
from functools import partial

import lightning as L
import numpy as np
import pytest
import torch
from torch.testing import assert_close

from capsule_lightning.data import subwords
from capsule_lightning.data.published_texts import PublishedTextDataModule
from capsule_lightning.data.sentences import ReviewSentencesDataModule
from capsule_lightning.data.text_folder import TextFolderDataModule
from capsule_lightning.data.text_lines import read_lines
from capsule_lightning.data.text_store import TextStore
from capsule_lightning.data.text_table import TextTableDataModule
from capsule_lightning.data.tokens import PAD, SPECIAL, UNKNOWN
from capsule_lightning.data.trained_on import read_trained_on, trained_on
from capsule_lightning.data.vocabulary import WordVocabulary
from capsule_lightning.data.vocabulary_files import read_vocabulary, vocabulary_of, vocabulary_text
from capsule_lightning.data.word_vectors import read_word_vectors
from capsule_lightning.errors import InputError
from capsule_lightning.losses.cross_entropy import CrossEntropyLoss
from capsule_lightning.models.kim_cnn import KimCNN
from capsule_lightning.models.relation_capsnet import RelationLinear
from capsule_lightning.tasks.classification import ClassificationTask

LINES = [f"{kind} film number {n % 7}" + " very" * (n % 5) for n in range(20) for kind in ("good", "bad")]


def write(path, lines=LINES, labels=("good", "bad"), head="text,label"):
    rows = [f"{line},{labels[n % len(labels)]}" for n, line in enumerate(lines)]
    path.write_text("\n".join([head, *rows]) + "\n")
    return path


def table(path, **options):
    return TextTableDataModule(str(path), **{"seed": 0, "batch_size": 4, "min_count": 1, **options})


def test_the_vocabulary_is_of_the_texts_to_train_on_alone(tmp_path):
    lines = [f"{line} only{n}" for n, line in enumerate(LINES)]
    data = table(write(tmp_path / "a.csv", lines))
    data.setup("fit")
    data.setup("test")
    places = data.splits.places("train")
    trained = {f"only{n}" for n in places[data._train].tolist()}
    assert {token for token in data.vocabulary.tokens if token.startswith("only")} == trained
    assert (data.store("test").ids == UNKNOWN).sum() == len(data.store("test"))


def test_a_store_pads_to_the_longest_of_a_batch_and_to_nothing_else():
    texts = [[5, 6, 7], [8], [9, 4]]
    store = TextStore.of(texts, torch.arange(3))
    assert store.take(torch.tensor([2, 1])).tolist() == [[9, 4], [8, PAD]]
    assert store.take(torch.tensor([0])).tolist() == [[5, 6, 7]]


@pytest.mark.parametrize("tokenizer", ["words", "byte_pairs"])
def test_a_vocabulary_comes_back_from_plain_values(tmp_path, tokenizer):
    pytest.importorskip("tokenizers")
    data = table(write(tmp_path / "a.csv"), tokenizer=tokenizer, vocabulary_size=300)
    (tmp_path / "vocabulary.json").write_text(vocabulary_text(data.vocabulary))
    again = read_vocabulary(tmp_path / "vocabulary.json")
    assert again == data.vocabulary
    text = "good <pad> film <unknown>"
    assert again.encode(text) == data.vocabulary.encode(text)
    assert PAD not in again.encode(text)
    assert again.decode(again.encode("good film")) == "good film"
    assert table(tmp_path / "a.csv", vocabulary=str(tmp_path / "vocabulary.json")).in_shape == data.in_shape


@pytest.mark.parametrize("merges", [[5], [["a"]], [["a", "b", "c"]], [["a", 5]], [["no", "such"]], [["a", "b"]] * 5])
def test_pairs_that_cannot_be_joined_are_refused(tmp_path, merges, monkeypatch):
    pytest.importorskip("tokenizers")
    monkeypatch.setattr(subwords, "MOST_TOKENS", 4)
    said = {"kind": "byte_pairs", "tokens": [*SPECIAL, "a", "b", "ab"], "merges": merges}
    (tmp_path / "vocabulary.json").write_text(json.dumps(said))
    with pytest.raises(InputError, match="that a run has written"):
        read_vocabulary(tmp_path / "vocabulary.json")


def test_batches_of_like_length_are_the_same_on_any_number_of_processes(tmp_path):
    data = table(write(tmp_path / "a.csv"), by_length=True, val_size=0)
    data.setup("fit")
    whole, halves = data.loader("train", data._train, training=True), []
    for rank in range(2):
        half = data.loader("train", data._train, training=True)
        half.rank, half.world_size = rank, 2
        halves.append([batch.indices for batch in half])
    batches = [batch.indices for batch in whole]
    for batch, *parts in zip(batches, *halves, strict=True):
        assert sorted(batch.tolist()) == sorted(torch.cat(parts).tolist())
    seen = torch.cat(batches).tolist()
    assert len(set(seen)) == len(seen) == 32
    spread = [data.store("train").lengths[batch].max() - data.store("train").lengths[batch].min() for batch in batches]
    assert max(spread) <= 1
    whole.load_state_dict({"epoch": 0, "position": 3})
    assert_close(torch.stack([batch.indices for batch in whole]), torch.stack(batches[3:]))


def test_odd_texts_are_counted_and_cut(tmp_path):
    lines = ["a b c d e f"] * 10 + [""] * 10 + ["a"] * 20
    data = table(write(tmp_path / "a.csv", lines), max_length=3)
    data.setup("fit")
    assert "10 texts are empty, and are one unknown word" in str(data)
    assert "10 texts are longer, and end after --data.max_length 3 ids" in str(data)
    assert data.store("train").lengths.max() == 3
    assert data.store("train").lengths.min() == 1


def test_json_lines_and_sets_of_labels(tmp_path):
    rows = [{"text": f"word{n % 3}", "label": [["a"], ["a", "b"], ["b"]][n % 3]} for n in range(60)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = table(tmp_path / "a.jsonl", label_separator="|")
    data.setup("fit")
    assert data.num_labels == 0
    assert sorted({tuple(row) for row in data.store("train").labels.tolist()}) == [(0, -1), (0, 1), (1, -1)]


def test_folders_of_text_files(tmp_path):
    for split in ("train", "test"):
        for name in ("x", "y"):
            for n in range(6):
                path = tmp_path / split / name / f"{n}.txt"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(f"{name} text {n}")
    data = TextFolderDataModule(str(tmp_path), seed=0, batch_size=2, val_size=2)
    data.setup("fit")
    data.setup("test")
    assert (len(data._train), len(data._val), len(data.store("test"))) == (10, 2, 12)
    assert data.class_names == ["x", "y"]
    (tmp_path / "test" / "y" / "0.txt").write_bytes(b"fine\ncaf\xe9")
    with pytest.raises(InputError, match=r"y/0\.txt, line 2: is not text in UTF-8.*save"):
        TextFolderDataModule(str(tmp_path))


def test_class_folders_that_are_numbers_are_in_their_order(tmp_path):
    for name in ("10", "9", "1"):
        (tmp_path / name).mkdir()
        for n in range(5):
            (tmp_path / name / f"{n}.txt").write_text(f"stars {name} of ten, {n}")
    data = TextFolderDataModule(str(tmp_path), seed=0, min_count=1, val_size=3)
    data.setup("test")
    assert data.class_names == ["1", "9", "10"]
    said = [text.split()[1] for text in data.texts_of("test")]
    assert [data.class_names[label] for label in data.store("test").labels.tolist()] == said


def test_published_files(tmp_path):
    for name, word in (("neg", "dull"), ("pos", "lively")):
        lines = [f"a {word} caf\u00e9 {n}" for n in range(20)]
        (tmp_path / f"rt-polarity.{name}").write_bytes("\n".join(lines).encode("latin-1"))
    data = PublishedTextDataModule("mr", str(tmp_path), folds=10, seed=0, batch_size=4)
    data.setup("test")
    assert len(data.store("test")) == 4
    assert "caf\u00e9" in data.vocabulary.tokens
    tree = "(3 (2 A) (3 (4 fine) (2 film)))\n(2 (2 Some) (2 film))\n(0 (0 Dull) (2 -LRB-))\n"
    for name in ("train", "dev", "test"):
        (tmp_path / f"{name}.txt").write_text(tree)
    two = PublishedTextDataModule("sst2", str(tmp_path))
    assert two.found.texts[:2] == ["A fine film", "Dull ("]
    assert two.found.labels[:2] == [("positive",), ("negative",)]
    story = '<REUTERS TOPICS="YES" LEWISSPLIT="{}"><TOPICS>{}</TOPICS><TITLE>T &lt;X></TITLE><BODY>b</BODY></REUTERS>'
    corn, both = "<D>corn</D>", "<D>corn</D><D>wheat</D>"
    stories = [story.format(*each) for each in (("TRAIN", corn), ("TRAIN", both), ("TEST", both), ("TEST", ""))]
    (tmp_path / "reut2-000.sgm").write_text("\n".join(stories))
    news = PublishedTextDataModule("reuters10", str(tmp_path))
    assert news.found.texts == ["T <X> b"] * 3
    assert news.found.labels == [("corn",), ("corn", "wheat"), ("corn", "wheat")]


def test_what_cannot_be_used_is_refused_in_one_line(tmp_path):
    path = write(tmp_path / "a.csv", head="text,stars")
    with pytest.raises(InputError, match=r"no column 'label'; it has text, stars.*--data.label_column"):
        table(path)
    rows = ["text,label,split", *(f"{line},{n % 2},train" for n, line in enumerate(LINES)), "new,9,test"]
    path.write_text("\n".join(rows))
    with pytest.raises(InputError, match="no text to train on has: 9; expected 0, 1"):
        table(path)
    path.write_bytes(b"text,label\ngood,a\ncaf\xe9,b\n")
    with pytest.raises(InputError, match=r"line 3 is not text in UTF-8"):
        table(path)
    data = table(write(path))
    state = {"vocabulary": WordVocabulary.trained(["other words"], 10).plain()}
    with pytest.raises(InputError, match=r"'other' and not .* is number 4.*--data.vocabulary"):
        data.load_state_dict(state)
    for said in (None, {"kind": "words", "tokens": ["a"]}, {"kind": "words", "tokens": 3}, {"kind": "x"}):
        with pytest.raises(InputError, match="vocabulary"):
            vocabulary_of(said, "a.json")


def test_a_text_file_that_would_fill_the_memory_is_refused(tmp_path):
    with open(tmp_path / "huge.txt", "wb") as file:
        file.truncate(2**31)  # takes no room on the disk
    with pytest.raises(InputError, match=r"huge\.txt: has 2,147,483,648 bytes, at most 1,073,741,824 are read"):
        read_lines(tmp_path / "huge.txt")


def test_texts_to_predict(tmp_path, monkeypatch):
    given = ["good film", "", "bad"]
    (tmp_path / "in.txt").write_text("\n".join(given) + "\n")
    write(tmp_path / "a.csv")
    data = table(tmp_path / "a.csv", texts=str(tmp_path / "in.txt"))
    data.setup("predict")
    assert [data.name_of(n) for n in range(3)] == given

    class Pipe:
        buffer = io.BytesIO(b"one\ntwo\n")

    monkeypatch.setattr("sys.stdin", Pipe)
    data = table(tmp_path / "a.csv", texts="-")
    data.setup("predict")
    assert list(data.predicted) == ["one", "two"]


def test_what_a_network_was_trained_on_holds_the_vocabulary(tmp_path):
    data = table(write(tmp_path / "a.csv"))
    data.setup("fit")
    found = read_trained_on(trained_on(data).plain(), "a.ckpt")
    assert vocabulary_of(found.vocabulary, "a.ckpt") == data.vocabulary
    found.require_same(data, "a.ckpt")
    with pytest.raises(InputError, match=r"--data.max_length 200"):
        found.require_same(table(tmp_path / "a.csv", max_length=9), "a.ckpt")


def test_vectors_of_words(tmp_path):
    words = ["<pad>", "good", "ice cream", "bad"]
    values = np.array([[1, 2], [3, 4]], dtype="<f4")
    (tmp_path / "glove.txt").write_text("good 1 2\nice cream 3 4\n")
    (tmp_path / "w2v.txt").write_text("2 2\ngood 1 2\nice cream 3 4\n")
    binary = b"2 2\ngood " + values[0].tobytes() + b"\nice" + b" " + values[1].tobytes()
    (tmp_path / "w2v.bin").write_bytes(binary)
    for name in ("glove.txt", "w2v.txt"):
        found = read_word_vectors(tmp_path / name, words)
        assert_close(found[1:3], torch.from_numpy(values.copy()))
        assert found[[0, 3]].isnan().all()
    assert_close(read_word_vectors(tmp_path / "w2v.bin", ["good", "ice"]), torch.from_numpy(values.copy()))
    (tmp_path / "w2v.bin").write_bytes(binary[:-1])
    with pytest.raises(InputError, match="ends within word 2 of 2"):
        read_word_vectors(tmp_path / "w2v.bin", words)
    (tmp_path / "glove.txt").write_text("good 1 2\nbad 1 x\n")
    with pytest.raises(InputError, match="line 2: expected a word and 2 numbers"):
        read_word_vectors(tmp_path / "glove.txt", words)


def test_the_sentences_that_come_along():
    data = ReviewSentencesDataModule(seed=0)
    data.setup("fit")
    data.setup("test")
    assert len(data._train) + len(data._val) + len(data.store("test")) == 2983
    other = ReviewSentencesDataModule(seed=1)
    assert_close(data.splits.places("test"), other.splits.places("test"))


def transfer(path, rows, **options):
    path.write_text("\n".join(["text,label,group", *(",".join(row) for row in rows)]) + "\n")
    return table(path, label_separator="|", test_on_several=True, val_size=2, **options)


def test_texts_of_one_class_are_trained_on_and_those_of_several_tested_on(tmp_path):
    alone = [(f"one {n}", "ab"[n % 2], f"g{n}") for n in range(12)]
    rows = [*alone, ("both", "a|b", "g0"), ("both again", "b|a", "h"), ("none", "", "i"), ("one twice", "a|a", "j")]
    data = transfer(tmp_path / "a.csv", rows)
    data.setup("fit")
    data.setup("test")
    texts = {split: set(data.texts_of(split)) for split in ("train", "test")}
    assert texts["test"] == {"both", "both again"}
    assert texts["train"] == {f"one {n}" for n in range(1, 12)} | {"one twice"}  # a group of "one 0" is tested on
    assert len(data._val) == 2
    assert sorted(data.store("test").labels[0].tolist()) == [0, 1]
    assert "both" not in data.vocabulary.tokens
    assert "2 are left out (--data.test_on_several true), 1 of them of one class" in str(data)


def test_a_transfer_without_texts_of_several_classes_is_refused(tmp_path):
    rows = [(f"one {n}", "ab"[n % 2], "") for n in range(12)]
    with pytest.raises(InputError, match="12 texts of one class to train on and 0 of several"):
        transfer(tmp_path / "a.csv", [(*row[:2], f"g{n}") for n, row in enumerate(rows)])
    with pytest.raises(InputError, match=r"test_on_several=true.*--data.label_separator"):
        table(write(tmp_path / "b.csv"), test_on_several=True)


def test_reuters_is_transferred_within_its_own_split(tmp_path):
    story = '<REUTERS TOPICS="YES" LEWISSPLIT="{}"><TOPICS>{}</TOPICS><BODY>{}</BODY></REUTERS>'
    corn, both = "<D>corn</D>", "<D>corn</D><D>wheat</D>"
    rows = [("TRAIN", corn), ("TRAIN", "<D>wheat</D>"), ("TRAIN", both), ("TEST", both), ("TEST", corn)]
    (tmp_path / "reut2-000.sgm").write_text("\n".join(story.format(*row, n) for n, row in enumerate(rows)))
    data = PublishedTextDataModule("reuters10", str(tmp_path), test_on_several=True)
    assert (list(data.found.texts), list(data.found.parts)) == (["0", "1", "3"], ["train", "train", "test"])


def test_training_begins_with_given_vectors_of_words(tmp_path):
    (tmp_path / "glove.txt").write_text("good 1 2\nfilm 3 4\n")
    data = table(write(tmp_path / "a.csv"), word_vectors=str(tmp_path / "glove.txt"))
    net = partial(KimCNN, filters=2, dim_words=2, static=True)
    task = ClassificationTask(data.in_shape, 2, net, CrossEntropyLoss)
    drawn = task.net.embedding.weight.clone()
    trainer = L.Trainer(max_epochs=1, logger=False, enable_checkpointing=False, accelerator="cpu")
    trainer.fit(task, data)
    weight, ids = task.net.embedding.weight, data.vocabulary.ids
    assert_close(weight[[ids["good"], ids["film"]]], torch.tensor([[1.0, 2], [3, 4]]))
    assert_close(weight[ids["bad"]], drawn[ids["bad"]])
    assert not weight[PAD].any()
    assert "2 of the " in str(data)
    with pytest.raises(InputError, match=r"dim_words 2"):
        L.Trainer(max_epochs=1, logger=False, accelerator="cpu").fit(
            ClassificationTask(data.in_shape, 2, partial(net, dim_words=3), CrossEntropyLoss), data
        )
    with pytest.raises(InputError, match=r"set --data\.tokenizer words"):
        table(tmp_path / "a.csv", word_vectors="a.txt", tokenizer="byte_pairs")


def test_the_sentence_network_of_relations_begins_with_given_vectors_too():
    net = RelationLinear((5, 12, 9), 3, hidden=4, dim_words=2, static=True)
    vectors = torch.full((5, 2), torch.nan)
    vectors[3] = 7.0
    net.start_from(vectors)
    assert net.words.weight[3].tolist() == [7.0, 7.0]
    assert not net.words.weight.isnan().any()
    assert not net.words.weight.requires_grad
