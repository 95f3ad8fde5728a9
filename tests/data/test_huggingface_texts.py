"""Texts in data sets of Hugging Face's library, as it writes them: their splits and classes, and what is refused."""

import json
from pathlib import Path

import pytest

from capsule_lightning.data.huggingface_texts import HuggingFaceTextDataModule
from capsule_lightning.errors import InputError

datasets = pytest.importorskip("datasets")

NAMES = ["dull", "fine"]
ONE = [n % 2 for n in range(20)]
SEVERAL = [[n % 2] if n % 3 else [0, 1] for n in range(20)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the library keeps, it keeps in a folder of the test; it shows no bars."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()


def rows(word: str, labels: list, kind: object, text: str = "text") -> object:
    """Texts that say which split they are of, and their labels."""
    features = datasets.Features({text: datasets.Value("string"), "label": kind})
    return datasets.Dataset.from_dict({text: [f"{word} {n}" for n in range(len(labels))], "label": labels}, features)


def saved(folder: Path, **splits: object) -> str:
    datasets.DatasetDict(splits).save_to_disk(folder)
    return str(folder)


def counts(data: HuggingFaceTextDataModule) -> dict[str, set[str]]:
    """The first words of the texts of each split, which is set up."""
    data.setup("fit")
    data.setup("test")
    texts = {split: data.texts_of(split) for split in ("train", "test")}
    held = {"kept": [texts["train"][n] for n in data._train], "held": [texts["train"][n] for n in data._val]}
    return {name: {text.split()[0] for text in each} for name, each in {**texts, **held}.items()}


@pytest.mark.parametrize("several", [False, True])
def test_each_split_is_used_for_what_it_is_called_and_names_the_classes(tmp_path: Path, several: bool) -> None:
    kind, labels = datasets.ClassLabel(names=NAMES), SEVERAL if several else ONE
    kind = datasets.Sequence(kind) if several else kind
    parts = {name: rows(name, labels[:size], kind) for name, size in (("train", 20), ("validation", 6), ("test", 9))}
    data = HuggingFaceTextDataModule(saved(tmp_path / "set", **parts), batch_size=4)
    seen = counts(data)
    assert (seen["kept"], seen["held"], seen["test"]) == ({"train"}, {"validation"}, {"test"})
    assert data.class_names == NAMES
    found = [tuple(n for n in row if n >= 0) for row in data.store("test").labels.view(9, -1).tolist()]
    assert found == [tuple(label) if several else (label,) for label in labels[:9]]


@pytest.mark.parametrize("hidden", ["validation", "test"])
def test_a_split_without_labels_is_left_out(tmp_path: Path, hidden: str) -> None:
    kind = datasets.ClassLabel(names=NAMES)
    parts = {"train": rows("train", ONE, kind), hidden: rows(hidden, [-1] * 6, kind)}
    data = HuggingFaceTextDataModule(saved(tmp_path / "set", **parts), batch_size=4)
    assert all(words == {"train"} for words in counts(data).values())


def test_words_and_numbers_are_classes_too(tmp_path: Path) -> None:
    for kind, labels, names in (
        (datasets.Value("string"), ["yes", "no"] * 10, ["no", "yes"]),
        (datasets.Value("int64"), [7, 12] * 10, ["7", "12"]),
    ):
        path = saved(tmp_path / names[0], train=rows("train", labels, kind, text="sentence"))
        data = HuggingFaceTextDataModule(path, text_column="sentence", test_size=4, val_size=4)
        assert data.class_names == names


@pytest.mark.parametrize(
    ("splits", "options", "expected"),
    [
        ({"dev": ("string", ["a", "b"] * 9)}, {}, "expected a split train"),
        ({"train": ("string", ["a", "b"] * 9)}, {"text_column": "body"}, "--data.text_column"),
        ({"train": ("string", ["a", "b"] * 9)}, {"label_column": "topic"}, "--data.label_column"),
        ({"train": ("string", ["a", "b"] * 9)}, {"text_column": "number"}, "expected texts"),
        ({"train": ("string", ["a", None] * 9)}, {}, "has the label None"),
        ({"train": ("int64", [-1, 1] * 9)}, {}, "has the label -1"),
        ({"train": ("float32", [0.5, 1] * 9)}, {}, "has the label 0.5"),
        ({"train": ("bool", [True, False] * 9)}, {}, "has the label True"),
        ({"train": ("int64", [0, 1] * 9), "test": ("string", ["new"] * 9)}, {}, "no text to train on has: new"),
    ],
)
def test_what_cannot_be_used_is_refused_by_its_name(tmp_path: Path, splits: dict, options: dict, expected: str) -> None:
    made = {name: rows(name, labels, datasets.Value(kind)) for name, (kind, labels) in splits.items()}
    made = {name: each.add_column("number", [*range(len(each))]) for name, each in made.items()}
    for name, each in made.items():
        each.save_to_disk(tmp_path / "set" / name)
    (tmp_path / "set" / "dataset_dict.json").write_text(json.dumps({"splits": [*made]}))
    with pytest.raises(InputError, match=expected) as refused:
        HuggingFaceTextDataModule(str(tmp_path / "set"), **options)
    assert str(refused.value).isprintable()
