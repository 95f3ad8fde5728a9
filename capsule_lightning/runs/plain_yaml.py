"""YAML of plain values: read from a stranger without harm, written so that it reads back the same."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import yaml
from yaml.constructor import SafeConstructor
from yaml.resolver import BaseResolver, Resolver

from capsule_lightning.errors import InputError

MOST_VALUES = 100_000
"""Values of a YAML file, those that aliases repeat included: 500 bytes can stand for a billion."""
DEEPEST = 100
"""How many lists and mappings may lie inside each other."""


OPTIONS = "options and their values, such as trainer: {max_epochs: 3}"
"""What a configuration has, for messages."""

LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_TAG = "tag:yaml.org,2002:"
_INTEGER = re.compile(r"[-+]?(?:0b[01_]+|0x[0-9a-fA-F_]+|0[0-7_]*|[1-9][0-9_]*)$")
_NUMBER = re.compile(
    r"(?:[-+]?[0-9][0-9_]*(?:\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[eE][-+]?[0-9]+)"
    r"|[-+]?\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ufffe\uffff]")
_SCALARS: dict[str, Callable[[SafeConstructor, yaml.ScalarNode], Any]] = {
    f"{_TAG}null": SafeConstructor.construct_yaml_null,
    f"{_TAG}bool": SafeConstructor.construct_yaml_bool,
    f"{_TAG}int": SafeConstructor.construct_yaml_int,
    f"{_TAG}float": SafeConstructor.construct_yaml_float,
    f"{_TAG}str": SafeConstructor.construct_yaml_str,
    f"{_TAG}merge": SafeConstructor.construct_yaml_str,
}


def parse_yaml(text: str, name: str | Path, holds: str = OPTIONS) -> dict[str, Any]:
    r"""Return the mapping that a YAML text states, made of plain values alone.

    Values are text, numbers, true, false, null, lists, and mappings whose keys are text or whole numbers. Numbers are
    what people write: ``1e-3`` is one, and a time such as ``12:30:00`` or a date is text. Merge keys (``<<``) and
    aliases are known; each alias gives a copy. A tag such as ``!!python/name`` is refused, and a key that stands twice.

    Nothing here recurses: the depth of a text is bounded before it can fill the stack.

    Args:
        text: one YAML document.
        name: of the file or option, for messages.
        holds: what such a text has, for messages.

    Raises:
        InputError: the text is not such YAML, or too deep or too large once its aliases are followed; with the line.

    Example:
        >>> parse_yaml("lr: 1e-3\nday: 2020-01-01\nkernels: [9, null]", "mine.yaml")
        {'lr': 0.001, 'day': '2020-01-01', 'kernels': [9, None]}
    """
    found = _CONTROL.search(text)
    if found:
        line, character = text.count("\n", 0, found.start()) + 1, f"{found.group()!a}"
        raise InputError(f"{name}, line {line}: is not valid YAML (the control character {character}); fix that line")
    builder = _Builder(str(name))
    try:
        for event in yaml.parse(text, Loader=LOADER):
            builder.take(event)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        problem = getattr(error, "problem", None) or getattr(error, "context", None) or error
        line = 1 if mark is None else min(mark.line, text.count("\n")) + 1  # libyaml may point below the last line
        tabs = "\t" in "".join(text.splitlines()[line - 1 : line])
        remedy = "indent with spaces, not with tabs" if tabs else "fix that line"
        reason = " ".join(str(problem).split())
        raise InputError(f"{name}, line {line}: is not valid YAML ({reason}); {remedy}") from error
    document = builder.document
    if not isinstance(document, dict):
        kind = "is empty" if document is None else f"is a {'list' if isinstance(document, list) else 'single value'}"
        raise InputError(f"{name}: {kind}; expected {holds}")
    number = next((key for key in document if not isinstance(key, str)), None)
    if number is not None:
        raise InputError(f"{name}: the key {number} is a number; expected {holds}")
    return document


class _Plain(BaseResolver):
    """Which kind of value a word without quotes is: YAML 1.1 without its dates and its numbers to the base of 60."""


for _letter, _kinds in Resolver.yaml_implicit_resolvers.items():
    for _tag, _pattern in _kinds:
        if _tag.removeprefix(_TAG) in ("bool", "null", "merge"):
            _Plain.add_implicit_resolver(_tag, _pattern, [_letter])
_Plain.add_implicit_resolver(f"{_TAG}int", _INTEGER, list("-+0123456789"))
_Plain.add_implicit_resolver(f"{_TAG}float", _NUMBER, list("-+0123456789."))


class _Open(NamedTuple):
    """A list or mapping whose end has not come yet.

    Attributes:
        value: what is in it so far.
        keys: of a mapping, the line of each key; None for a list.
        pending: of a mapping, the key that waits for its value; empty in between.
        merged: of a mapping, what merge keys bring.
        anchor: name by which aliases repeat it; None without one.
        before: how many values had been read before it.
    """

    value: Any
    keys: dict[str | int, int] | None
    pending: list[tuple[Any, bool]]
    merged: list[dict[str | int, Any]]
    anchor: str | None
    before: int


class _Builder:
    """Builds plain values from the events of a YAML parser, one after the other.

    Args:
        name: of the file, for messages.

    Attributes:
        document: the value that was read; None before its end.
    """

    def __init__(self, name: str) -> None:
        self.document: Any = None
        self._name = name
        self._documents = 0
        self._open: list[_Open] = []
        self._count = 0
        self._anchors: dict[str, tuple[Any, int]] = {}  # with the number of values in each
        self._constructor = SafeConstructor()
        self._resolve: Callable[..., str] = _Plain().resolve

    def take(self, event: yaml.Event) -> None:
        """Add an event.

        Raises:
            InputError: the event brings something that is not plain, or too much of it.
        """
        line = 1 if event.start_mark is None else event.start_mark.line + 1
        if isinstance(event, yaml.ScalarEvent):
            self._require_room(line, 1)
            value, merge = self._scalar(event, line)
            if event.anchor is not None:
                self._anchors[event.anchor] = value, 1
            self._add(value, line, merge)
        elif isinstance(event, yaml.SequenceStartEvent | yaml.MappingStartEvent):
            self._require_room(line, 1)
            self._begin(event, line)
        elif isinstance(event, yaml.SequenceEndEvent | yaml.MappingEndEvent):
            self._end(line)
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._anchors:
                self._refuse(line, f"the alias *{event.anchor} stands for nothing that ends before it")
            value, count = self._anchors[event.anchor]
            self._require_room(line, count)
            self._add(copy.deepcopy(value), line, False)
        elif isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                self._refuse(line, "a second document begins here")

    def _refuse(self, line: int, reason: str, remedy: str = "fix that line") -> NoReturn:
        printable = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in reason)
        raise InputError(f"{self._name}, line {line}: is not plain YAML ({printable}); {remedy}")

    def _require_room(self, line: int, count: int) -> None:
        self._count += count
        if self._count > MOST_VALUES:
            self._refuse(line, f"more than {MOST_VALUES:,} values, with what its aliases repeat", "shorten it")

    def _scalar(self, event: yaml.ScalarEvent, line: int) -> tuple[Any, bool]:
        """Return the value of a word, and whether it is a merge key."""
        tag = event.tag
        if tag in (None, "!"):
            tag = self._resolve(yaml.ScalarNode, event.value, event.implicit)
        if tag not in _SCALARS:
            self._refuse(line, f"the tag {tag.removeprefix(_TAG)}", "leave the tag out")
        try:
            value = _SCALARS[tag](self._constructor, yaml.ScalarNode(tag, event.value))
        except (ValueError, KeyError, IndexError):
            self._refuse(line, f"{event.value[:40]!r} is not a value of the kind {tag.removeprefix(_TAG)}")
        return value, tag == f"{_TAG}merge"

    def _begin(self, event: yaml.SequenceStartEvent | yaml.MappingStartEvent, line: int) -> None:
        mapping = isinstance(event, yaml.MappingStartEvent)
        if event.tag not in (None, "!", f"{_TAG}{'map' if mapping else 'seq'}"):
            self._refuse(line, f"the tag {event.tag.removeprefix(_TAG)}", "leave the tag out")
        if len(self._open) == DEEPEST:
            self._refuse(line, f"more than {DEEPEST} lists and mappings inside each other", "make it flatter")
        if self._open and self._open[-1].keys is not None and not self._open[-1].pending:
            self._refuse(line, "a key that is itself a list or a mapping", "expected text before the colon")
        if event.anchor is not None:
            self._anchors.pop(event.anchor, None)  # when an anchor is set twice, the newer one counts
        self._open.append(_Open({} if mapping else [], {} if mapping else None, [], [], event.anchor, self._count - 1))

    def _end(self, line: int) -> None:
        ended = self._open.pop()
        for merged in ended.merged:
            for key, value in merged.items():
                ended.value.setdefault(key, value)
        if ended.anchor is not None:
            self._anchors[ended.anchor] = ended.value, self._count - ended.before
        self._add(ended.value, line, False)

    def _add(self, value: Any, line: int, merge: bool) -> None:
        """Put a complete value into the list or mapping around it, or take it for the document."""
        if not self._open:
            self.document = value
            return
        inside = self._open[-1]
        if inside.keys is None:
            inside.value.append(value)
        elif not inside.pending:
            self._require_key(inside.keys, value, line)
            inside.keys[value] = line
            inside.pending.append((value, merge))
        else:
            key, is_merge = inside.pending.pop()
            if not is_merge:
                inside.value[key] = value
                return
            parts = value if isinstance(value, list) else [value]
            if not all(isinstance(part, dict) for part in parts):
                self._refuse(line, "<< takes a mapping or a list of mappings")
            inside.merged.extend(parts)

    def _require_key(self, keys: Mapping[Any, int], key: Any, line: int) -> None:
        if isinstance(key, bool) or not isinstance(key, str | int):
            word = "null" if key is None else str(key).lower()
            kind = "a list or a mapping" if isinstance(key, list | dict) else f"the value {word}"
            self._refuse(line, f"a key that is {kind}, not text", "put it into quotes")
        if key in keys:
            self._refuse(line, f"{key} stands in line {keys[key]} already", "leave one of them out")


class _Dumper(_Plain, yaml.SafeDumper):
    """Writes what `parse_yaml` reads: text in quotes where it would be read as something else, no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write each value out, however often it occurs."""
        return True


def dump_yaml(values: Mapping[str, Any]) -> str:
    r"""Return plain values as YAML that `parse_yaml` reads back as they are.

    Example:
        >>> dump_yaml({"experiment": "1e3", "lr": 1e-3})
        "experiment: '1e3'\nlr: 0.001\n"
    """
    return yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False)
