"""Shared networks: what is refused of a file from elsewhere, and the commands that take one like a checkpoint."""

import csv
import json
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from trained import fit

from capsule_lightning.cli import main
from capsule_lightning.cli.arguments import LightParser, add_network, network_chosen
from capsule_lightning.cli.measured import base_of_network
from capsule_lightning.cli.words import read_words
from capsule_lightning.errors import InputError
from capsule_lightning.report import load_from_file, load_from_run
from capsule_lightning.sharing.export import export
from capsule_lightning.sharing.network_file import evaluation_config, is_shared, load_network, read_metadata

DYNAMIC = "capsule_lightning.routing.dynamic.DynamicRouting"


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a network for the embedded digits."""
    return fit(tmp_path_factory.mktemp("digits"), "--config", "digits.yaml")


def edited(path: Path, tensors: Callable[[dict], object] = id, metadata: Callable[[dict], object] = id) -> Path:
    """A safetensors file with changed tensors or metadata."""
    state, said = load_file(path), read_metadata(path)
    tensors(state)
    metadata(said)
    save_file(state, path, said)
    return path


@pytest.fixture(scope="module")
def exported(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(digits, tmp_path_factory.mktemp("exported") / "shared.safetensors").path


@pytest.fixture
def shared(exported: Path, tmp_path: Path) -> Path:
    """A good file."""
    return Path(shutil.copy(exported, tmp_path))


def without_metadata(path: Path) -> None:
    save_file(load_file(path), path)


def with_net(change: Callable[[dict], object]) -> Callable[[Path], object]:
    def edit(said: dict) -> None:
        slot = json.loads(said["net"])
        change(slot)
        said["net"] = json.dumps(slot)

    return lambda path: edited(path, metadata=edit)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (lambda path: path.unlink(), ["no such file"]),
        (lambda path: path.write_bytes(b""), ["not a safetensors file"]),
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), ["not a safetensors file", "a part"]),
        (lambda path: torch.save({"a": torch.zeros(1)}, path), ["not a safetensors file"]),
        (without_metadata, ["lack net, in_shape, num_classes"]),
        (partial(edited, tensors=lambda s: s.pop("routing.weight")), ["routing.weight", "none"]),
        (partial(edited, tensors=lambda s: s.update(other=torch.zeros(2))), ["other", "(2,)"]),
        (
            with_net(lambda net: net["init_args"].update(dim=12)),
            ["routing.weight", "(64, 10, 16, 8)", "(64, 10, 12, 8)"],
        ),
        (with_net(lambda net: net["init_args"].update(dims=12)), ["cannot be built", "dims"]),
        (with_net(lambda net: net.update(class_path="no.such.Net")), ["cannot be built", "no.such.Net"]),
        (with_net(lambda net: net["init_args"]["routing"]["init_args"].update(iterations=0)), ["iterations=0"]),
        (partial(edited, metadata=lambda m: m.update(net="{")), ["cannot be built"]),
        (partial(edited, metadata=lambda m: m.update(in_shape="8")), ["cannot be built"]),
    ],
)
def test_a_file_that_cannot_be_loaded_says_why(
    fault: Callable[[Path], object], expected: list[str], shared: Path
) -> None:
    fault(shared)
    with pytest.raises(InputError) as refused:
        load_network(shared)
    message = str(refused.value)
    assert str(shared) in message
    assert "\n" not in message
    assert all(word in message for word in expected), message


@pytest.mark.parametrize("form", ["slot", "text", "keywords"])
@pytest.mark.parametrize("place", ["net", "encoder"])
@pytest.mark.parametrize("harm", ["os.system", "subprocess.Popen"])
def test_a_file_cannot_run_code(harm: str, place: str, form: str, shared: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    words = {"command": f"touch {trace}"} if harm == "os.system" else {"args": ["touch", str(trace)]}
    call = {"class_path": harm, "init_args" if form == "slot" else "dict_kwargs": words}

    def plant(said: dict) -> None:
        net = json.loads(said["net"])
        net["init_args"]["encoder"] = json.dumps(call) if form == "text" else call
        planted = net if place == "encoder" else net["init_args"]["encoder"]
        said["net"] = json.dumps(planted)

    edited(shared, metadata=plant)
    with pytest.raises(InputError, match="cannot be built"):
        load_network(shared)
    assert not trace.exists()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.delenv("CAPSULE_LIGHTNING_RUN_ID", raising=False)
    return folder


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_a_shared_network_predicts_and_is_tested_as_its_checkpoint(digits: Path, shared: Path, here: Path) -> None:
    undrawn = ("--trainer.accelerator", "cpu", "--without", "ReconstructionFigures", "ConfusionFigure")
    main(["predict", "--ckpt_path", str(shared), *undrawn])
    main(["predict", "--ckpt_path", str(digits), "--trainer.callbacks+=PredictionTable", *undrawn])
    (mine,) = here.glob("runs/shared/*/predict/predictions.csv")
    (its,) = digits.parents[1].glob("predict/predictions.csv")
    assert rows(mine) == rows(its)
    assert len(rows(mine)) == 361
    main(["test", "--ckpt_path", str(shared), *undrawn])
    main(["test", "--ckpt_path", str(digits), *undrawn])
    (mine,) = here.glob("runs/shared/*/test/metrics.csv")
    (its,) = digits.parents[1].glob("test/metrics.csv")
    tested = [[row[1:] for row in rows(path) if row[2].startswith("test/")] for path in (mine, its)]
    assert len(tested[0]) >= 3
    assert [row[1:] for row in tested[0]] == [row[1:] for row in tested[1]]  # but for the step, which is not known


def test_the_network_that_is_shipped_reads_a_picture_of_ones_own(here: Path) -> None:
    picture = Image.new("L", (280, 280))
    picture.paste(255, (130, 40, 150, 240))
    picture.save(here / "one.png")
    words = ("--data.images", "one.png", "--trainer.accelerator", "cpu")
    main(["predict", "--ckpt_path", "efficient_capsnet_mnist", *words])
    (table,) = here.glob("runs/efficient_capsnet_mnist/*/predict/predictions.csv")
    head, row = rows(table)
    assert (row[head.index("image")], row[head.index("prediction")]) == ("one.png", "1")


@pytest.mark.nightly
@pytest.mark.parametrize("command", ["validate", "test"])
def test_a_shared_network_is_measured_on_the_images_of_its_run(
    command: str, tmp_path_factory: pytest.TempPathFactory, here: Path
) -> None:
    checkpoint = fit(tmp_path_factory.mktemp("seed3"), "--config", "digits.yaml", "--seed_everything", "3")
    shared = export(checkpoint, here / "three.safetensors").path
    measured = []
    for path, folder in ((shared, here / "runs" / "three"), (checkpoint, checkpoint.parents[2])):
        main([command, "--ckpt_path", str(path), "--trainer.limit_val_batches", "1.0"])
        (table,) = folder.glob(f"*/{command}/metrics.csv")
        measured.append({row[2]: row[3] for row in rows(table) if "/" in row[2]})
    assert measured[0] == measured[1]
    assert len(measured[0]) >= 3


@pytest.fixture
def folders(here: Path) -> Path:
    """Images of two classes, in trees whose classes have the names ``ab`` and ``cd``; one tree brighter."""
    for names, light in (("ab", 60), ("cd", 200)):
        for k, name in enumerate(names):
            folder = here / names / name
            folder.mkdir(parents=True)
            for n in range(12):
                Image.new("L", (8, 8), light + 40 * k + n).save(folder / f"{n}.png")
    return here


def test_a_shared_network_keeps_its_normalization_and_refuses_other_classes(
    folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ("--data.channels", "1", "--data.image_size", "[8,8]", "--data.batch_size", "4", "--data.val_size", "4")
    net = ("--model.net.encoder.kernel_size", "3", "--model.net.encoder.primary_kernel_size", "3")
    checkpoint = fit(folders, "--config", "image_folder.yaml", "--data.root", str(folders / "ab"), *small, *net)
    (folders / "ab").rename(folders / "gone")  # nothing but the network is needed
    shared = export(checkpoint, folders / "net.safetensors").path
    for about in (load_from_run(checkpoint, images=folders / "gone"), load_from_file(shared, images=folders / "gone")):
        assert about.labels.bincount().tolist() == [12, 12]
        assert about.normalize(about.pictures).mean().abs() < 0.2
    images = ("--data.images", str(folders / "cd" / "c"), "--data.root", str(folders / "ab"))
    main(["predict", "--ckpt_path", str(shared), *images])
    (table,) = folders.glob("runs/net/*/predict/predictions.csv")
    net = load_network(shared)
    normalization = json.loads(read_metadata(shared)["normalization"])
    image = torch.full((1, 1, 8, 8), 200 / 255)
    with torch.no_grad():
        lengths = net((image - normalization["mean"][0]) / normalization["deviation"][0]).activations[0]
    found = next(row for row in rows(table) if row[0].endswith("0.png"))
    assert [float(number) for number in found[-2:]] == pytest.approx(lengths.tolist(), abs=1e-5)
    main(["predict", str(checkpoint), *images[:2]])
    (again,) = folders.glob("runs/image_folder/one/predict/predictions.csv")
    assert rows(again) == rows(table)
    assert load_network(checkpoint).predict(folders / "cd" / "c" / "0.png").lengths.tolist() == [
        pytest.approx(lengths.tolist(), abs=1e-5)
    ]

    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(["predict", "--ckpt_path", str(shared), "--data.root", str(folders / "cd")])
    assert stopped.value.code == 2
    assert "was trained on the 2 classes a, b, and these data have 2: c, d" in capsys.readouterr().err


def test_other_options_of_the_network_are_named(shared: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["predict", "--ckpt_path", str(shared), "--model.net.dim", "3"])
    assert stopped.value.code == 2
    assert "is of another network: routing.weight" in capsys.readouterr().err


def test_a_misspelt_name_is_mended(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("test", "report"):
        with pytest.raises(SystemExit) as stopped:
            main([command, "--ckpt_path", "efficient_capsnet_mnis"])
        assert stopped.value.code == 2
        assert "did you mean 'efficient_capsnet_mnist'" in capsys.readouterr().err


def test_a_path_is_no_name(here: Path) -> None:
    (here / "other.ckpt.safetensors").touch()
    assert not is_shared(here / "other.ckpt")
    assert not is_shared("../pretrained/efficient_capsnet_mnist")


@pytest.mark.parametrize(
    "said",
    [
        {"class_names": "nonsense"},
        {"class_names": '["a"]'},
        {"class_names": json.dumps([1] * 10)},
        {"normalization": "[]"},
        {"normalization": '{"kind": "other"}'},
        {"normalization": '{"kind": "channel", "mean": [0.1, 0.2], "deviation": [1.0]}'},
        {"normalization": '{"kind": "channel", "mean": "x", "deviation": [1.0]}'},
    ],
)
@pytest.mark.parametrize("command", ["report", "predict"])
def test_what_is_said_of_the_images_is_checked(
    command: str, said: dict[str, str], shared: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edited(shared, metadata=lambda metadata: metadata.update(said))
    with pytest.raises(SystemExit) as stopped:
        main([command, "--ckpt_path", str(shared)])
    assert stopped.value.code == 2
    assert "class_names and normalization cannot be used" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["net", "encoder"])
@pytest.mark.parametrize("name", ["innocent.Thing", "antigravity.x", "torch.nn.Linear", "torchvision.models.AlexNet"])
def test_a_file_cannot_import_or_make_what_is_no_capsule_network(
    name: str, place: str, shared: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "innocent.py").write_text("from pathlib import Path\nPath('trace').touch()\n")
    monkeypatch.syspath_prepend(here)

    def plant(said: dict) -> None:
        net = json.loads(said["net"])
        slot = {"class_path": name, "init_args": {}}
        said["net"] = json.dumps(slot if place == "net" else {**net, "init_args": {"encoder": slot}})

    edited(shared, metadata=plant)
    with pytest.raises(InputError, match="cannot be built"):
        load_network(shared)
    with pytest.raises(InputError, match="cannot be used"):
        evaluation_config(shared)
    assert not (here / "trace").exists()
    assert "antigravity" not in sys.modules


OWN = """
from capsule_lightning.routing.dynamic import DynamicRouting

class Mine(DynamicRouting):
    pass
"""


@pytest.mark.parametrize("module", ["own_routing", "own_package.routing"])
def test_a_class_of_ones_own_is_found_once_its_module_is_imported(
    module: str, shared: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "own_package").mkdir()
    for path in (here / "own_package" / "routing.py", here / "own_routing.py"):
        path.write_text(OWN)
    edited(shared, metadata=lambda said: said.update(net=said["net"].replace(DYNAMIC, f"{module}.Mine")))
    with pytest.raises(InputError, match=f"if it is your own, add --import {module}"):
        load_network(shared)
    monkeypatch.setattr(sys, "path", [*sys.path, str(here)])
    words = LightParser("report")
    add_network(words)
    try:
        assert network_chosen(words.options([str(shared), "--import", module])) == str(shared)
        assert type(load_network(shared).routing).__name__ == "Mine"
    finally:
        for name in ("own_routing", "own_package.routing", "own_package"):
            sys.modules.pop(name, None)


def test_the_network_that_a_name_means_is_printed(digits: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = LightParser("report")
    add_network(words)
    assert network_chosen(words.options(["--ckpt_path", str(digits)])) == str(digits)
    assert capsys.readouterr().out == ""  # which has been named
    found = network_chosen(words.options(["--ckpt_path", str(digits.parents[1])]))
    assert Path(found).parent == digits.parent
    assert capsys.readouterr().out == f"network: {found}\n"


def test_a_checkpoint_outside_its_run_states_how_it_is_evaluated(digits: Path, here: Path) -> None:
    alone = here / "alone.ckpt"
    alone.write_bytes(digits.read_bytes())
    found = base_of_network(read_words(["test", "--ckpt_path", str(alone)]), str(alone))
    assert found["data"]["class_path"].endswith("DigitsDataModule")
    assert not {"root", "images", "download"} & set(found["data"]["init_args"])
    assert found["model"]["init_args"]["reconstruction_weight"] == 0.02
    assert base_of_network(read_words(["test", "--ckpt_path", str(digits)]), str(digits)) is None  # its run does
    assert base_of_network(read_words(["test", "--config", "mnist"]), str(alone)) is None  # other data are chosen


@pytest.mark.nightly  # by day its configuration is compared
def test_a_checkpoint_outside_its_run_is_tested_as_within_it(digits: Path, here: Path) -> None:
    (here / "alone.ckpt").write_bytes(digits.read_bytes())
    measured = []
    for path, folder in ((digits, digits.parents[1]), (here / "alone.ckpt", here / "runs" / "alone")):
        main(["test", str(path), "--trainer.limit_test_batches", "1.0"])
        (table,) = [*folder.glob("test/metrics.csv"), *folder.glob("*/test/metrics.csv")]
        measured.append({row[2]: row[3] for row in rows(table) if row[2].startswith("test/")})
    assert measured[0] == measured[1]


HARMFUL = [{"class_path": "os.system"}, {"class_path": "antigravity.x"}, "os.system"]


@pytest.mark.parametrize("planted", HARMFUL, ids=str)
@pytest.mark.parametrize("slot", ["net", "loss", "data"])
def test_a_checkpoint_from_elsewhere_names_no_code(slot: str, planted: object, digits: Path, here: Path) -> None:
    found = torch.load(digits, weights_only=True)
    if slot == "data":
        found["trained_on"]["slot"]["init_args"]["augmentation"] = planted
    else:
        found["hyper_parameters"][slot] = planted
    torch.save(found, here / "alone.ckpt")
    with pytest.raises(InputError, match=r"cannot be used|cannot be built|cannot be prepared"):
        base_of_network(read_words(["test"]), str(here / "alone.ckpt"))
    assert "antigravity" not in sys.modules


def test_a_file_does_not_choose_folders(shared: Path) -> None:
    def plant(said: dict) -> None:
        data = json.loads(said["data"])
        data["init_args"] |= {"root": "planted", "images": "planted"}
        said["data"] = json.dumps(data)

    edited(shared, metadata=plant)
    assert not {"root", "images"} & set(evaluation_config(shared)["data"]["init_args"])


def test_training_cannot_go_on_from_weights(shared: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--ckpt_path", str(shared)])
    assert stopped.value.code == 2
    assert "holds weights alone" in capsys.readouterr().err
    assert not list(here.iterdir())


@pytest.mark.parametrize("missing", ["task", "data"])
def test_a_file_that_does_not_say_how_it_is_evaluated(missing: str, shared: Path) -> None:
    edited(shared, metadata=lambda said: said.pop(missing))
    load_network(shared)
    with pytest.raises(InputError, match=f"does not state its {missing}; export it again"):
        evaluation_config(shared)


HARM = {
    "class": lambda call: call,
    "argument": lambda call: {"class_path": "capsule_lightning.data.digits.DigitsDataModule", "init_args": {"a": call}},
    "listed": lambda call: {"class_path": "capsule_lightning.data.digits.DigitsDataModule", "init_args": {"a": [call]}},
}


@pytest.mark.parametrize("how", HARM)
@pytest.mark.parametrize(
    "call",
    [
        {"class_path": "os.system", "init_args": {"command": "touch trace"}},
        {"class_path": "capsule_lightning.data.digits.DigitsDataModule", "dict_kwargs": {"a": 1}},
        {"class_path": "capsule_lightning.callbacks.checkpoint.RunCheckpoint"},
        '{"class_path": "os.system"}',
        "os.system",
        "/etc/passwd",
        {"init_args": "os.system"},
    ],
)
@pytest.mark.parametrize("slot", ["task", "data", "net"])
def test_nothing_that_could_be_called_reaches_the_parser(
    slot: str, call: object, how: str, shared: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edited(shared, metadata=lambda said: said.update({slot: json.dumps(HARM[how](call))}))
    with pytest.raises(SystemExit) as stopped:
        main(["predict", "--ckpt_path", str(shared)])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(shared) in line
    assert "configuration cannot be used" in line
    assert not list(here.iterdir())
