"""Pages about networks that read: numbers that are those of a test, words in their colors, texts that stay texts."""

import csv
import re
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from trained import fit

from capsule_lightning.cli import main
from capsule_lightning.data.template_relations import TemplateRelationsDataModule
from capsule_lightning.data.text_table import TextTableDataModule
from capsule_lightning.data.translation import TranslationDataModule
from capsule_lightning.errors import InputError
from capsule_lightning.models.relation_capsnet import RelationCapsNet
from capsule_lightning.models.text_capsnet import TextCapsNet
from capsule_lightning.models.transformer import Transformer
from capsule_lightning.report import of_texts, of_translations, page, report
from capsule_lightning.report.evaluated_network import EvaluatedNetwork
from capsule_lightning.report.passages import Words, color, heat_table, words_html
from capsule_lightning.routing.dynamic import DynamicRouting
from capsule_lightning.sharing.export import export
from capsule_lightning.tasks.classification import ClassificationTask
from capsule_lightning.tasks.label_sets import LabelSetTask
from capsule_lightning.tasks.translation import TranslationTask

HOSTILE = '"><img src=x onerror=alert(1)></script><script>alert(2)</script>'
NET = partial(TextCapsNet, ngrams=[2], filters=4, types=2, dim=3, dim_words=4)
READERS = {
    "text": ("--model.net.dim_words=8", "--model.net.types=2", "--model.net.dim=4", "--data.sources=[yelp]"),
    "relations": ("--data.size=200", "--model.net.hidden=8", "--model.net.types=2"),
    "translation": (
        *("--model.net.dim=16", "--model.net.hidden=16", "--model.net.num_layers=2", "--model.net.num_heads=2"),
        *("--model.net.layer_aggregation=DynamicRouting", "--data.test_size=20"),
    ),
}
HEADINGS = {
    "text": ("Right ones", "Which words vote for what", "How long capsules are", "What is taken for what"),
    "relations": ("Right ones", "Which words vote for what", "Precision and recall", "What is taken for what"),
    "translation": (
        *("Short and long sentences", "Worst sentences", "Where the decoder looks", "How layers are put together"),
    ),
}


class Tags(HTMLParser):
    """The tags and the words of a page."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made and not drawn, which takes most of the time."""
    for module in (of_texts, of_translations):
        monkeypatch.setattr(module, "png", lambda figure: "data:image/png;base64,")


def about(task: object, data: object) -> EvaluatedNetwork:
    """A network as it begins, with its test data."""
    data.setup("test")  # type: ignore[attr-defined]
    task.eval()  # type: ignore[attr-defined]
    return EvaluatedNetwork(task, data, True, "A <b>title</b>", {}, "model: <x>")  # type: ignore[arg-type]


def table(folder: Path, several: bool = False) -> TextTableDataModule:
    """Texts of two classes, one of which a stranger has named."""
    labels = ["good|<i>bad</i>", "good"] if several else ["<i>bad</i>", "good"]
    rows = [f'"film {n % 7} {HOSTILE.replace(chr(34), chr(34) * 2)}",{labels[n % 2]}' for n in range(60)]
    (folder / "a.csv").write_text("\n".join(["text,label", *rows]))
    separator = {"label_separator": "|"} if several else {}
    return TextTableDataModule(str(folder / "a.csv"), seed=0, min_count=1, batch_size=7, test_size=0.4, **separator)


@pytest.mark.parametrize("several", [False, True])
def test_a_strangers_text_is_no_markup_and_its_numbers_are_right(several: bool, undrawn: None, tmp_path: Path) -> None:
    torch.manual_seed(0)
    data = table(tmp_path, several)
    made = LabelSetTask if several else ClassificationTask
    task = made(data.in_shape, data.num_classes, net=NET)
    content, numbers = page.build_evaluated(about(task, data))
    tags = Tags(content)
    assert HOSTILE not in content
    assert tags.tags.count("img") == len(re.findall('src="data:image', content)) > 0
    assert tags.tags.count("script") == 2
    assert {"i", "b"} & set(tags.tags) <= {"i"}  # that of a heading
    assert "<i>bad" not in content
    assert "onerror" in tags.text
    store = data.store("test")
    found = task.net(store.take(torch.arange(len(store)))).activations
    if several:
        right = ((found >= 0.5).long() == task.targets(store.labels)).all(dim=1).sum()
    else:
        right = (found.argmax(dim=1) == store.labels).sum()
    assert f"<td>{right} of {len(store)}, 95 %" in content
    rows = list(csv.DictReader(numbers.splitlines()))
    assert [row["name"] for row in rows] == list(data.class_names)
    assert sum(float(row["there"]) for row in rows) == (store.labels >= 0).sum()
    assert ("What is taken for what" in content) is not several


def test_each_word_has_its_color_and_entities_their_mark() -> None:
    found = words_html(Words(["a", "<b", "c"], [0.5, -1.0, 0.0], [0, 2, 0], "x&y"), 1.0)
    assert "<i>x&amp;y</i>" in found
    assert found.count("<mark") == 3
    assert "&lt;b<sub>2</sub>" in found
    assert color(1.0, 1.0) != color(-1.0, 1.0)
    assert color(0.5, 1.0) != color(1.0, 1.0) == color(7.0, 1.0)
    assert color(0.0, 0.0).endswith(",0.00)")
    assert "background" not in words_html(Words(["a"]), 1.0)
    assert "and 50 more" in words_html(Words(["a"] * 250), 1.0)
    assert "&lt;td&gt;" in heat_table([[0.5]], ["<td>"], ["a"], "<b>")


def test_words_of_a_sentence_are_those_of_its_ids_and_heads_are_marked(undrawn: None) -> None:
    data = TemplateRelationsDataModule(size=200, max_length=6, seed=0)  # shorter than sentences are
    net = partial(RelationCapsNet, hidden=4, types=2, dim=3, dim_out=3, dim_words=4, dim_places=2)
    task = ClassificationTask(data.in_shape, data.num_classes, net=net)
    subject = about(task, data)
    assert data.odd["test"][1] > 0
    store = data.store("test")
    for number, text in enumerate(data.texts_of("test")):
        ids = store.take(torch.tensor([number]))[0, 0].tolist()
        pieces = data.pieces(text)
        assert [data.vocabulary.ids.get(piece, 1) for piece in pieces] == ids
        (first,) = re.findall(r"(\w+)</e1>", text)
        assert pieces[int(store.heads[number, 0])] == first.lower()
    content, _ = page.build_evaluated(subject)
    assert content.count("<sub>1</sub>") >= content.count('<div class="passage"><p>') - 1 > 5
    assert "Precision and recall" in content


def test_translations_are_scored_by_length_and_shown(undrawn: None, tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    sacrebleu = pytest.importorskip("sacrebleu")
    torch.manual_seed(0)
    for side in ("a", "b"):
        lines = (f"{' '.join([side + 'x'] * (n % 6 + 1))} <{side}> {n}\n" for n in range(40))
        (tmp_path / side).write_text("".join(lines))
    data = TranslationDataModule(
        source=str(tmp_path / "a"), target=str(tmp_path / "b"), vocabulary_size=280, max_length=20, batch_tokens=200,
        test_size=24, val_size=4, seed=0,
    )  # fmt: skip
    net = partial(Transformer, dim=8, num_heads=2, num_layers=2, hidden=8, layer_aggregation=DynamicRouting)
    task = TranslationTask(data.in_shape, data.num_classes, net=partial(net, layer_parents=2), beam=1)
    content, numbers = page.build_evaluated(about(task, data))
    rows = list(csv.reader(numbers.splitlines()))[1:]
    assert sum(int(float(row[1])) for row in rows) == 24
    assert len(rows) == 5
    for heading in HEADINGS["translation"]:
        assert f"<h2>{heading}</h2>" in content
    assert "&lt;a&gt;" in content
    pairs, ids = data.pairs("test"), data.encoded("test")
    said = [data.said(row) for row in of_translations.translate(task.net, sources(ids, 24), 1)]
    expected = sacrebleu.corpus_chrf(said, [pairs.targets]).score
    assert f"<th>test chrf<td>{expected:.2f}" in content


def sources(store: object, count: int) -> torch.Tensor:
    """The sources of a store's first sentences, as the network takes them."""
    loader = store.take(torch.arange(count))  # type: ignore[attr-defined]
    return loader[0] if isinstance(loader, tuple) else loader[:, 0]


@pytest.mark.nightly
@pytest.mark.parametrize("kind", READERS)
def test_a_page_tells_what_a_test_measures(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = fit(tmp_path, f"--config={kind}.yaml", *READERS[kind])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    main(["test", f"--ckpt_path={checkpoint}", "--runs=tests", "--run_id=one", "--trainer.accelerator=cpu"])
    (path,) = tmp_path.glob("tests/*/*/test/metrics.csv")
    measured = {row["metric"]: float(row["value"]) for row in csv.DictReader(path.open())}
    shared = export(checkpoint, tmp_path / "net.safetensors").path
    for source in (checkpoint, shared):
        written = report(source, tmp_path / f"{source.stem}.html")
        content = written.path.read_text()
        said = dict(re.findall(r"<tr><th>test (\w+)<td>([-\d.e]+)", content))
        assert said
        for name, value in said.items():
            assert float(value) == pytest.approx(measured[f"test/{name}"], rel=2e-3, abs=6e-3), name
        for heading in HEADINGS[kind]:
            assert f"<h2>{heading}</h2>" in content
        assert not re.search(r"\{\{\w+\}\}", content)
        assert written.table.name == f"{source.stem}_numbers.csv"
    with pytest.raises(InputError, match="reads texts; leave --images out"):
        report(shared, tmp_path / "x.html", images=tmp_path)
