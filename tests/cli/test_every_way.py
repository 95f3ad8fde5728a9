"""Every command from elsewhere, without the training data, with a class of one's own, on a terminal, in a log."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from forked import run
from once import once
from PIL import Image
from terminal import Terminal
from tiers import nightly_but

OWN = """from capsule_lightning.routing.uniform import UniformRouting


class MeanRouting(UniformRouting):
    pass
"""
NET = (
    *("--model.net.encoder.channels=4", "--model.net.encoder.num_types=2", "--model.net.encoder.kernel_size=3"),
    *(
        "--model.net.encoder.primary_kernel_size=3",
        "--model.net.decoder=DenseDecoder",
        "--model.net.decoder.hidden=[8]",
        "--trainer.accelerator=cpu",
    ),
)
FIT = ("fit", "--config=image_folder", *NET, "--data.batch_size=4", "--trainer.max_epochs=1")
OWN_ROUTING = "--model.net.routing=my_routing.MeanRouting"


class Home(NamedTuple):
    """A folder with pictures, a routing of one's own, and a run with each of the two routings.

    Attributes:
        folder: the folder.
        other: pictures of the same classes that no run was trained on.
    """

    folder: Path
    other: Path

    def run(self, name: str) -> Path:
        return self.folder / "runs" / "image_folder" / name


def make(folder: Path) -> None:
    (folder / "my_routing.py").write_text(OWN)
    for tree, count in (("photos", 20), ("other", 6)):
        for shade, label in ((40, "cat"), (200, "dog")):
            (folder / tree / label).mkdir(parents=True)
            for number in range(count):
                Image.new("L", (12, 12), shade + number).save(folder / tree / label / f"{number}.png")
    data = ("--data.root=photos", "--data.channels=1", "--data.image_size=[12,12]")
    for name, routing in (("plain", "--model.net.routing=UniformRouting"), ("own", OWN_ROUTING)):
        assert run(folder, *FIT, *data, routing, f"--run_id={name}") == 0, (folder / "output.txt").read_text()[-3000:]
    (folder / "output.txt").unlink()


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Home:
    """A copy for each test, since tests move it and write into it."""
    made, _ = once(tmp_path_factory, "every_way", make)
    folder = Path(shutil.copytree(made, tmp_path / "home"))
    return Home(folder, folder / "other")


#: What is typed, for a run and pictures that it was not trained on, and a part of what is then said.
COMMANDS: dict[str, Callable[[Home, str], tuple[tuple[str, ...], str]]] = {
    "fit": lambda home, name: (
        (*FIT, f"--data.root={home.other}", "--data.channels=1", "--data.image_size=[12,12]", "--data.val_size=4")
        + ((OWN_ROUTING,) if name == "own" else ()),
        r"(?m)^checkpoint:",
    ),
    "test": lambda home, name: (("test", str(home.run(name)), f"--data.root={home.other}"), r"of \d+, 95 % interval"),
    "predict": lambda home, name: (
        ("predict", str(home.run(name)), "--data.images", str(home.other / "cat")),
        r"6 predictions: ",
    ),
    "report": lambda home, name: (
        ("report", str(home.run(name)), "--images", str(home.other)),
        r"wrote .*report\.html",
    ),
    "export": lambda home, name: (
        ("export", str(home.run(name)), "--output", str(home.folder / "net.safetensors")),
        r"wrote .*net\.safetensors",
    ),
    "compare": lambda home, name: (("compare", str(home.folder / "runs")), r"UniformRouting"),
}


def there(home: Home, words: tuple[str, ...]) -> str:
    """In the folder itself; what is said."""
    assert run(home.folder, *words) == 0, (home.folder / "output.txt").read_text()[-3000:]
    return (home.folder / "output.txt").read_text()


def elsewhere(home: Home, words: tuple[str, ...]) -> str:
    away = home.folder.parent / "away"
    away.mkdir()
    assert run(away, *words) == 0, (away / "output.txt").read_text()[-3000:]
    return (away / "output.txt").read_text()


def without_training_data(home: Home, words: tuple[str, ...]) -> str:
    shutil.rmtree(home.folder / "photos")
    return there(home, words)


def on_a_terminal(home: Home, words: tuple[str, ...]) -> str:
    terminal = Terminal(home.folder, *words)
    assert terminal.end() == 0, terminal.text
    assert "━" not in terminal.text  # no bar is left
    return terminal.text


def into_a_log(home: Home, words: tuple[str, ...]) -> str:
    said = there(home, words)
    assert not re.search(r"[\x1b\r]", said)
    return said


WAYS = {
    "elsewhere": (elsewhere, "plain"),
    "training data gone": (without_training_data, "plain"),
    "own class": (there, "own"),
    "terminal": (on_a_terminal, "plain"),
    "log": (into_a_log, "plain"),
}
BY_DAY = [("predict", "elsewhere")]


@pytest.mark.parametrize(("command", "way"), nightly_but(BY_DAY, [(c, w) for c in COMMANDS for w in WAYS]))
def test_every_command_in_every_way(command: str, way: str, home: Home) -> None:
    go, name = WAYS[way]
    words, expected = COMMANDS[command](home, name)
    said = go(home, words)
    assert re.search(expected, said), said
    assert "Traceback" not in said
