import configparser
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from capsule_lightning.shipped import CONFIG_DIR, config_names

ROOT = CONFIG_DIR.parent


def test_every_folder_of_the_package_is_listed() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    listed = set(setup["options"]["packages"].split())
    found = {
        path.parent.relative_to(ROOT).as_posix().replace("/", ".")
        for path in (ROOT / "capsule_lightning").rglob("__init__.py")
    }
    assert listed == found | {"capsule_lightning.configs"}


def test_a_wheel_holds_every_file_and_finds_the_configs(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, ROOT],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    shown = subprocess.run(
        [sys.executable, "-c", "from capsule_lightning.cli import main; main(['configs'])"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(config_names()) <= set(shown.stdout.split())
    packed, here = (
        {path.relative_to(root) for path in (root / "capsule_lightning").rglob("*") if path.suffix != ".pyc"}
        for root in (tmp_path / "site", ROOT)
    )
    assert {path for path in here if path.suffix and path.name != "__pycache__"} <= packed


@pytest.mark.parametrize("name", ["capsule_lightning", "capsule-lightning"])
def test_the_console_script_answers(name: str) -> None:
    script = Path(sys.executable).with_name(name)
    assert "capsule_lightning" in subprocess.run([script, "--version"], capture_output=True, text=True).stdout


@pytest.mark.nightly  # it imports torch afresh
def test_the_console_script_finds_classes_in_the_working_folder(tmp_path: Path) -> None:
    (tmp_path / "my_routing.py").write_text(
        "from capsule_lightning.routing.dynamic import DynamicRouting\nclass Mine(DynamicRouting): ...\n"
    )
    script = Path(sys.executable).with_name("capsule_lightning")
    words = ("fit", "--model.net.routing", "my_routing.Mine", "--print_config")
    done = subprocess.run([script, *words], cwd=tmp_path, capture_output=True, text=True)
    assert "class_path: my_routing.Mine" in done.stdout, done.stderr
