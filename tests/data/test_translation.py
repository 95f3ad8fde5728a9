"""Parallel text: what is read, split, left out and put into batches."""

import gzip
import io
import json
import sys
from pathlib import Path

import pytest
import torch

from capsule_lightning.data.pair_splits import split_by_group
from capsule_lightning.data.token_loader import ROWS, cut_by_tokens
from capsule_lightning.data.tokens import BEGIN, END, PAD
from capsule_lightning.data.translation import TranslationDataModule
from capsule_lightning.errors import InputError

pytest.importorskip("tokenizers")

PAIRS = [
    (f"{'the king ' * (n % 7 + 1)}went to city {n}", f"{'el rey ' * (n % 5 + 1)}fue a la ciudad {n}") for n in range(90)
]
SMALL = {"vocabulary_size": 300, "max_length": 40, "batch_tokens": 600, "batch_size": 16, "seed": 0}


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """Two files, the translation of each line in the same line."""
    for side, name in enumerate(("text.en", "text.es")):
        (tmp_path / name).write_text("".join(f"{pair[side]}\n" for pair in PAIRS), encoding="utf-8")
    return str(tmp_path / "text.en"), str(tmp_path / "text.es")


def module(files, **options) -> TranslationDataModule:
    data = TranslationDataModule(source=files[0], target=files[1], **(SMALL | options))
    data.setup("fit")
    return data


def test_two_files_and_a_table_give_the_same_pairs(files, tmp_path):
    rows = "".join(f"{en}\t{es}\tbook {n % 9}\n" for n, (en, es) in enumerate(PAIRS))
    with gzip.open(tmp_path / "pairs.tsv.gz", "wb") as file:
        file.write(f"english\tspanish\tbook\n{rows}".encode())
    columns = {"source_column": "english", "target_column": "spanish"}
    table = TranslationDataModule(table=str(tmp_path / "pairs.tsv.gz"), **columns, **SMALL)
    table.setup("fit")
    of_files = module(files)
    assert table.text.sources == of_files.text.sources == [en for en, _ in PAIRS]
    assert table.vocabulary == of_files.vocabulary
    by_book = TranslationDataModule(
        table=str(tmp_path / "pairs.tsv.gz"), **columns, group_column="book", test_size=20, val_size=10, **SMALL
    )
    by_book.setup(None)
    train, val = (
        {by_book.text.groups[by_book.splits.places["train"][n]] for n in part}
        for part in (by_book._train, by_book._val)
    )
    test = {by_book.text.groups[n] for n in by_book.splits.places["test"]}
    assert not train & val
    assert not (train | val) & test
    assert (len(by_book._val), len(by_book.store("test"))) == (10, 20)


def test_the_vocabulary_is_of_the_training_split_alone_and_says_every_text(files, tmp_path):
    data = module(files)
    other = [
        (en, es + " zzzzqqqq" * 9) if n in data.splits.places["test"] else (en, es) for n, (en, es) in enumerate(PAIRS)
    ]
    Path(files[1]).write_text("".join(f"{es}\n" for _, es in other), encoding="utf-8")
    assert module(files).vocabulary == data.vocabulary
    for text in ("¿Qué dijo el rey?", "日本 — 🙂"):
        assert data.vocabulary.decode(data.vocabulary.encode(text)) == text
    ids = data.vocabulary.encode("el rey")
    assert data.vocabulary.decode([*ids, len(data.vocabulary), END, PAD]) == "el rey", "what it does not have is silent"


def test_a_batch_has_beginning_end_and_padding(files):
    data = module(files)
    batch = data.on_before_batch_transfer(next(iter(data.train_dataloader())), 0)
    assert (batch.target[:, 0] == BEGIN).all()
    pairs = data.pairs("train")
    for source, target, index in zip(*batch, strict=True):
        source, target = source[source != PAD], target[target != PAD]
        assert source[-1] == target[-1] == END
        assert data.said(source) == pairs.sources[index]
        assert data.said(target) == pairs.targets[index]
    assert (batch.source != PAD).any(dim=0).all()
    assert (batch.target != PAD).any(dim=0).all(), "cut to the longest"


def batches(data, rank=0, processes=1, epoch=0):
    loader = data.loader("train", data._train, training=True)
    loader.rank, loader.world_size = rank, processes
    loader.set_epoch(epoch)
    return [batch.indices.tolist() for batch in loader]


@pytest.mark.parametrize("processes", [2, 3])
def test_batches_do_not_depend_on_the_number_of_processes(files, processes):
    data = module(files)
    whole = batches(data)
    shares = [batches(data, rank, processes) for rank in range(processes)]
    assert all(len(share) == len(whole) == data.steps_per_epoch for share in shares)
    for number, batch in enumerate(whole):
        assert sorted(index for share in shares for index in share[number]) == sorted(batch)
        assert all(share[number] for share in shares)
    assert sorted(index for batch in whole for index in batch) == data._train.tolist(), "each once"


def test_batches_are_like_in_length_small_enough_and_others_in_every_epoch(files):
    data = module(files)
    lengths = data.encoded("train").lengths.amax(dim=1) + 1
    whole = batches(data)
    assert len(whole) > 2
    assert all(len(batch) * lengths[batch].max() <= 600 + ROWS * 40 for batch in whole)
    spread = max(int(lengths[batch].max() - lengths[batch].min()) for batch in whole)
    assert spread < lengths.max() - lengths.min()
    assert batches(data, epoch=1) != whole == batches(data)
    assert len(batches(data, epoch=1)) == len(whole)


def test_a_loader_goes_on_in_the_middle_of_an_epoch(files):
    data = module(files)
    loader = data.loader("train", data._train, training=True)
    loader.set_epoch(3)
    taken = iter(loader)
    next(taken)
    next(taken)
    state = loader.state_dict()
    rest = [batch.indices.tolist() for batch in taken]
    again = data.loader("train", data._train, training=True)
    again.load_state_dict(state)
    assert [batch.indices.tolist() for batch in again] == rest


@pytest.mark.parametrize("count", [1, 7, 8, 9, 15, 16, 17, 100])
def test_cuts_leave_nobody_out_and_no_batch_too_small(count):
    ends = cut_by_tokens(torch.arange(1, count + 1), 200)
    sizes = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    assert sum(sizes) == count
    assert min(sizes) >= min(ROWS, count)
    assert all(size % ROWS == 0 for size in sizes[:-1])


def test_the_embedded_verses_are_split_by_book():
    data = TranslationDataModule(vocabulary_size=300)
    text, parts = data.text, {}
    for part, group in zip(text.parts, text.groups, strict=True):
        parts.setdefault(part, set()).add(group)
    assert parts["test"] == {"Job"}
    assert parts["val"] == {"Isaiah", "Acts"}
    assert not parts["train"] & (parts["test"] | parts["val"])
    assert len(text.sources) == 5692
    held = {side[n] for n in text.places("val", "test") for side in (text.sources, text.targets)}
    assert not held & {side[n] for n in text.places("train") for side in (text.sources, text.targets)}


def test_odd_sentences_are_left_out_and_counted(files):
    lines = Path(files[1]).read_text(encoding="utf-8").splitlines()
    lines[3], lines[4] = "", "rey " * 300
    Path(files[1]).write_text("\n".join(lines) + "\n", encoding="utf-8")
    data = module(files, test_size=1, val_size=0)
    told = data.describe()
    assert "1 more have an empty side" in told
    assert "1 longer than --data.max_length 40" in told
    assert len(data.text.sources) == 89
    used = [index for batch in batches(data) for index in batch]
    assert len(used) == 87
    assert all(len(data.pairs("train").targets[index]) < 1000 for index in used)


def test_a_long_source_to_predict_is_cut_and_an_empty_one_is_kept(files, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(("king " * 200 + "\n\ncity\n").encode())))
    data = TranslationDataModule(texts="-", **SMALL)
    data.load_state_dict(module(files).state_dict())
    data.setup("predict")
    (batch,) = [data.on_before_batch_transfer(each, 0) for each in data.predict_dataloader()]
    assert batch.indices.tolist() == [1, 2, 0]
    assert batch.source[0].tolist()[0] == END
    assert batch.source.shape == (3, 41)
    assert "train" not in data.stores, "nothing else is read"


def test_the_vocabulary_of_a_checkpoint_is_kept_and_another_one_is_refused(files, tmp_path):
    data = module(files)
    state = data.state_dict()
    other = [(en.upper(), es.upper()) for en, es in PAIRS]
    for side, name in enumerate(files):
        Path(name).write_text("".join(f"{pair[side]}\n" for pair in other), encoding="utf-8")
    changed = module(files)
    changed.load_state_dict(state)
    assert changed.vocabulary == data.vocabulary
    (tmp_path / "vocabulary.json").write_text(json.dumps(module(files).vocabulary.plain()))
    chosen = module(files, vocabulary=str(tmp_path / "vocabulary.json"))
    with pytest.raises(InputError, match=r"vocabulary: is another one than the checkpoint's"):
        chosen.load_state_dict(state)
    with pytest.raises(InputError, match=r"words.*byte pairs"):
        changed.load_state_dict(
            {**state, "vocabulary": {"kind": "words", "tokens": ["<pad>", "<unknown>", "<begin>", "<end>", "a"]}}
        )
    with pytest.raises(InputError, match=r"300 ids.*vocabulary_size=280"):
        module(files, vocabulary=str(tmp_path / "vocabulary.json"), vocabulary_size=280)


def test_groups_stay_together_and_chance_is_the_seeds():
    groups = [f"book {n // 5}" for n in range(50)]
    kept, taken = split_by_group(groups, 12, 0, "test_size")
    assert len(taken) == 10
    assert not {groups[n] for n in kept} & {groups[n] for n in taken}
    assert split_by_group(groups, 12, 1, "test_size") != (kept, taken) == split_by_group(groups, 12, 0, "test_size")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_length": 0}, ["max_length=0"]),
        ({"batch_tokens": 100}, ["batch_tokens=100", "328"]),
        ({"vocabulary_size": 200}, ["vocabulary_size=200", "260"]),
        ({"target": None}, ["source", "target"]),
        ({"test_source": "a"}, ["test_source", "test_target"]),
        ({"table": "a.tsv"}, ["table", "source", "one of them"]),
        ({"test_size": 0.0001}, []),
        ({"val_size": 89}, ["val_size=89"]),
        ({"source": "none.en"}, ["none.en", "no such file"]),
    ],
)
def test_options_that_cannot_be_are_refused(files, options, words):
    given = {"source": files[0], "target": files[1]} | SMALL | options

    def opened() -> None:
        TranslationDataModule(**given).setup(None)

    with pytest.raises(InputError) as caught:
        opened()
    assert all(word in str(caught.value) for word in words)


def test_files_that_cannot_be_used_are_refused(files, tmp_path):
    english = Path(files[0]).read_bytes()
    Path(files[0]).write_bytes(english + b"one more\n")
    with pytest.raises(InputError, match=r"text.en: has 91 lines, and .*text.es has 90"):
        module(files)
    Path(files[0]).write_bytes(english.replace(b"city 4\n", b"ciudad espa\xf1ola\n"))
    with pytest.raises(InputError, match=r"text.en, line 5: is not text in UTF-8"):
        module(files)
    table = tmp_path / "pairs.tsv"
    table.write_text("english\tspanish\none\tuno\ntwo\n")
    with pytest.raises(InputError, match=r"no column 'source'.*english.*source_column|line 3: 1 cells"):
        TranslationDataModule(table=str(table)).setup("fit")
    table.write_text("english\tspanish\none\tuno\n")
    with pytest.raises(InputError, match=r"no column 'source'.*english.*source_column"):
        TranslationDataModule(table=str(table)).setup("fit")
    (tmp_path / "pairs.tsv.gz").write_bytes(b"no gzip at all")
    with pytest.raises(InputError, match=r"pairs.tsv.gz: cannot be unpacked"):
        TranslationDataModule(table=str(tmp_path / "pairs.tsv.gz")).setup("fit")
