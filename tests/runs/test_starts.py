"""What a run has recorded of its starts."""

import json
from pathlib import Path

import pytest

from capsule_lightning.runs.starts import ENVIRONMENT_NAME, LONGEST, starts_of, told_of_starts

START = {
    "capsule_lightning": "0.1.0",
    "torch": "2.14.1",
    "commit": "0123456789abcdef",
    "time": "2026-11-26T10:00:00+0000",
}


def test_code_and_command_of_the_last_start_are_told(tmp_path: Path) -> None:
    starts = [{"torch": "2.11.0"}, {**START, "command": "python -m capsule_lightning fit"}]
    (tmp_path / ENVIRONMENT_NAME).write_text(json.dumps({"starts": starts}))
    assert told_of_starts(tmp_path) == {
        "trained with": "capsule_lightning 0.1.0, torch 2.14.1 at commit 0123456789, 2026-11-26",
        "starts": "2; this is the last",
        "command": "python -m capsule_lightning fit",
    }


@pytest.mark.parametrize("text", ["", "{}", '{"starts": 5}', '{"starts": [1, "x"]}', "\x00", '{"starts": [NaN]}'])
def test_a_record_that_says_nothing_tells_nothing(text: str, tmp_path: Path) -> None:
    (tmp_path / ENVIRONMENT_NAME).write_text(text)
    assert told_of_starts(tmp_path) == {}
    assert told_of_starts(tmp_path / "nowhere") == {}
    assert starts_of(tmp_path / "nowhere") == []


def test_odd_values_are_words_of_bounded_length(tmp_path: Path) -> None:
    (tmp_path / ENVIRONMENT_NAME).write_text(
        json.dumps({"starts": [{"torch": [1], "command": "x" * 10_000, "time": 5}]})
    )
    told = told_of_starts(tmp_path)
    assert told["trained with"] == "torch [1], 5"
    assert len(told["command"]) == LONGEST
