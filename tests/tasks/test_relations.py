"""Facts of bags, measured by a task as by the metric on all sentences, and what is refused."""

import json
from functools import partial

import lightning as L
import pytest
import torch
from torch.testing import assert_close

from capsule_lightning.callbacks.fact_curve import FactCurve
from capsule_lightning.data.relation_files import NYTDataModule
from capsule_lightning.errors import InputError
from capsule_lightning.metrics.relations import HeldOutFacts
from capsule_lightning.models.relation_capsnet import RelationLinear
from capsule_lightning.tasks.relations import RelationTask

LINEAR = partial(RelationLinear, encoder="cnn", hidden=4, dim_words=4)


def write(path, count, seed):
    random = torch.Generator().manual_seed(seed)
    rows = []
    for number in range(count):
        pair = int(torch.randint(count // 2, (), generator=random))
        relation = ("NA", "part of", "made by")[(pair + number % 2) % 3]
        text = f"thing{number % 5} {'of' if relation == 'part of' else 'by'} other"
        ends = {"h": {"id": f"{seed}-{pair}", "pos": [0, 6]}, "t": {"id": "x", "pos": [len(text) - 5, len(text)]}}
        rows.append(json.dumps({"text": text, "relation": relation, **ends}))
    path.write_text("\n".join(rows))
    return str(path)


@pytest.fixture
def data(tmp_path):
    paths = [write(tmp_path / f"{name}.txt", count, seed) for name, count, seed in (("a", 60, 0), ("b", 30, 1))]
    return NYTDataModule(*paths, batch_size=7, max_length=9, val_size=0.2, seed=0)


def trainer(folder, *callbacks):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    return L.Trainer(max_epochs=1, default_root_dir=folder, callbacks=list(callbacks), **quiet)


def test_facts_of_a_test_are_those_of_all_its_sentences(data, tmp_path):
    torch.manual_seed(0)
    task = RelationTask(data.in_shape, 3, LINEAR, at=(2, 5))
    (logged,) = trainer(tmp_path, FactCurve()).test(task, data, verbose=False)
    store = data.store("test")
    tokens = store.take(torch.arange(30))
    metric = HeldOutFacts(data.class_names.index("NA"), at=(2, 5))
    with torch.no_grad():
        metric.update(task.eval()(tokens[:, :3]).activations, store.labels, store.bags)
    expected = metric.compute()
    assert {"auc", "precision_at_2", "precision_at_5"} == expected.keys()
    for name, value in expected.items():
        assert_close(logged[f"test/fact_{name}"], value.item())
    precision, recall = metric.curve()
    head, *rows = (tmp_path / "facts.csv").read_text().splitlines()
    assert head == "rank,precision,recall"
    numbers = torch.tensor([[float(cell) for cell in row.split(",")] for row in rows], dtype=torch.float64)
    ranks = numbers[:, 0].long() - 1
    assert_close(numbers[:, 1:], torch.stack([precision[ranks], recall[ranks]], dim=1))
    assert numbers[-1, 2] == 1


def test_the_area_is_measured_in_validation_anew_each_time(data, tmp_path):
    task = RelationTask(data.in_shape, 3, LINEAR, at=(2,))
    run = trainer(tmp_path)
    run.fit(task, data)
    first = run.callback_metrics["val/fact_auc"]
    assert 0 < first <= 1
    (again,) = run.validate(task, data, verbose=False)
    assert again["val/fact_auc"] == first
    assert task.selected_by == ("fact_auc", "max")


def test_data_without_a_class_of_no_relation_are_refused(data, tmp_path):
    task = RelationTask(data.in_shape, 3, LINEAR, no_relation="none")
    with pytest.raises(InputError, match="no_relation=none: the relations are NA, made by, part of"):
        trainer(tmp_path).test(task, data, verbose=False)
    with pytest.raises(InputError, match="at="):
        RelationTask(data.in_shape, 3, LINEAR, at=(0,))
