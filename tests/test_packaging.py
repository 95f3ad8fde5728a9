import configparser
import os
import subprocess
import sys
import zipfile
from pathlib import Path

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


def test_a_wheel_holds_and_finds_the_configs(tmp_path: Path) -> None:
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
    assert shown.stdout.split() == config_names()


def test_the_console_script_answers() -> None:
    script = Path(sys.executable).with_name("capsule-lightning")
    assert "capsule_lightning" in subprocess.run([script, "--version"], capture_output=True, text=True).stdout
