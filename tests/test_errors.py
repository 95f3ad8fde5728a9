"""Messages are one line that a terminal shows as it is."""

import pytest

from capsule_lightning.errors import InputError, StoppedError, some_of


@pytest.mark.parametrize("kind", [InputError, StoppedError])
@pytest.mark.parametrize(
    "name", ["a\nb", "\x1b[2Jgone", "tab\t", "caf\udce9", "\u202egnp.exe", "line\u2028end", "nul\0"], ids=ascii
)
def test_names_in_messages_are_escaped(kind, name):
    message = str(kind(f"{name}: cannot be read"))
    assert message.isprintable()
    assert message.endswith(": cannot be read")


def test_what_can_be_printed_stays():
    assert str(InputError("naïve café 漢字 \\n 🙂: no such file")) == "naïve café 漢字 \\n 🙂: no such file"


def test_long_lists_are_cut():
    text = some_of([f"{'x' * 90}{n}" for n in range(50)])
    assert len(text) < 600
    assert text.endswith("and 45 more")
    assert some_of(["y" * 2000]).startswith("...y")
