"""Data of relations: marks, published files in their true form, distances, and what is refused."""

import json

import pytest
import torch
from torch.testing import assert_close

from capsule_lightning.data.marked_sentences import cut, marked, read_nyt, read_semeval, unmarked
from capsule_lightning.data.relation_files import NYTDataModule, SemEvalDataModule
from capsule_lightning.data.template_relations import TemplateRelationsDataModule
from capsule_lightning.errors import InputError

SEMEVAL = """1\t"The <e1>child</e1> was wrapped into the <e2>cradle</e2> by means of a cord."
Content-Container(e1,e2)
Comment: none

2\t"A <e2>key</e2> opens the <e1>door of steel</e1>."
Other
Comment:

"""


def first_batch(data, loader=None):
    return data.on_after_batch_transfer(next(iter(loader or data.train_dataloader())), 0)


def test_marks_are_cut_and_set():
    text = "The <e2>cradle</e2> holds a <e1>child</e1>."
    assert unmarked(text) == "The cradle holds a child."
    assert marked("The cradle holds a child.", (19, 24), (4, 10)) == text
    assert "".join(cut(text).parts) == unmarked(text)


@pytest.mark.parametrize(
    "text",
    ["no entities", "<e1>a</e1> b", "<e1>a</e1> <e1>b</e1>", "<e1>a <e2>b</e2></e1>", "<e1> </e1> <e2>b</e2>"],
)
def test_sentences_that_are_not_marked_are_refused(text):
    with pytest.raises(InputError, match="two marked entities"):
        cut(text)


def semeval(folder, count=40):
    lines = []
    for number in range(count):
        relation = ("Cause-Effect(e2,e1)", "Other", "Cause-Effect(e1,e2)", "Other")[number % 4]
        lines += [f'{number}\t"The <e1>fire</e1> number{number % 4} met the <e2>smoke</e2>."', relation, "Comment:", ""]
    path = folder / "TRAIN_FILE.TXT"
    path.write_text("\n".join(lines))
    return path


def test_semeval_is_read(tmp_path):
    path = tmp_path / "train.txt"
    path.write_bytes(SEMEVAL.replace("\n", "\r\n").encode())  # as it was given out
    first, second = read_semeval(path)
    assert first.relation == "Content-Container(e1,e2)"
    assert cut(second.text).order == (2, 1)
    path.write_text(SEMEVAL.replace("Other\n", "\n", 1))
    with pytest.raises(InputError, match="line 5: no relation"):
        read_semeval(path)


def test_directions_are_neighbors_and_other_is_last(tmp_path):
    data = SemEvalDataModule(str(semeval(tmp_path)), batch_size=4)
    assert list(data.class_names) == ["Cause-Effect(e1,e2)", "Cause-Effect(e2,e1)", "Other"]
    data.setup("fit")
    batch = first_batch(data)
    assert batch.tokens.shape == (4, 3, 7)
    assert batch.bags.unique().numel() == 4  # no sentence is in a bag with another


def test_places_are_distances_from_the_last_word_of_each_entity(tmp_path):
    path = tmp_path / "one.txt"
    path.write_text(SEMEVAL * 8)
    data = SemEvalDataModule(str(path), reach=2, batch_size=2, val_size=0.25)
    ids, heads = data.encoded("A <e2>key</e2> opens the <e1>door of steel</e1>.")
    assert (len(ids), heads) == (8, (6, 1))
    texts = ["A <e2>key</e2> opens the <e1>door of steel</e1>.", "<e1>a</e1> <e2>key</e2>"]
    store = data.stored("predict", texts, torch.zeros(2))
    taken = store.take(torch.tensor([0, 1]))
    assert taken[0, 1:3].tolist() == [[1, 1, 1, 1, 1, 2, 3, 4], [2, 3, 4, 5, 5, 5, 5, 5]]
    assert taken[1, 1:3].tolist() == [[3, 4, 0, 0, 0, 0, 0, 0], [2, 3, 0, 0, 0, 0, 0, 0]]
    assert data.in_shape[1] // 2 == 3  # the id of distance 0


def test_long_sentences_keep_the_words_around_their_entities(tmp_path):
    data = SemEvalDataModule(str(semeval(tmp_path)), max_length=6, batch_size=4)
    before, behind = "x " * 20, " y" * 20
    text = f"{before}<e1>fire</e1> met the <e2>smoke</e2>{behind}"
    store = data.stored("predict", [text], torch.zeros(1, dtype=torch.int64))
    assert store.heads.tolist() == [[1, 4]]
    assert data.vocabulary.decode(store.take(torch.tensor([0]))[0, 0].tolist()).split()[1:5] == [
        "fire",
        "met",
        "the",
        "smoke",
    ]
    assert data.odd["predict"] == (0, 1)
    far = data.stored("predict", [f"<e1>fire</e1>{behind} <e2>smoke</e2>"], torch.zeros(1, dtype=torch.int64))
    assert far.heads.tolist() == [[0, 21]]  # beyond what is read
    assert far.take(torch.tensor([0])).shape == (1, 4, 6)


def nyt_row(text, head, tail, relation="/people/born"):
    pos = {name: [text.index(name), text.index(name) + len(name)] for name in (head, tail)}
    sides = {key: {"id": f"m.{name}", "name": name, "pos": pos[name]} for key, name in (("h", head), ("t", tail))}
    return {"text": text, "relation": relation, **sides}


def test_both_forms_of_nyt_say_the_same(tmp_path):
    text = "Mozart was born in Salzburg , Austria ."
    one, other = tmp_path / "rows.txt", tmp_path / "tabs.txt"
    one.write_text(json.dumps(nyt_row(text, "Mozart", "Salzburg")) + "\n")
    columns = ["m.Mozart", "m.Salzburg", "Mozart", "Salzburg", "/people/born", text]
    other.write_text("\t".join(columns) + " ###END###\n")
    assert read_nyt(one) == read_nyt(other)
    assert read_nyt(one)[0].text == "<e1>Mozart</e1> was born in <e2>Salzburg</e2> , Austria ."
    other.write_text("\t".join(columns[:4]) + "\n")
    with pytest.raises(InputError, match="line 1: 4 columns"):
        read_nyt(other)
    one.write_text('{"text": "no more"}\n')
    with pytest.raises(InputError, match="line 1: is no sentence of relations"):
        read_nyt(one)


def test_a_pair_is_a_bag_and_on_one_side_alone(tmp_path):
    names = [f"Name{number}" for number in range(12)]
    rows = [
        nyt_row(f"{name} {verb} Town .", name, "Town", ("NA", "/people/born")[number % 2])
        for number, name in enumerate(names)
        for verb in ("saw", "left", "met")
    ]
    path = tmp_path / "train.txt"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = NYTDataModule(str(path), batch_size=4, val_size=0.3, test_size=0.3)
    data.setup("fit")
    data.setup("test")
    parts = [data.store("train").bags[data._train], data.store("train").bags[data._val], data.store("test").bags]
    assert sum(len(part) for part in parts) == 36
    assert all(int(part.unique(return_counts=True)[1].min()) == 3 for part in parts)
    assert data.class_names[0] == "NA"
    test = tmp_path / "test.txt"
    test.write_text(json.dumps(rows[0]) + "\n")
    with pytest.raises(InputError, match="1 pairs of entities"):
        NYTDataModule(str(path), str(test))


def test_templates_test_what_training_never_saw():
    data = TemplateRelationsDataModule(size=400)
    plain = [tuple(cut(text).parts[2].split()) for text in data.found.texts]
    assert data.num_classes == 11
    again = TemplateRelationsDataModule(size=400)
    assert data.found.texts == again.found.texts
    listed = zip(data.found.parts, plain, data.found.labels, strict=True)
    said = {(part, words, label) for part, words, (label,) in listed if words != ("that", "the")}  # without the verb
    train, test = ({each[1:] for each in said if each[0] == part} for part in ("train", "test"))
    assert len(train) > len(test) > 0
    assert not train & test
    data.setup("fit")
    batch = first_batch(data)
    assert batch.tokens.dtype == torch.int64
    zero = data.in_shape[1] // 2
    assert_close((batch.tokens[:, 1:] == zero).sum(dim=2), torch.ones(50, 2, dtype=torch.int64))
