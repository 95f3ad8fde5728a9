"""Vectors from the command to the table of predictions."""

import csv

import numpy as np
import pytest
import torch
from trained import LEAN

from capsule_lightning.sharing.network_file import load_network


@pytest.mark.long(10)
def test_a_network_of_vectors_trains_predicts_and_is_loaded(run_main, tmp_path):
    random = np.random.default_rng(0)
    labels = np.arange(120) % 3
    values = random.normal(size=(120, 5)) * 100 + 400 * np.eye(5)[labels]
    lines = ["a,b,c,d,e,label", *(",".join([*map(str, v), "xyz"[n]]) for v, n in zip(values, labels, strict=True))]
    (tmp_path / "omics.csv").write_text("\n".join(lines))
    (tmp_path / "new.csv").write_text("\n".join(line.rpartition(",")[0] for line in lines[:13]))
    start = ("--config", "features.yaml", "--data.path=omics.csv", "--data.batch_size=16", "--trainer.max_epochs=12")
    decoder = ("--model.net.decoder=DenseDecoder", "--model.net.decoder.hidden=[8]")
    cwd = run_main("fit", *start, *decoder, "--run_id=one", "--trainer.accelerator=cpu", LEAN)
    run = cwd / "runs" / "features" / "one"
    checkpoint = str(run / "checkpoints" / "last.ckpt")
    run_main("predict", "--ckpt_path", checkpoint, "--data.images=new.csv", "--output=found.csv")
    with (tmp_path / "found.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert next(iter(rows[0])) == "vector"
    found = [row["prediction"] for row in rows]
    assert sum(a == "xyz"[b] for a, b in zip(found, labels[:12].tolist(), strict=True)) >= 10
    net = load_network(checkpoint)
    assert net.predict(values[:12]).names == found
    assert net.predict(torch.tensor(values[0])).names == found[:1]
    run_main("test", "--ckpt_path", checkpoint)
    assert not list(run.rglob("*reconstructions.png"))  # a vector is no picture
    with pytest.raises(SystemExit) as stopped:
        run_main("report", "--ckpt_path", checkpoint)
    assert stopped.value.code == 2
