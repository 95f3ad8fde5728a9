"""What the user trusts is one file to the last byte; whatever else there is, is not trusted."""

from pathlib import Path

import pytest

from capsule_lightning.runs.trust import STATE_VARIABLE, is_trusted, trust


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(STATE_VARIABLE, str(tmp_path / "state"))
    path = tmp_path / "config.yaml"
    path.write_text("model: mine.Task\n")
    return path


def test_nothing_is_trusted_until_the_user_says_so_and_only_as_it_was(config: Path) -> None:
    assert not is_trusted(config)
    trust(config)
    trust(config)
    assert is_trusted(config)
    (listed,) = (config.parent / "state").rglob("trusted_runs")
    assert len(listed.read_text().split()) == 1
    copy = config.with_name("copy.yaml")
    copy.write_bytes(config.read_bytes())
    assert is_trusted(copy)
    config.write_text("model: mine.Other\n")
    assert not is_trusted(config)
    trust(config)
    assert is_trusted(config)
    assert is_trusted(copy)


def test_a_list_that_cannot_be_read_trusts_nothing(config: Path) -> None:
    trust(config)
    (listed,) = (config.parent / "state").rglob("trusted_runs")
    listed.write_bytes(b"\xff\xfe\x00" + listed.read_bytes())
    assert not is_trusted(config)


def test_a_file_that_is_not_there_is_not_trusted(config: Path) -> None:
    trust(config.with_name("none.yaml"))
    assert not is_trusted(config.with_name("none.yaml"))


def test_where_no_note_can_be_kept_nothing_is_trusted(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STATE_VARIABLE, str(config))  # a file, and no folder
    trust(config)
    assert not is_trusted(config)
    monkeypatch.setenv(STATE_VARIABLE, "~nobody.0")
    trust(config)
    assert not is_trusted(config)
