"""Whatever stands in a file, a name or a variable: an answer of one line, or the work done; never anything else.

By day a few examples of each; at night as many as ten minutes hold, other ones each time.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from doors import Doors, answered, contents, every_door, go_through, plain, replaced
from hypothesis import strategies as st
from safetensors.torch import save_file

from capsule_lightning.cli import main
from capsule_lightning.cli.configs import resolve
from capsule_lightning.comparison.runs import read_run
from capsule_lightning.comparison.study import read_study
from capsule_lightning.components.run_config import read_resumed_config, read_run_config
from capsule_lightning.data.image_arrays import ImageArrayDataModule
from capsule_lightning.data.image_folder import ImageFolderDataModule
from capsule_lightning.data.prepared import load
from capsule_lightning.runs.checkpoint_files import require_checkpoint
from capsule_lightning.runs.choice import choose
from capsule_lightning.runs.plain_yaml import dump_yaml
from capsule_lightning.sharing.network_file import evaluation_config, images_of, load_network, read_metadata

classes = st.sampled_from(
    ["EMRouting", "torch.optim.SGD", "subprocess.Popen", "os.system", "a.b", "", ".", "MNISTDataModule", "CapsNet"]
)
slots = st.fixed_dictionaries({"class_path": classes | plain}, optional={"init_args": plain, "dict_kwargs": plain})
values = plain | slots


def as_yaml(config: dict[str, Any]) -> bytes:
    try:
        return dump_yaml(config).encode("utf-8", "surrogatepass")
    except (ValueError, TypeError):
        return repr(config).encode("utf-8", "replace")


CONFIG = resolve(["fit"])
STUDY = {"fit": "--config digits", "each": {"model.optimizer.lr": [0.1]}, "seeds": [0], "jobs": 1, "devices": []}
METADATA = read_metadata("efficient_capsnet_mnist")


def config_of_a_run(folder: Path, content: bytes) -> None:
    (folder / "config.yaml").write_bytes(content)
    before = contents(folder)
    for door in (read_run_config, lambda run: read_resumed_config(run, trusts=False), read_run):
        answered(lambda where, _, door=door: door(where), folder, None)
    answered(lambda where, _: resolve(["fit", "--config", str(where / "config.yaml")]), folder, None)
    assert contents(folder) == before


def study(folder: Path, content: bytes) -> None:
    (folder / "study.yaml").write_bytes(content)
    answered(lambda where, _: read_study(str(where / "study.yaml")).trials(), folder, None)


def prepared(folder: Path, files: tuple[bytes, bytes, bytes]) -> None:
    for name, content in zip(("source.json", "images.npy", "labels.npy"), files, strict=True):
        (folder / name).write_bytes(content)
    answered(lambda where, _: load(where), folder, None)


def own_arrays(folder: Path, files: tuple[bytes, bytes]) -> None:
    for name, content in zip(("images.npy", "labels.npy"), files, strict=True):
        (folder / name).write_bytes(content)
    answered(lambda where, _: ImageArrayDataModule(str(where), batch_size=1).setup(), folder, None)


def metadata(folder: Path, said: dict[str, str]) -> None:
    path = folder / "net.safetensors"
    save_file({"a": torch.zeros(1)}, path, said)
    for door in (load_network, evaluation_config, lambda file: images_of(read_metadata(file), file)):
        answered(lambda where, _, door=door: door(path), folder, None)


def checkpoint(folder: Path, content: Any) -> None:
    torch.save(content, folder / "last.ckpt")
    answered(lambda where, _: require_checkpoint(where / "last.ckpt", ("state_dict",)), folder, None)


def name(folder: Path, text: str) -> None:
    for words in (["fit", "--config", text], ["fit", f"--{text}", "1"], [text], ["report", "--ckpt_path", text]):
        answered(lambda _, words: _main(words), folder, words)
    answered(lambda where, text: ImageFolderDataModule(str(where / text)), folder, text)


def variables(folder: Path, environment: dict[str, str]) -> None:
    config = {"experiment": "x", "runs": str(folder), "run_id": None, "ckpt_path": None, "resume": None}
    answered(lambda _, found: choose("fit", config, found), folder, environment)


def _main(words: list[str]) -> None:
    """The program, whose answers end it; what begins to train is not meant here."""
    try:
        main([*words, "--print_config"] if words[0] == "fit" else words)
    except SystemExit as left:
        assert left.code in (0, 2, None)  # noqa: PT017, not all leave


configs = st.builds(as_yaml, st.builds(replaced, st.just(CONFIG), st.floats(0, 1, exclude_max=True), values))
studies = st.builds(as_yaml, st.builds(replaced, st.just(STUDY), st.floats(0, 1, exclude_max=True), values))
arrays = st.binary(max_size=200) | st.builds(
    lambda shape, kind: (
        b"\x93NUMPY\x01\x00v\x00"
        + f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}}}".encode().ljust(117)
        + b"\n"
    ),
    st.lists(st.integers(-1, 2**40), max_size=4).map(tuple),
    st.sampled_from(["|u1", "<i8", "|O", "<f4", "|b1", "x"]),
)
said = st.dictionaries(
    st.sampled_from(sorted(METADATA)),
    st.text(max_size=20) | values.map(lambda value: json.dumps(value, default=str)),
    max_size=3,
).map(
    lambda changed: {**METADATA, **{key: value.encode("utf-8", "replace").decode() for key, value in changed.items()}}
)
tensors = st.just(torch.zeros(2)) | plain
states = plain | st.dictionaries(
    st.sampled_from(["state_dict", "loops", "global_step", "pytorch-lightning_version", "optimizer_states"]),
    st.dictionaries(st.text(max_size=5), tensors, max_size=3) | plain,
)
texts = st.text(max_size=40).filter(lambda text: "\x00" not in text) | st.text("a/.~", max_size=400)
environments = st.dictionaries(
    st.sampled_from(
        [
            "CAPSULE_LIGHTNING_RUN_ID",
            "WANDB_RUN_ID",
            "SLURM_JOB_ID",
            "SLURM_PROCID",
            "SLURM_ARRAY_TASK_ID",
            "SLURM_RESTART_COUNT",
            "TORCHELASTIC_RUN_ID",
            "TORCHELASTIC_RESTART_COUNT",
            "GROUP_WORLD_SIZE",
            "TORCHELASTIC_ERROR_FILE",
            "SLURM_JOB_NAME",
        ]
    ),
    st.text(st.characters(exclude_characters="\x00"), max_size=20),
)

DOORS: Doors = {
    "a run's configuration": (config_of_a_run, configs | st.binary(max_size=300), 3000),
    "a study": (study, studies | st.binary(max_size=300), 3000),
    "prepared data": (
        prepared,
        st.tuples(st.binary(max_size=40) | st.just(b'{"fingerprint": null}'), arrays, arrays),
        3000,
    ),
    "arrays of one's own": (own_arrays, st.tuples(arrays, arrays), 3000),
    "a shared network": (metadata, said, 1500),
    "a checkpoint": (checkpoint, states, 1500),
    "a name": (name, texts, 300),
    "variables": (variables, environments, 3000),
}


@every_door(DOORS)
def test_every_door_answers(door: str, examples: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    through, made, _ = DOORS[door]
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    (tmp_path / "working").mkdir()
    monkeypatch.chdir(tmp_path / "working")
    go_through(through, made, examples, tmp_path / "working")
