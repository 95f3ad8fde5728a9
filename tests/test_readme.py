"""What README.md and the pages under docs/ promise."""

import importlib
import re
import shlex
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import lightning as L
import pytest
import torch
from program import capsule_lightning

from capsule_lightning import capsules
from capsule_lightning.cli.arguments import LightParser
from capsule_lightning.cli.commands import COMMANDS, TRAINING_COMMANDS
from capsule_lightning.cli.configs import resolve
from capsule_lightning.cli.folds import read_plan, words_of_one
from capsule_lightning.cli.words import read_words
from capsule_lightning.comparison.study import read_study
from capsule_lightning.components.slots import Slot, find_class
from capsule_lightning.routing.base import Routing
from capsule_lightning.routing.uniform import UniformRouting
from capsule_lightning.runs.files import read_yaml
from capsule_lightning.shipped import CONFIG_DIR, find_config

ROOT = CONFIG_DIR.parent
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
LINKED = [*PAGES, *(ROOT / name for name in ("CONTRIBUTING.md", "TESTING.md"))]


class Block(NamedTuple):
    """A block of code in a page.

    Attributes:
        page: name of the page.
        language: such as ``sh``.
        text: the code.
    """

    page: str
    language: str
    text: str

    @property
    def file(self) -> str | None:
        """Name of the file that its first line says it is, ``# my_routing.py``; None if it is none."""
        found = re.match(r"# (\w+\.(?:py|yaml))\n", self.text)
        return found and found[1]


def blocks(page: Path) -> list[Block]:
    return [Block(page.name, *found) for found in re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.M | re.S)]


BLOCKS = [block for page in PAGES for block in blocks(page)]


def command_lines(page: Path) -> Iterator[list[str]]:
    """Yield the words after ``capsule_lightning`` of each command line of a page, also of those in sentences."""
    text = page.read_text()
    for block in blocks(page):
        for line in block.text.replace("\\\n", " ").splitlines():
            started = re.search(r"(?:-m capsule_lightning|cluster/slurm\.sh)\s+(.*)", line.split(" #")[0])
            if started and block.language == "sh" and not line.startswith("#"):
                yield shlex.split(started[1])
    for span in re.findall(
        r"`(?:python -m capsule_lightning )?([^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    ):
        words = shlex.split(span) if span.count("'") % 2 == 0 else []
        if len(words) > 1 and words[0] in COMMANDS and words[1].startswith("--"):
            yield words


class UnderstoodError(Exception):
    """A light command's options were parsed; the command itself is not run."""


LINES = [(page.name, words) for page in PAGES for words in command_lines(page)]


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with every file of one's own that the pages write out."""
    for block in BLOCKS:
        if block.file is not None:
            (tmp_path / block.file).write_text(block.text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_the_readme_is_a_page() -> None:
    assert 120 <= len(README.read_text().splitlines()) <= 165  # with the ten lines of Python


def test_a_page_is_found_from_the_index_and_the_files_it_writes_have_names_of_their_own() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    for page in PAGES[1:]:
        assert page.name == "index.md" or f"]({page.name})" in index, page.name
    names = [block.file for block in BLOCKS if block.file is not None]
    assert "my_routing.py" in names
    assert len(names) == len(set(names))


@pytest.mark.parametrize("page", LINKED, ids=lambda page: page.name)
def test_every_file_and_heading_that_a_page_links_to_is_there(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if target.startswith("http"):
            continue
        name, _, heading = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.*)$", file.read_text(), re.M)
            assert heading in [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles], target


def test_every_file_of_the_checkout_that_is_named_in_a_sentence_is_there() -> None:
    named = r"(?:capsule_lightning|configs|benchmarks|notebooks|tests)/[\w./]*\.(?:py|yaml|sh|png|gif|json|ipynb)"
    for page in PAGES:
        for name in set(re.findall(named, page.read_text())):
            example = "routing/mean." in name  # which the page says how to add
            assert example or (ROOT / name).exists(), f"{page.name}: {name}"


def test_every_target_of_make_and_every_extra_that_is_named_is_there() -> None:
    makefile, setup = (ROOT / "Makefile").read_text(), (ROOT / "setup.cfg").read_text()
    for page in LINKED:
        for target in re.findall(r"`make (\w+)`", page.read_text()):
            assert re.search(rf"^{target}:", makefile, re.M), f"{page.name}: make {target}"
        for extra in re.findall(r"pip install [^`]*\[([\w-]+)\]", page.read_text()):
            assert re.search(rf"^{extra} =", setup, re.M), f"{page.name}: [{extra}]"


def test_every_config_that_a_page_names_is_shipped(beside: Path) -> None:
    folders = "|".join(path.name for path in CONFIG_DIR.iterdir() if path.is_dir())
    for page in PAGES:
        names = set(re.findall(rf"`((?:(?:{folders})/)?\w+\.yaml)`", page.read_text()))
        for name in names - {"config.yaml"}:
            find_config(name)
    configs = [value for _, words in LINES for flag, value in pairwise(words) if flag == "--config"]
    assert len(configs) > 30
    for name in configs:
        if not name.startswith("{"):
            assert Path(find_config(name)).resolve().is_relative_to(CONFIG_DIR) or (beside / name).is_file()


def test_every_command_line_of_the_pages_is_understood(beside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"fit", "test", "predict", "report", "export", "compare", "prepare"} <= {words[0] for _, words in LINES}
    parse = LightParser.options

    def parse_alone(parser: LightParser, words: Sequence[str]) -> None:
        parse(parser, words)
        raise UnderstoodError

    monkeypatch.setattr(LightParser, "options", parse_alone)
    seen: set[tuple[str, ...]] = set()
    for page, words in LINES:
        if tuple(words) in seen:
            continue
        seen.add(tuple(words))
        if words[0] in TRAINING_COMMANDS:
            given = read_words(words_of_one(read_plan(words)) if "--folds" in words else words)
            of_texts = (
                given.command == "predict" and given.option("data.texts") is not None
            )  # as their network's run is
            base = read_yaml(find_config("text.yaml")) if of_texts else None  # the run of their network
            assert given.flags or given.help_of or resolve(given, base), f"{page}: {shlex.join(words)}"
        else:
            with pytest.raises(UnderstoodError):
                importlib.import_module(f"capsule_lightning.cli.{COMMANDS[words[0]].module}").run(words)


def test_every_study_that_a_page_writes_out_can_be_run(beside: Path) -> None:
    studies = [block.file for block in BLOCKS if block.file is not None and "\neach:\n" in block.text]
    assert studies
    trials = read_study("my_study.yaml").trials()
    assert len(trials) == 24
    assert trials[0].run_id == "MarginLoss-lr0.001-DenseDecoder-seed0"
    for trial in trials:
        resolve(trial.words)


def test_the_example_routing_works_by_its_dotted_name(beside: Path) -> None:
    mean = find_class("my_routing.MeanRouting", Slot((Routing,)))
    routing, uniform = mean(6, 4, 3, 5, scale=2.0), UniformRouting(6, 4, 3, 5)
    routing.load_state_dict(uniform.state_dict())
    children = capsules.Capsules.from_vectors(torch.rand(2, 6, 4))
    torch.testing.assert_close(routing(children), uniform(children))  # 2 / 6 is 1 / 3
    torch.testing.assert_close(routing.couplings(children), uniform.couplings(children))


def test_the_other_parts_of_ones_own_fit_together(beside: Path) -> None:
    from capsule_lightning.components.build import build

    own = ("--model.net.encoder", "my_encoder.SmallEncoder", "--model.net.decoder", "my_decoder.LinearDecoder")
    more = ("--model.loss", "my_loss.SquaredLoss", "--data", "my_data.StripesDataModule", "--config", "digits.yaml")
    made = build(resolve(["fit", *own, *more, "--trainer.callbacks+", "my_callback.LongestCapsule"]))
    task, data = made.task, made.data
    data.setup("fit")
    batch = data.on_after_batch_transfer(next(iter(data.val_dataloader())), 0)
    output = task.output(batch)
    task.losses(output, batch)["loss"].backward()
    assert output.reconstructions.shape == batch.pictures.shape
    assert all(parameter.grad is not None for parameter in task.net.parameters())


def test_the_first_result_of_the_readme_is_a_seven(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    names = run_blocks("README.md", "load_network")
    lengths = names["capsules"].activations[0]
    assert f"{lengths.argmax()} ({lengths.max():.2f})" in README.read_text()
    assert lengths.argmax() == 7
    assert names["picture"].shape == (1, 1, 28, 28)


@pytest.mark.parametrize("page", ["python.md", "export_and_share.md"])
def test_code_that_trains_nothing_runs(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert run_blocks(page, "", leave_out="Trainer")


@pytest.mark.nightly
def test_code_that_trains_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_blocks("python.md", "DigitsDataModule", change=("max_epochs=12", "max_epochs=1"))
    found = run_blocks("README.md", "DigitsDataModule", change=("max_epochs=12", "max_epochs=4"))
    (accuracy,) = [each["test/accuracy"] for each in L.Trainer(logger=False).test(found["task"], found["data"])]
    assert accuracy > 0.5  # after one epoch of 22 steps it is near chance


def test_code_that_needs_a_download_names_what_is_there() -> None:
    for block in BLOCKS:
        if block.language == "python":
            compile(block.text, block.page, "exec")
            for module, names in re.findall(r"^from (capsule_lightning\S*) import (.*)$", block.text, re.M):
                for name in names.split(", "):
                    assert hasattr(importlib.import_module(module), name), f"{block.page}: {module}.{name}"


@pytest.mark.nightly
def test_the_example_routing_is_trained_tested_shared_and_reported(beside: Path) -> None:
    small = ("--model.net.encoder.channels", "8", "--model.net.encoder.num_types", "2", "--trainer.max_steps", "2")
    own = ("--model.net.routing", "my_routing.MeanRouting", "--model.net.routing.scale", "2")
    checkpoint = "runs/digits/own/checkpoints/last.ckpt"
    for words in (
        ("fit", *own, *small, "--trainer.logger", "MetricsFile", "--run_id", "own"),
        ("test", "--ckpt_path", checkpoint),
        ("predict", "--ckpt_path", checkpoint),
        ("export", "--ckpt_path", checkpoint),
        ("report", "--ckpt_path", checkpoint),
    ):
        done = capsule_lightning(beside, *words)
        assert done.returncode == 0, (words, done.stderr[-2000:])
    assert (beside / "runs/digits/own/checkpoints/last.safetensors").is_file()


@pytest.mark.nightly
def test_the_first_command_of_the_readme_predicts_a_seven(tmp_path: Path) -> None:
    words = ("predict", "--ckpt_path", "efficient_capsnet_mnist", "--data.images")
    assert (README.name, [*words, "docs/digit.png"]) in LINES
    done = capsule_lightning(tmp_path, *words, str(ROOT / "docs" / "digit.png"))
    assert done.returncode == 0, done.stderr
    (table,) = tmp_path.rglob("predictions.csv")
    assert table.read_text().splitlines()[1].split(",")[2:4][0] == "7"


def run_blocks(page: str, needed: str, leave_out: str = "\0", change: tuple[str, str] = ("", "")) -> dict[str, object]:
    """Run the Python code of a page that holds a word and does not hold another, and return its names."""
    names: dict[str, object] = {}
    for block in BLOCKS:
        chosen = block.language == "python" and block.page == page and block.file is None
        if chosen and needed in block.text and leave_out not in block.text:
            assert change[0] in block.text
            exec(block.text.replace(*change) if change[0] else block.text, names)
    return names
