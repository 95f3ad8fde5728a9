"""Modules of one's own: those that a run names are imported, and only from where the user put them."""

import sys
from pathlib import Path
from types import ModuleType

import pytest

from capsule_lightning.components.own import class_paths, import_modules, import_own
from capsule_lightning.errors import InputError

CODE = "from pathlib import Path\nPath('imported').touch()\n"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose network names `own_part.Mine`; the working folder is beside it."""
    (tmp_path / "runs" / "one" / "checkpoints").mkdir(parents=True)
    net = "{init_args: {routing: {class_path: own_part.Mine}}}"
    config = f"{{data: {{class_path: DigitsDataModule}}, model: {{init_args: {{net: {net}}}}}}}"
    (tmp_path / "runs" / "one" / "config.yaml").write_text(config)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(tmp_path))])
    monkeypatch.delitem(sys.modules, "own_part", raising=False)
    yield tmp_path / "runs" / "one"
    sys.modules.pop("own_part", None)


def checkpoint(run: Path) -> Path:
    return run / "checkpoints" / "last.ckpt"


def test_what_a_run_names_is_imported_from_the_working_folder(run: Path) -> None:
    Path("own_part.py").write_text(CODE)
    import_own(checkpoint(run))
    assert "own_part" in sys.modules
    assert Path("imported").exists()


@pytest.mark.parametrize("place", [".", "checkpoints"])
def test_a_module_of_the_runs_own_folder_is_not_imported(
    place: str, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run / place / "own_part.py").write_text(CODE)
    monkeypatch.chdir(run / place)
    with pytest.raises(InputError, match="whose code lies in the run"):
        import_own(checkpoint(run))
    assert "own_part" not in sys.modules
    assert not list(run.rglob("imported"))


@pytest.mark.parametrize("name", ["capsule_lightning.no.Such", "nowhere.Net", "from_nowhere.Net"])
def test_what_is_not_ones_own_is_left_alone(name: str, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "from_nowhere", ModuleType("from_nowhere"))  # as of code that was never a file
    (run / "config.yaml").write_text(f"model: {{class_path: {name}}}")
    import_own(checkpoint(run))


@pytest.mark.parametrize("name", ["antigravity.x", "this.s", "os.system"])
def test_a_module_of_pythons_own_is_refused(name: str, run: Path) -> None:
    (run / "config.yaml").write_text(f"model: {{class_path: {name}}}")
    with pytest.raises(InputError, match="no class for this place"):
        import_own(checkpoint(run))
    assert not {"antigravity", "this"} & set(sys.modules)


def test_a_module_that_fails_is_named(run: Path) -> None:
    Path("own_part.py").write_text("raise KeyError('oh')")
    with pytest.raises(InputError, match=r"own_part\.Mine: cannot be imported \(KeyError: 'oh'\)") as refused:
        import_own(checkpoint(run))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["own_prat", "no.such", "", ".relative"])
def test_a_module_that_is_not_there_is_named(name: str, run: Path) -> None:
    Path("own_part.py").write_text("")
    with pytest.raises(InputError, match="--import") as refused:
        import_modules([name])
    assert name != "own_prat" or "did you mean 'own_part'" in str(refused.value)


def test_classes_are_found_wherever_they_stand() -> None:
    config = {"class_path": "a.A", "init_args": {"b": [{"class_path": "b.B"}, {"c": {"class_path": "c.C"}}], "d": 1}}
    assert list(class_paths(config)) == ["a.A", "b.B", "c.C"]
