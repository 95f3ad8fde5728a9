"""Files of runs: written whole or not at all, and read without harm whatever they hold."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from capsule_lightning.errors import InputError, StoppedError
from capsule_lightning.runs import plain_yaml
from capsule_lightning.runs.files import MOST_BYTES, make_whole, open_whole, read_metrics, read_yaml, write_whole
from capsule_lightning.runs.plain_yaml import dump_yaml, parse_yaml
from capsule_lightning.shipped import CONFIG_DIR

FULL = Path("/dev/full")  # a device without room


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A file that is to be replaced."""
    path = tmp_path / "table.csv"
    path.write_text("before")
    return path


def left_over(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.endswith(".partial")]


# Writing.


def test_what_is_written_stands_there_and_nothing_beside_it(place: Path) -> None:
    write_whole(place, "é\n")
    assert place.read_bytes() == "é\n".encode()
    write_whole(str(place), b"\xff")
    assert place.read_bytes() == b"\xff"
    write_whole(place.with_name("new"), "a name \udce9")  # of a file whose name is not UTF-8
    assert place.with_name("new").read_bytes() == rb"a name \udce9"
    assert sorted(path.name for path in place.parent.iterdir()) == ["new", "table.csv"]


def test_the_file_has_the_rights_that_others_expect(place: Path) -> None:
    before = os.umask(0o027)
    try:
        write_whole(place, "x")
    finally:
        os.umask(before)
    assert place.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("moment", ["write", "fsync"])
def test_a_kill_leaves_what_was_there(place: Path, moment: str) -> None:
    code = (
        "import os, signal; from capsule_lightning.runs.files import open_whole\n"
        "kill = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"with open_whole({str(place)!r}) as file:\n"
        "    file.write(bytes(10**6))\n"
        f"    {'kill()' if moment == 'write' else 'os.fsync = kill'}\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -signal.SIGKILL
    assert place.read_text() == "before"
    write_whole(place, "after")  # what the killed process has left is in nobody's way
    assert place.read_text() == "after"


def test_a_full_disk_leaves_what_was_there(place: Path) -> None:
    code = (
        "import resource, signal; from capsule_lightning.runs.files import write_whole\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
        f"write_whole({str(place)!r}, bytes(10**6))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert "InputError" in done.stderr
    assert "table.csv: cannot be written (File too large)" in done.stderr
    assert place.read_text() == "before"
    assert not left_over(place.parent)


def test_the_error_is_the_callers_and_gives_its_remedy(place: Path) -> None:
    def fill() -> None:
        with open_whole(place, remedy="make room", error=StoppedError), FULL.open("wb", buffering=0) as full:
            full.write(b"x")

    with pytest.raises(StoppedError, match=r"table\.csv: cannot be written \(No space left on device\); make room$"):
        fill()
    assert place.read_text() == "before"
    assert not left_over(place.parent)


def test_an_error_of_the_system_that_torch_wraps_is_told_as_one(place: Path) -> None:
    def save() -> None:
        with open_whole(place) as file:
            os.close(file.fileno())
            torch.save({"weights": torch.zeros(10**5)}, file)

    with pytest.raises(InputError, match=r"table\.csv: cannot be written"):
        save()
    assert place.read_text() == "before"


def test_an_error_of_another_kind_is_left_as_it_is(place: Path) -> None:
    def fail(error: BaseException) -> None:
        with open_whole(place) as file:
            file.write(b"half")
            raise error

    for error in (ValueError("mine"), InputError("mine"), StoppedError("mine"), KeyboardInterrupt("mine")):
        with pytest.raises(type(error), match=r"^mine$"):
            fail(error)
        assert place.read_text() == "before"
        assert not left_over(place.parent)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nowhere/table.csv", "No such file or directory"),
        ("table.csv/table.csv", "Not a directory"),
        ("folder", "directory"),
        ("a" * 300, "too long"),
        ("nul\0", "null byte"),
    ],
)
def test_a_place_that_takes_no_file_is_refused(place: Path, name: str, reason: str) -> None:
    (place.parent / "folder").mkdir()
    with pytest.raises(InputError, match=rf"cannot be written \(.*{reason}\); choose another place"):
        write_whole(place.parent / name, "x")
    assert sorted(path.name for path in place.parent.iterdir()) == ["folder", "table.csv"]


def test_the_longest_name_that_the_file_system_takes_is_written(tmp_path: Path) -> None:
    write_whole(tmp_path / ("a" * 255), "x")
    assert (tmp_path / ("a" * 255)).read_text() == "x"


def test_a_link_is_replaced_and_where_it_led_is_not_touched(place: Path) -> None:
    link = place.with_name("link")
    link.symlink_to(place)
    write_whole(link, "mine")
    assert (link.read_text(), link.is_symlink(), place.read_text()) == ("mine", False, "before")


def test_the_folder_is_made_where_that_is_asked_for(place: Path) -> None:
    write_whole(place.parent / "new" / "deep" / "a", "x", make_folder=True)
    assert (place.parent / "new" / "deep" / "a").read_text() == "x"
    with pytest.raises(InputError, match=r"table\.csv/a: cannot be written \((File exists|Not a directory)\)"):
        write_whole(place / "a", "x", make_folder=True)


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_came_meanwhile_stays(place: Path, links: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("no hard links here")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(InputError, match=r"table\.csv exists; choose another place"):
        write_whole(place, "x", overwrite=False)
    assert place.read_text() == "before"
    write_whole(place.with_name("new"), "x", overwrite=False)
    assert place.with_name("new").read_text() == "x"
    assert not left_over(place.parent)


@pytest.mark.skipif(not hasattr(os, "O_TMPFILE"), reason="files without a name are Linux's")
def test_a_kill_while_a_file_is_written_leaves_nothing(place: Path) -> None:
    child = os.fork()
    if not child:
        with open_whole(place) as file:
            file.write(b"half")
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert [path.name for path in place.parent.iterdir()] == [place.name]
    assert place.read_text() == "before"


def test_a_folder_is_filled_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "set"
    for content in ("first", "second"):
        with make_whole(folder) as staging:
            (staging / "a").write_text(content)
            assert not folder.exists() or (folder / "a").read_text() == "first"
        assert (folder / "a").read_text() == content

    def fail(error: Exception) -> None:
        with make_whole(folder) as staging:
            (staging / "a").write_text("half")
            raise error

    for error, seen in ((KeyError("x"), KeyError), (OSError(28, "No space left on device"), InputError)):
        with pytest.raises(seen):
            fail(error)
    assert (folder / "a").read_text() == "second"
    assert [path.name for path in folder.parent.iterdir()] == ["set"]


def test_a_file_in_the_place_of_a_folder_stays(place: Path) -> None:
    with pytest.raises(InputError, match=r"table\.csv: cannot be written \(Not a directory\)"), make_whole(place):
        pass
    assert place.read_text() == "before"
    assert not left_over(place.parent)


# Reading YAML: by libyaml and by the parser that is there without it.


@pytest.fixture(params=["CSafeLoader", "SafeLoader"])
def loader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_yaml, "LOADER", getattr(yaml, request.param))


@pytest.mark.parametrize("path", sorted(CONFIG_DIR.rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_config_reads_as_yaml_itself_reads_it(path: Path) -> None:
    values = read_yaml(path)
    assert values == yaml.safe_load(path.read_text())
    assert parse_yaml(dump_yaml(values), "again") == values


@pytest.mark.usefixtures("loader")
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E+3", 1000.0),
        (".5e1", 5.0),
        ("-1.", -1.0),
        ("1_000", 1000),
        ("0x1f", 31),
        ("-7", -7),
        ("-.inf", -float("inf")),
        ("2020-01-01", "2020-01-01"),
        ("2020-01-01 12:00:00", "2020-01-01 12:00:00"),
        ("12:30:00", "12:30:00"),
        ("01:00:00:00", "01:00:00:00"),
        ("1:30.5", "1:30.5"),
        ("08", "08"),
        ("1.2.3", "1.2.3"),
        ("'1'", "1"),
        ("!!str 1", "1"),
        ("!!int '3'", 3),
        ("yes", True),
        ("~", None),
        ("", None),
        ("|\n  two\n  lines", "two\nlines"),
        ("[]", []),
        ("{b: {}}", {"b": {}}),
        ("{0: 8, 4: 4}", {0: 8, 4: 4}),
    ],
)
def test_plain_values(text: str, value: object) -> None:
    found = parse_yaml(f"a: {text}", "mine.yaml")["a"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.usefixtures("loader")
def test_aliases_are_copies_and_merge_keys_fill_what_is_left() -> None:
    found = parse_yaml(
        "base: &base {lr: 0.1, steps: [1]}\nother: &o {lr: 5, new: 6}\n"
        "first: {<<: *base, lr: 1}\nsecond: {<<: [*base, *o]}\nthird: [*base, *base]\nfourth: {'<<': 3}\n",
        "mine.yaml",
    )
    assert found["first"] == {"lr": 1, "steps": [1]}
    assert found["second"] == {"lr": 0.1, "steps": [1], "new": 6}
    assert found["third"] == [found["base"]] * 2
    assert found["fourth"] == {"<<": 3}
    found["third"][0]["steps"].append(2)
    assert found["base"]["steps"] == found["third"][1]["steps"] == [1]


@pytest.mark.parametrize(
    "values",
    [
        {"a": ["1e3", "1.0", "12:30:00", "2020-01-01", "yes", "null", "", "<<", "é", "a: b", "#", "\t", "0x1", "~"]},
        {"a": [1e300, 1e-300, float("inf"), -0.0, 10**30, True, None, {"b": {"c": []}}], "two words": {1: 2}},
    ],
)
@pytest.mark.usefixtures("loader")
def test_what_is_written_as_yaml_reads_back_the_same(values: dict) -> None:
    assert parse_yaml(dump_yaml(values), "mine.yaml") == values
    shared = [1]
    assert parse_yaml(dump_yaml({"a": shared, "b": shared}), "mine.yaml") == {"a": [1], "b": [1]}
    assert "*" not in dump_yaml({"a": shared, "b": shared})


BOMB = "a: &a [lol,lol,lol,lol,lol,lol,lol,lol,lol]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{','.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(9)
)


@pytest.mark.usefixtures("loader")
@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("a: [1,\nmodel: {\n", 3, "is not valid YAML"),
        ("a: [", 1, "is not valid YAML"),
        ("a: 1\nb: '", 2, "is not valid YAML"),
        ("a:\n\t- 1", 2, "indent with spaces, not with tabs"),
        ("a: 1\na: 2", 2, "a stands in line 1 already"),
        ("a:\n  b: 1\n  c: 2\n  b: 3", 4, "b stands in line 2 already"),
        ("a: 1\nb: {c: 1, c: 2}", 2, "c stands in line 2 already"),
        ('"a\\nb": 1\n"a\\nb": 2', 2, r"a\\nb stands in line 1 already"),
        ("a: {1: x, 1: y}", 1, "1 stands in line 1 already"),
        ("a: 1\non: 2", 2, r"a key that is the value true, not text\); put it into quotes"),
        ("a: 1\n~: 2", 2, "a key that is the value null, not text"),
        ("a: 1\n0.5: 2", 2, "a key that is the value 0.5, not text"),
        ("a: 1\n? [b]\n: 2", 2, "a key that is itself a list or a mapping"),
        ("a: &a [1]\n? *a\n: 2", 2, "a key that is a list or a mapping"),
        ("a: !!python/object/apply:os.system [id]", 1, "the tag python/object/apply:os.system"),
        ("a: 1\nb: !!timestamp 2020-01-01", 2, "the tag timestamp"),
        ("a: 1\nb: !!binary aGk=", 2, "the tag binary"),
        ("a: !!set {b, c}", 1, "the tag set"),
        ("a: !mine 3", 1, "the tag !mine"),
        ("a: !!int three", 1, "'three' is not a value of the kind int"),
        (f"a: 1\nb: {'9' * 5000}", 2, "is not a value of the kind int"),
        ("a: 1\nb: *c", 2, "c"),
        ("a: 1\nb: &b [*b]", 2, r"\*b stands for nothing that ends before it"),
        ("a: 1\nb: {<<: 3}", 2, "<< takes a mapping"),
        ("a: 1\n---\nb: 2", 2, "a second document begins here"),
        ("a: 1\n...\nb: 2", 3, "is not"),
        (BOMB, 6, "more than 100,000 values, with what its aliases repeat"),
        ("a: " + "[" * 1_000_000, 1, "more than 100 lists and mappings inside each other|maximum nesting depth"),
        ("a: " + "{b: " * 10_000, 1, "more than 100 lists and mappings inside each other"),
        ("a:\n  " + "- " * 10_000, 2, "more than 100 lists and mappings inside each other"),
        ("a: 1\nb: \x00", 2, r"the control character '\\x00'"),
        ("a: \x1b[31m", 1, r"the control character '\\x1b'"),
    ],
)
def test_what_is_not_plain_yaml_is_refused_with_its_line(text: str, line: int, reason: str) -> None:
    begun = time.process_time()
    with pytest.raises(InputError, match=rf"^mine\.yaml, line {line}: .*({reason})[^\n]*$") as caught:
        parse_yaml(text, "mine.yaml")
    assert time.process_time() - begun < 5
    assert str(caught.value).isprintable()


def test_values_are_bounded_without_aliases_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_yaml, "MOST_VALUES", 1000)
    most = plain_yaml.MOST_VALUES - 2  # without the document and its key
    assert len(parse_yaml("{a: [" + "0," * (most - 1) + "]}", "mine.yaml")["a"]) == most - 1
    with pytest.raises(InputError, match=r"^mine\.yaml, line 1: .*more than 1,000 values"):
        parse_yaml("{a: [" + "0," * most + "]}", "mine.yaml")


@pytest.mark.usefixtures("loader")
@pytest.mark.parametrize(
    ("text", "kind"),
    [("", "empty"), ("# nothing", "empty"), ("--- ", "empty"), ("[1]", "a list"), ("3", "a single value")],
)
def test_what_is_not_a_mapping_is_refused_with_what_was_expected(text: str, kind: str) -> None:
    with pytest.raises(InputError, match=rf"^mine\.yaml: is {kind}; expected seeds$"):
        parse_yaml(text, "mine.yaml", "seeds")
    with pytest.raises(InputError, match=r"^mine\.yaml: the key 3 is a number; expected seeds$"):
        parse_yaml("3: 4", "mine.yaml", "seeds")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_a_byte_order_mark_says_the_encoding(encoding: str, tmp_path: Path) -> None:
    text = ("\ufeff" if encoding.endswith("e") else "") + "name: Mädchen\n"
    (tmp_path / "a.yaml").write_bytes(text.encode(encoding))
    assert read_yaml(tmp_path / "a.yaml") == {"name": "Mädchen"}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("a: 1\nb: Mädchen".encode("latin-1"), "line 2: is not text in UTF-8 .*save the file as UTF-8"),
        ("a: 1".encode("utf-16")[:-1], "line 1: is not text in UTF-8"),
        ("a: 1".encode("utf-16-le"), "line 1: is not valid YAML .*control character"),
        (b"\x89PNG\r\n\x1a\n", "line 1: is not text in UTF-8"),
        (bytes(100), "line 1: is not valid YAML .*control character"),
    ],
)
def test_what_is_not_text_is_refused(content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(InputError, match=rf"a\.yaml, {reason}"):
        read_yaml(tmp_path / "a.yaml")


def test_a_huge_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "a.yaml").open("wb") as file:
        file.truncate(2**30)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=rf"a\.yaml: has 1,073,741,824 bytes, at most {MOST_BYTES:,} are read"):
        read_yaml(tmp_path / "a.yaml")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**16  # KiB


def test_what_is_not_a_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, reason in (
        (tmp_path / "pipe", "is not a file"),
        (tmp_path, "is not a file"),
        (Path("/dev/zero"), "is not a file"),
        (tmp_path / "none", r"cannot be read \(No such file or directory\)"),
        (tmp_path / "nul\0", r"cannot be read \(.*null byte\)"),
        (tmp_path / ("a" * 300), r"cannot be read \(File name too long\)"),
    ):
        with pytest.raises(InputError, match=rf"{reason}; expected a YAML file with seeds"):
            read_yaml(path, "seeds")


def test_reading_many_runs_imports_nothing_heavy() -> None:
    code = (
        "import sys; import capsule_lightning.runs.files; "
        "assert not {'torch', 'lightning', 'numpy', 'jsonargparse'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# Reading metrics.


def test_a_repeated_step_counts_once_and_pauses_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(
        "time,step,metric,value\n"
        "100,0,parameters,5\n100,0,parameters_without_decoder,4\n"
        "103,9,train/loss,2\n107,19,train/loss,1\n"
        "900,10,parameters,5\n900,10,parameters_without_decoder,4\n"
        "902,19,train/loss,1.5\n905,5,val/loss,7\n"
    )
    history, seconds = read_metrics(tmp_path / "metrics.csv")
    assert history["train/loss"] == {9: 2.0, 19: 1.5}
    assert seconds == 7 + 5


@pytest.mark.parametrize("torn", ["130,29,train/loss,0.", "130,29,tr", "130", "130,29,train/loss,0.51131,29,lr,0.3\n"])
def test_a_row_that_a_kill_has_cut_is_left_out(torn: str, tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(f"time,step,metric,value\n100,9,train/loss,2\n{torn}")
    assert read_metrics(tmp_path / "metrics.csv") == ({"train/loss": {9: 2.0}}, 0.0)


def test_odd_rows_are_left_out_and_odd_names_are_kept(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_bytes(
        b'100,1,"test/recall of a,b",0.5\r\n100,1,caf\xe9,1\n100,1,"open,2\n\x00\n,,,\n100,1,x,nan\n'
        b"100," + b"9" * 5000 + b",y,1\n101,2,z,3\n"
    )
    history, seconds = read_metrics(tmp_path / "metrics.csv")
    assert list(history) == ["test/recall of a,b", "caf�", "x", "z"]
    assert history["test/recall of a,b"] == {1: 0.5}
    assert seconds == 1


def test_a_run_without_metrics_has_none(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "metrics.csv") == ({}, None)
    os.mkfifo(tmp_path / "metrics.csv")
    assert read_metrics(tmp_path / "metrics.csv") == ({}, None)
