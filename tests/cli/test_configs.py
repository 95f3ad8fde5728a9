"""Layers of YAML and words become one mapping that states everything: no process, no trainer, no network."""

import inspect
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from routings import ROUTINGS

from capsule_lightning.cli.configs import resolve
from capsule_lightning.cli.values import in_words
from capsule_lightning.cli.words import read_words
from capsule_lightning.components.slots import arguments
from capsule_lightning.errors import InputError
from capsule_lightning.runs.plain_yaml import dump_yaml, parse_yaml


def net_of(config: dict) -> dict:
    return config["model"]["init_args"]["net"]["init_args"]


def test_configs_compose_and_the_command_line_wins() -> None:
    config = resolve(["fit", "--config", "mnist.yaml", "--config", "schedule/paper", "--data.batch_size", "64"])
    assert config["data"]["class_path"].endswith("MNISTDataModule")
    assert config["data"]["init_args"]["batch_size"] == 64
    scheduler = config["model"]["init_args"]["lr_scheduler"]
    assert scheduler["class_path"].endswith("ExponentialDecay")
    assert scheduler["init_args"] == {"decay": 0.96, "steps": 2000, "floor": 1e-6}


@pytest.mark.parametrize(
    "words",
    [
        ("--model.net.routing=EMRouting", "--trainer.max_epochs=3", "--config=mnist", "--data.root=/x"),
        ("--config=mnist", "--model.net.routing=EMRouting", "--data.root=/x", "--trainer.max_epochs=3"),
        ("--data.root", "/x", "--config", "mnist", "--trainer.max_epochs", "3", "--model.net.routing", "EMRouting"),
    ],
)
def test_an_option_wins_wherever_it_stands_among_the_files(words: tuple[str, ...]) -> None:
    config = resolve(["fit", *words])
    assert net_of(config)["routing"]["class_path"].endswith("EMRouting")
    assert config["trainer"]["max_epochs"] == 3
    assert config["data"]["init_args"]["root"] == "/x"
    assert config["data"]["class_path"].endswith("MNISTDataModule")


def test_later_files_and_later_words_win() -> None:
    config = resolve(["fit", "--config", "{trainer: {max_epochs: 1}}", "--config", "mnist", "--seed_everything=1"])
    assert config["trainer"]["max_epochs"] == resolve(["fit", "--config", "mnist"])["trainer"]["max_epochs"] != 1
    config = resolve(["fit", "--seed_everything=1", "--config", "digits", "--config", "{seed_everything: 2}"])
    assert config["seed_everything"] == 1
    config = resolve(["fit", "--seed_everything=1", "--seed_everything", "3"])
    assert config["seed_everything"] == 3


def test_routing_is_swapped_by_one_flag() -> None:
    routing = net_of(resolve(["fit", "--config", "mnist.yaml", "--model.net.routing", "UniformRouting"]))["routing"]
    assert routing["class_path"] == "capsule_lightning.routing.uniform.UniformRouting"
    assert routing["init_args"] == {"vote_weights": None}


@pytest.mark.parametrize("words", [("--model.net.decoder", "null"), ("--model.net.init_args.decoder=None",)])
def test_a_part_of_the_network_is_left_out_by_null(words: tuple[str, ...]) -> None:
    net = net_of(resolve(["fit", "--config", "mnist.yaml", *words, "--model.net.dim", "8"]))
    assert net["decoder"] is None
    assert net["dim"] == 8
    assert net["encoder"]["init_args"]["channels"] == 256


def defaults(routing: type) -> dict[str, object]:
    """Plain hyperparameters of a routing, and what they are if nothing is given."""
    known = arguments(routing, given=4)
    return {name: argument.default for name, argument in known.items() if argument.slot is None}


def other_than(value: object) -> object:
    """A value of the same kind that is not the default."""
    if isinstance(value, bool):
        return not value
    return 1 if value is None else value if isinstance(value, str) else value + 1  # type: ignore[operator]


@pytest.mark.parametrize(
    "steps",
    [pytest.param((1, 6), id="two"), pytest.param(range(1, len(ROUTINGS)), id="all", marks=pytest.mark.nightly)],
)
@pytest.mark.parametrize("before", ROUTINGS, ids=lambda cls: cls.__name__)
def test_a_routing_has_its_own_defaults_whatever_it_replaces(before: type, steps: Sequence[int]) -> None:
    chosen = {"class_path": before.__name__, "init_args": {k: other_than(v) for k, v in defaults(before).items()}}
    mine = json.dumps({"model.net": {"init_args": {"routing": chosen}}})
    words = ("fit", "--config", "mnist.yaml", "--config", mine)
    others = [ROUTINGS[(ROUTINGS.index(before) + step) % len(ROUTINGS)] for step in steps]
    overlay = ("--config", f"routing/{others[0].__module__.rsplit('.', 1)[1]}.yaml")
    swaps = [(after, ("--model.net.routing", after.__name__)) for after in others]
    assert net_of(resolve(words))["routing"]["init_args"].items() >= chosen["init_args"].items()
    for after, swap in ((others[0], overlay), *swaps):
        routing = net_of(resolve([*words, *swap]))["routing"]
        assert routing["class_path"] == f"{after.__module__}.{after.__name__}"
        assert set(routing["init_args"]) == set(arguments(after, given=4))
        assert routing["init_args"].items() >= defaults(after).items()


def test_another_class_begins_with_its_own_defaults() -> None:
    words = ("--model.optimizer=torch.optim.SGD", "--model.optimizer.momentum=0.9", "--model.net.encoder")
    config = resolve(["fit", "--config", "mnist.yaml", *words, "EfficientEncoder", "--data", "SVHNDataModule"])
    task, data = config["model"]["init_args"], config["data"]
    default = inspect.signature(torch.optim.SGD).parameters["lr"].default
    assert (task["optimizer"]["init_args"]["lr"], task["optimizer"]["init_args"]["momentum"]) == (default, 0.9)
    # SabourEncoder has an argument of this name too, 9
    assert task["net"]["init_args"]["encoder"]["init_args"]["primary_kernel_size"] is None
    # every data set has these from the class that all are made of
    assert (data["class_path"].split(".")[-1], data["init_args"]["val_size"]) == ("SVHNDataModule", 5000)


@pytest.mark.parametrize("order", [1, -1])
def test_the_arguments_of_a_class_may_be_typed_before_the_class(order: int) -> None:
    words = ["--model.optimizer.lr=0.5", "--model.optimizer=SGD"][::order]
    optimizer = resolve(["fit", *words])["model"]["init_args"]["optimizer"]
    assert optimizer["class_path"] == "torch.optim.SGD"
    assert optimizer["init_args"]["lr"] == 0.5


def test_the_default_class_of_a_signature_does_not_leak_into_another() -> None:
    words = ("fit", "--data", "MNISTDataModule", "--model.net.routing", "HeinsenVectorRouting")
    assert net_of(resolve(words))["routing"]["init_args"]["iterations"] == 2  # 3 in the default, dynamic routing


def test_lists_of_classes_are_added_to() -> None:
    base = [each["class_path"] for each in resolve(["fit"])["trainer"]["callbacks"]]
    words = ("--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/loss")
    added = resolve(["fit", *words])["trainer"]["callbacks"]
    assert [each["class_path"] for each in added] == [*base, "lightning.pytorch.callbacks.EarlyStopping"]
    assert added[-1]["init_args"]["monitor"] == "val/loss"
    assert added[-1]["init_args"]["patience"] == 3
    file = "{trainer: {callbacks+: [{class_path: EarlyStopping, init_args: {monitor: val/loss}}]}}"
    assert resolve(["fit", "--config", "digits", "--config", file])["trainer"]["callbacks"] == added
    assert resolve(["fit", "--trainer.logger=false"])["trainer"]["logger"] is False


def test_keys_of_a_file_may_be_dotted_and_classes_short() -> None:
    one = resolve(["fit", "--config", "digits", "--config", "{model.net.routing: EMRouting, trainer.max_epochs: 2}"])
    other = resolve(["fit", "--config", "digits", "--model.net.routing=EMRouting", "--trainer.max_epochs=2"])
    assert one == other
    whole = "{model: {net: {routing: {iterations: 5}}}}"
    assert net_of(resolve(["fit", "--config", whole, "--config", "digits"]))["routing"]["init_args"]["iterations"] == 5


def test_values_have_the_type_of_their_argument_however_they_are_written() -> None:
    text = (
        "{model: {init_args: {optimizer: {class_path: Adam, init_args: {lr: 1e-3, betas: [0.5, 0.9]}}}}, run_id: '7'}"
    )
    config = resolve(["fit", "--config", "digits", "--config", text, "--experiment", "123", "--data.seed", "null"])
    assert config["model"]["init_args"]["optimizer"]["init_args"]["lr"] == 0.001
    assert config["model"]["init_args"]["optimizer"]["init_args"]["betas"] == [0.5, 0.9]
    assert (config["run_id"], config["experiment"], config["data"]["init_args"]["seed"]) == ("7", "123", None)


@pytest.mark.parametrize(("text", "expected"), [("2", 2), ("1", 1), ("1.0", 1.0), ("0.5", 0.5)])
def test_a_number_of_batches_is_not_a_fraction_of_them(text: str, expected: float) -> None:
    for words in (
        ["--trainer.limit_train_batches", text],
        ["--config", f"{{trainer: {{limit_train_batches: {text}}}}}"],
    ):
        found = resolve(["fit", "--config", "digits", *words])["trainer"]["limit_train_batches"]
        assert (found, type(found)) == (expected, type(expected))


def test_defaults_of_the_task_are_the_papers() -> None:
    config = resolve(["fit", "--data", "MNISTDataModule"])
    assert net_of(config)["routing"]["init_args"]["iterations"] == 3
    assert config["model"]["init_args"]["reconstruction_weight"] == 0.0005
    assert config["model"]["init_args"]["lr_scheduler"]["class_path"].endswith("ExponentialDecay")


def test_digits_are_the_default() -> None:
    config = resolve(["fit"])
    assert config["data"]["class_path"].endswith("DigitsDataModule")
    assert config["experiment"] == "digits"


def test_a_configuration_resolves_to_itself() -> None:
    config = resolve(["fit", "--config", "mnist", "--config", "routing/em", "--trainer.callbacks+=DeviceStatsMonitor"])
    written = parse_yaml(dump_yaml(config), "config.yaml")
    assert resolve(["fit"], written) == config


def test_a_saved_configuration_keeps_the_names_it_was_saved_with() -> None:
    old = {
        "data": {
            "class_path": "capsule_lightning.data.digits.DigitsDataModule",
            "init_args": {
                "augmentation": {"class_path": "capsule_lightning.data.augmentation.Shift", "init_args": {"pixels": 1}},
                "normalisation": "per_image",
            },
        },
        "weights_only": True,
    }
    for config in (resolve(["fit"], old), resolve(["fit", "--config", json.dumps(old)])):
        data = config["data"]["init_args"]
        assert data["augmentation"]["class_path"] == "capsule_lightning.augmentations.geometry.Shift"
        assert data["normalization"] == "per_image"


def test_a_class_of_ones_own_is_found_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere_routing.py").write_text(
        "from capsule_lightning.routing.uniform import UniformRouting\n"
        "class MeanRouting(UniformRouting):\n"
        "    def __init__(self, num_in: int, dim_in: int, num_out: int, dim_out: int, *, sharpness: float = 2.0):\n"
        "        super().__init__(num_in, dim_in, num_out, dim_out)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    routing = net_of(resolve(["fit", "--model.net.routing", "elsewhere_routing.MeanRouting"]))["routing"]
    assert routing == {"class_path": "elsewhere_routing.MeanRouting", "init_args": {"sharpness": 2.0}}


def test_words_are_taken_apart() -> None:
    words = read_words(["fit", "-c", "mnist", "--resume", "--data.seed=-1", "--print_config", "--a.b", "x=y"])
    assert words.configs == ["mnist"]
    assert words.options == [("resume", "newest"), ("data.seed", "-1"), ("a.b", "x=y")]
    assert words.flags == {"print_config"}
    assert words.option("data.seed") == "-1"
    assert words.option("data") is None
    assert words.chooses_data
    assert not read_words(["fit", "--data.seed", "1"]).chooses_data


def test_resume_is_an_option_of_fit_alone() -> None:
    with pytest.raises(InputError, match="no option 'resume'"):
        resolve(["test", "--resume", "one"])


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (int | None, "a whole number"),
        (list[int] | str | int, "a list, such as [1,2] or text or a whole number"),
        (float | torch.Tensor, "a number"),
    ],
)
def test_types_are_told_in_words(annotation: object, expected: str) -> None:
    assert in_words(annotation) == expected


@pytest.mark.parametrize(
    "words", [["--trainer.strategy", "DDPStrategy"], ["--trainer.strategy={class_path: DDPStrategy}"]]
)
def test_a_place_that_takes_a_word_takes_a_class_too(words: list[str]) -> None:
    made = resolve(["fit", *words, "--trainer.strategy.timeout", "0:00:30"])["trainer"]["strategy"]
    assert made["class_path"] == "lightning.pytorch.strategies.DDPStrategy"
    assert made["init_args"]["timeout"] == "0:00:30"
    assert resolve(["fit", "--trainer.strategy", "ddp"])["trainer"]["strategy"] == "ddp"


@pytest.mark.parametrize(
    ("option", "meant"),
    [
        ("epochs", "'trainer.max_epochs'"),
        ("lr", "'model.optimizer.lr'"),
        ("batch_size", "'data.batch_size'"),
        ("exp", "'experiment'"),
        ("trainr.max_epochs", "'trainer.max_epochs'"),
    ],
)
def test_an_option_that_lacks_its_beginning_is_named_whole(option: str, meant: str) -> None:
    with pytest.raises(InputError, match=f"no option '{option}'; did you mean {meant}"):
        resolve(["fit", f"--{option}", "3"])


def test_the_old_spelling_of_an_option_is_understood() -> None:
    data = resolve(["fit", "--config", "mnist.yaml", "--data.normalisation", "per_image"])["data"]["init_args"]
    assert data["normalization"] == "per_image"
    assert "normalisation" not in data
