"""Networks that translate as files to share: rebuilt from what they state, vocabulary included."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from capsule_lightning.data.subwords import BytePairVocabulary
from capsule_lightning.errors import InputError
from capsule_lightning.models.transformer import Transformer
from capsule_lightning.models.translation_search import limits, translate
from capsule_lightning.report.trained_network import load_from_file
from capsule_lightning.routing.dynamic import DynamicRouting
from capsule_lightning.routing.em import EMRouting
from capsule_lightning.runs.plain_values import path_of
from capsule_lightning.sharing.export import export, load_network
from capsule_lightning.sharing.onnx import onnx_model

pytest.importorskip("tokenizers")

SIZES = {"dim": 16, "num_heads": 2, "num_layers": 2, "hidden": 16, "layer_parents": 4}


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A file as `export` writes it."""
    torch.manual_seed(0)
    net = Transformer((12,), 280, **SIZES, layer_aggregation=EMRouting)
    routing = {"class_path": path_of(EMRouting), "init_args": {}}
    slot = {"class_path": path_of(Transformer), "init_args": {**SIZES, "layer_aggregation": routing}}
    words = BytePairVocabulary.trained(["the king went to the city", "el rey fue a la ciudad"], 270)
    said = {"net": slot, "in_shape": [12], "num_classes": 280, "class_names": [], "vocabulary": words.plain()}
    metadata = {key: json.dumps(value) for key, value in said.items()}
    path = tmp_path / "net.safetensors"
    safetensors.torch.save_file(dict(net.state_dict()), path, {**metadata, "normalization": '{"kind": "none"}'})
    return path


def test_a_network_translates_from_its_file_alone(shared: Path) -> None:
    net = load_network(shared)
    sentences = ["the king", "", "went to the city " * 9]
    said = net.predict(sentences, batch_size=2, beam=2)
    assert said[1] == ""
    assert said[0] == net.predict("the king", beam=2)[0], "alone as in a batch"
    ids = net.reader(sentences)
    assert ids.shape == (3, 13), "cut to what the network takes, and an end"
    assert net.writer(ids[0]) == "the king"
    assert said[0] == net.writer(translate(net, ids[:1], 2)[0])


KINDS = {
    "none": {},
    "linear": {"layer_aggregation": "linear"},
    "dynamic": {"layer_aggregation": DynamicRouting, "head_aggregation": DynamicRouting},
    "past_future": {"past_future": True},
}


@pytest.mark.nightly
@pytest.mark.parametrize("kind", KINDS)
def test_onnx_translates_sentences_of_any_length_word_by_word(kind: str) -> None:
    runtime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    net = Transformer((12,), 40, **SIZES, **KINDS[kind]).eval()
    session = runtime.InferenceSession(onnx_model(net, {}), providers=["CPUExecutionProvider"])
    shapes = {each.name: each.shape for each in (*session.get_inputs(), *session.get_outputs())}
    assert shapes == {
        "source": ["batch", "source_length"],
        "target": ["batch", "target_length"],
        "logits": ["batch", "target_length", 40],
    }
    source = torch.tensor([[5, 9, 31, 7, 3, 0], [8, 3, 0, 0, 0, 0]])
    for rows in (source, source[:1, :5], source[1:, :2]):
        expected = translate(net, rows, 1)
        for row, ours in zip(rows, expected, strict=True):  # as the documentation does it
            target, most = [2], int(limits(net, row[None])[0])
            while target[-1] != 3 and len(target) < most:
                given = {"source": row[None].numpy(), "target": np.array([target])}
                (logits,) = session.run(["logits"], given)
                logits[0, -1, [0, 2]] = -np.inf
                target.append(int(logits[0, -1].argmax()))
            assert target[1:] == ours[: len(target) - 1].tolist()


@pytest.mark.nightly
def test_a_routing_that_onnx_cannot_express_is_refused_in_one_line(shared: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(InputError, match=r"cannot be written as ONNX.*share it as \.safetensors") as refused:
        export(shared, tmp_path / "net.onnx")
    assert "\n" not in str(refused.value)


def test_what_is_not_built_is_refused_in_one_line(shared: Path) -> None:
    with pytest.raises(InputError, match=r"Transformer, which names no classes of images; call report"):
        load_from_file(shared)
    with pytest.raises(InputError, match=r"no texts"):
        load_network(shared).predict([])
    with pytest.raises(InputError, match=r"load_network"):
        Transformer((12,), 280, **SIZES).predict("the king")


@pytest.mark.parametrize(
    "harm",
    [{"vocabulary": '{"kind": "byte_pairs", "tokens": ["a"]}'}, {"in_shape": "[12, 3]"}, {"class_names": '["a"]'}],
)
def test_a_file_that_says_something_else_is_refused(shared: Path, harm: dict[str, str]) -> None:
    with safetensors.safe_open(shared, framework="pt") as file:
        metadata = {**file.metadata(), **harm}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    safetensors.torch.save_file(tensors, shared, metadata)
    with pytest.raises(InputError, match=r"net.safetensors"):
        load_network(shared)
