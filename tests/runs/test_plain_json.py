import json

import pytest

from capsule_lightning.errors import InputError
from capsule_lightning.runs.plain_json import MOST_CHARACTERS, parse_json


@pytest.mark.parametrize("value", [{"a": [1, 2.5, None, True, "é \U0001f600"]}, [], "text", 7, None, {"": {}}])
def test_what_json_writes_is_read_back(value: object) -> None:
    assert parse_json(json.dumps(value), "x") == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[1,]",
        "nan",
        "NaN",
        "[Infinity]",
        "1" * 5000,
        "[" * 200_000,
        '{"a":' * 100_000,
        "\x00",
        '"\n"',
        "{5: 1}",
    ],
    ids=lambda text: text[:8],
)
def test_what_is_no_plain_json_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(InputError) as refused:
        parse_json(text, "source.json", "make it anew")
    assert str(refused.value).isprintable()
    assert str(refused.value).startswith("source.json: ")
    assert str(refused.value).endswith("; make it anew")


def test_a_text_that_is_too_long_is_not_parsed() -> None:
    with pytest.raises(InputError, match="characters"):
        parse_json("[" + "1," * (MOST_CHARACTERS // 2) + "1]", "x")
