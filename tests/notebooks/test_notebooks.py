"""Every notebook, run from its first cell to its last in an empty folder, and the pictures of the README."""

import ast
import functools
import importlib.util
import os
import re
from pathlib import Path
from types import ModuleType

import nbformat
import pytest
import torch
from forked import call
from matplotlib.figure import Figure
from nbclient import NotebookClient
from PIL import Image
from program import Run
from torch.nn.functional import interpolate, pad

from capsule_lightning.data.digits import DigitsDataModule

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
TINY = {"03_compare_routings": 'routings, seeds, epochs = ["UniformRouting", "ConstantRouting"], [0, 1], 2'}
"""What stands in for the cell tagged ``parameters``, of the notebooks that have one."""


@pytest.fixture(scope="module")
def mnist_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders in the place of MNIST: the embedded digits at its size, 20x20 pixels in the middle of 28x28."""
    root = tmp_path_factory.mktemp("data")
    data = DigitsDataModule()
    for split in ("train", "test"):
        images, labels = data.load(split)
        if split == "train":  # looked for, and not used
            images, labels = images[:20], labels[:20]
        larger = interpolate(images.float(), (20, 20), mode="bicubic").clamp(0, 255)
        for n, (image, label) in enumerate(
            zip(pad(larger, (4, 4, 4, 4)).to(torch.uint8), labels.tolist(), strict=True)
        ):
            folder = root / "mnist" / split / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0].numpy()).save(folder / f"{n}.png")
    return root


@pytest.mark.long(8)
def test_the_first_notebook_runs_by_day(tmp_path: Path) -> None:
    status = call(
        tmp_path, functools.partial(run_cells, FOLDER / "01_first_run.ipynb", {"max_epochs=12": "max_epochs=1"})
    )
    assert status == 0, (tmp_path / "output.txt").read_text()[-3000:]
    assert (tmp_path / "figures.txt").read_text() == "4"


def run_cells(path: Path, instead: dict[str, str]) -> None:
    """Run the cells as plain Python, some text replaced; write down how many of them end in a figure."""
    os.environ["MPLBACKEND"] = "agg"
    names: dict[str, object] = {}
    shown = []
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            source = "\n".join(line for line in cell.source.splitlines() if not line.startswith("%"))
            for text, other in instead.items():
                source = source.replace(text, other)
            *most, last = ast.parse(source).body
            assert isinstance(last, ast.Expr)
            exec(compile(ast.Module(most, []), path.name, "exec"), names)
            shown.append(eval(compile(ast.Expression(last.value), path.name, "eval"), names))
    Path("figures.txt").write_text(str(sum(isinstance(value, Figure) for value in shown)))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_stored_with_what_it_shows_and_names_no_place_of_a_machine(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    pictures = 0
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        pictures += sum("image/png" in output.get("data", {}) for output in cell.outputs)
        assert not any(output.get("name") == "stderr" or output.output_type == "error" for output in cell.outputs)
        shown = "".join(output.get("text", "") + str(output.get("data", "")) for output in cell.outputs)
        assert not re.search(r"/(home|root|tmp|work|Users|usr)/|site-packages", shown)
    assert pictures >= 2
    assert path.stat().st_size < 4_000_000


@pytest.mark.nightly
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path: Path, tmp_path: Path, mnist_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAPSULE_LIGHTNING_DATA", str(mnist_root))
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    before = [pictures_of(cell) for cell in code]
    tagged = [n for n, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == (path.stem in TINY)
    for n in tagged:
        notebook.cells.insert(n + 1, nbformat.v4.new_code_cell(TINY[path.stem]))
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert [pictures_of(cell) for cell in code] == before  # those of the cells as they are
    outputs = [output for cell in code for output in cell.outputs]
    warned = [output.text for output in outputs if output.get("name") == "stderr" and "Warning" in output.text]
    assert not warned


def pictures_of(cell: nbformat.NotebookNode) -> int:
    return sum("image/png" in output.get("data", {}) for output in cell.outputs)


@pytest.fixture
def readme_pictures(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, with few images."""
    spec = importlib.util.spec_from_file_location("readme_pictures", FOLDER / "readme_pictures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "PROBED", 20)
    monkeypatch.setattr(module, "FITTED", 40)
    return module


@pytest.mark.nightly
def test_readme_pictures_of_the_shipped_network_are_small(
    readme_pictures: ModuleType, mnist_root: Path, tmp_path: Path
) -> None:
    readme_pictures.main(["--root", str(mnist_root), "--output", str(tmp_path)])
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert sizes.keys() == {"reconstructions.png", "dimensions.png", "dials.gif", "poses.png", "votes.png"}
    for name, size in sizes.items():
        assert size < (500_000 if name.endswith("gif") else 150_000)
        with Image.open(tmp_path / name) as picture:
            assert 800 <= picture.width <= 1500
            assert getattr(picture, "n_frames", 1) == (12 if name == "dials.gif" else 1)


def test_readme_pictures_of_a_run_whose_capsules_have_places(
    readme_pictures: ModuleType, trained: Run, tmp_path: Path
) -> None:
    checkpoint = trained.folder / "checkpoints" / "last.ckpt"
    readme_pictures.main(["--ckpt_path", str(checkpoint), "--pictures", "votes", "poses", "--output", str(tmp_path)])
    assert {path.name for path in tmp_path.iterdir()} == {"votes.gif", "poses.png"}
    with Image.open(tmp_path / "votes.gif") as votes:
        assert votes.n_frames == 3  # iterations


def test_readme_pictures_say_what_is_missing(
    readme_pictures: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        readme_pictures.main(["--ckpt_path", str(tmp_path / "none.safetensors")])
    assert "none.safetensors: no such file" in capsys.readouterr().err
