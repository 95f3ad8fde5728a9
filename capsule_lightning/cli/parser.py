"""Configs by name, and parser errors of one line."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Collection, Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import ActionConfigFile, _typehints
from jsonargparse._util import import_object
from lightning import Callback, LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.loggers import Logger
from torch.optim import Optimizer

from capsule_lightning.components import SLOTS, class_names
from capsule_lightning.errors import InputError, nearest
from capsule_lightning.shipped import find_config

NOISE = re.compile(
    r"Does not validate against any|Subtypes: |Errors:|Expected a <class 'NoneType'>|Given value"
    r"|Expected a path but|Problem with given class_path|Not a valid subclass of|Subclass types expect"
    r"|a class path \(str\)|a dict with|a dict without"
)
KEY = re.compile(r'^(?:[\w.]+: )?Parser key "([\w.+]+)":?$')
WITH_KEY = re.compile(r"^[a-z_.]+: ")  # an inner parser has been here
GIVEN = re.compile(r"^Given value: (?!NestedArg|Namespace|\{|\[)(.*)")
EXPECTED = re.compile(
    r"^Expected an? (?!<class 'NoneType'>)(<class '[\w.]+'>|typing\.Literal\[.*\]|List\S*)(?:\. Got value: (.*))?$"
)
UNKNOWN_CLASS = re.compile(r"Expected a dot import path string: (\S+)")
UNUSABLE_CLASS = re.compile(
    r"expects a function or a callable class: (.*?)\.*\. Got value: (?:.*class_path=')?([^\s',)]+)"
)
UNCHOSEN = re.compile(r"required: \w+\.data\b|Expected an instantiatable class, but \S+ImageDataModule is abstract")
REQUIRED = re.compile(r"^the following arguments are required: ([\w, ]+)$")
UNKNOWN_OPTION = re.compile(
    r"[Uu]nrecognized arguments: (\S+)|does not accept (?:option|nested key) '([\w.]+)'"
    r"|[Oo]ption '([\w.]+)' is not accepted"
)
#: What the parser's types are to a user; the first are numbers, which no name of a class can be meant for.
NUMBERS = {"int": "a whole number", "float": "a number"}
TYPES = {**NUMBERS, "bool": "true or false", "str": "text"}
#: Slots of classes that are not the package's alone.
OTHER_SLOTS: dict[str, type] = {"optimizer": Optimizer, "callbacks": Callback, "logger": Logger}


class ConfigFile(ActionConfigFile):
    """``--config``: a file, the name of a shipped one, or a config written out, ``{trainer: {max_epochs: 1}}``."""

    @staticmethod
    def apply_config(parser: Any, cfg: Any, dest: str, value: Any, *args: Any) -> None:
        """Resolve the name, then do as the parent does; errors name the file."""
        written_out = isinstance(value, str) and value.startswith("{")
        path = find_config(value) if isinstance(value, str) and not written_out else value
        if isinstance(path, str):
            require_mapping(path, written_out, {action.dest.split(".")[0] for action in parser._actions})
        try:
            ActionConfigFile.apply_config(parser, cfg, dest, path, *args)
        except Exception as error:
            reason = str(error) if isinstance(error, InputError) else one_line(str(error))
            raise InputError(f"{'--config' if written_out else path}: {reason}") from error


class OnceLoader(yaml.SafeLoader):
    """Reads YAML and refuses a key that stands twice in one place, of which the first would be lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """See `yaml.SafeLoader.construct_mapping`."""
        seen: dict[str, int] = {}
        for key, _ in node.value:
            name = str(key.value)
            if name in seen:
                problem = f"{name} stands in line {seen[name]} already"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen[name] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)


def require_mapping(config: str, written_out: bool, known: Collection[str]) -> None:
    """Refuse a config that is no YAML, or whose highest keys are no options.

    Args:
        config: path of the file, or the YAML itself.
        written_out: it is the YAML itself.
        known: the options.

    Raises:
        InputError: with the place of the fault.
    """
    try:
        text = config if written_out else Path(config).read_text(encoding="utf-8")
        found = yaml.load(text, OnceLoader)
    except OSError as error:
        raise InputError(f"{config}: cannot be read ({error.strerror}); expected a YAML file") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{config}: is no text ({error.reason} at byte {error.start}); expected YAML in UTF-8"
        ) from error
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
        mark = getattr(error, "problem_mark", None)
        label = "--config" if written_out else config
        place = f", line {mark.line + 1}" if mark is not None else ""
        tabs = mark is not None and "\t" in "".join(text.splitlines()[mark.line : mark.line + 1])
        remedy = "indent with spaces, not with tabs" if tabs else "mend that line"
        raise InputError(f"{label}{place}: is no YAML ({' '.join(str(problem).split())}); {remedy}") from error
    if not isinstance(found, dict):
        kind = "empty" if found is None else "a list" if isinstance(found, list) else "a single value"
        raise InputError(f"{config}: is {kind}; expected options and their values, such as trainer: {{max_epochs: 3}}")
    for key in found:
        if str(key).split(".")[0].rstrip("+") not in known:
            raise InputError(f"{config}: no option {key!r}{nearest(str(key), sorted(known))}")


class Parser(LightningArgumentParser):
    """Says what is wrong in one line, with the nearest right spelling, instead of printing all options."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Refuse the input."""
        text = one_line(str(message))
        found = UNKNOWN_OPTION.search(text)
        if found and "did you mean" not in text:
            word = next(group for group in found.groups() if group).split("=")[0]
            parser = getattr(ex, "subcommand_parser", None) or self
            text += nearest(word.lstrip("-"), [action.dest for action in parser._actions])
            if "did you mean" not in text and "nrecognized" in text and not word.startswith("-"):
                text += "; an option begins with two hyphens, such as --config mnist"
        raise InputError(text)


def nulls_as_configs(words: Sequence[str]) -> list[str]:
    """Write ``--model.net.decoder null`` as a config, since the parser takes the word for the name of a class.

    Example:
        >>> nulls_as_configs(["--model.net.decoder", "null", "--data.seed", "null"])
        ['--config', '{"model": {"init_args": {"net": {"init_args": {"decoder": null}}}}}', '--data.seed', 'null']
    """
    found, rest = [], list(words)
    while rest:
        word = rest.pop(0)
        key, equals, value = word.partition("=")
        if not equals and rest:
            value = rest[0]
        if value not in ("null", "None") or not key.startswith("--model.") or key.count(".") < 2:
            found.append(word)
            continue
        if not equals:
            rest.pop(0)
        config: object = None
        for n, name in enumerate(reversed([part for part in key[2:].split(".") if part != "init_args"])):
            config = {name: {"init_args": config} if n else config}
        found += ["--config", json.dumps(config)]
    return found


def keep_what_is_shared(parser: Any, before: Any, now: Any) -> None:
    """Forget the arguments of the class that was chosen before, but for those that all data sets or all tasks have.

    The parser would keep every argument that happens to have a name of the new class: `SGD` would learn at `Adam`'s
    rate, and one routing run for as many iterations as another wanted. So ``batch_size`` outlives a change of the data
    set, and ``lr`` does not outlive a change of the optimizer.

    Args:
        parser: of the new class; not needed.
        before: ``class_path`` and ``init_args`` of the class chosen before, or None; changed in place.
        now: the same of the new class.
    """
    if not before or "init_args" not in before or before["class_path"] == now["class_path"]:
        return
    shared = shared_arguments(import_object(before["class_path"]), import_object(now["class_path"]))
    arguments = before["init_args"]
    for name in list(arguments if isinstance(arguments, dict) else vars(arguments)):
        if name not in shared:
            arguments.pop(name)


def shared_arguments(one: object, other: object) -> set[str]:
    """Names of the constructor arguments that the nearest base class of two data modules or of two tasks declares.

    Those that the other does not take are left out.

    Example:
        >>> from torch.optim import SGD, Adam
        >>> shared_arguments(Adam, SGD)
        set()
    """
    whole = (LightningDataModule, LightningModule)
    if not (isinstance(one, type) and isinstance(other, type) and issubclass(one, whole)):
        return set()
    base = next((c for c in one.__mro__ if issubclass(other, c) and "__init__" in c.__dict__ and c is not object), None)
    return set(inspect.signature(base).parameters) & set(inspect.signature(other).parameters) if base else set()


_typehints.discard_init_args_on_class_path_change = keep_what_is_shared


def one_line(message: str) -> str:
    """What matters of the parser's account of everything that it tried.

    Example:
        >>> one_line('Parser key "net":' + chr(10) + "- Expected a dot import path string: CapsNte")
        "net: no class 'CapsNte'; did you mean 'CapsNet'?"
        >>> one_line('Parser key "a":' + chr(10) + "  Expected a <class 'int'>. Got value: x")
        'a: got x, expected a whole number'
    """
    keys: list[str] = []
    reasons: list[str] = []
    classes: list[str] = []
    expected: list[str] = []
    given = ""
    if UNCHOSEN.search(message):
        return "no data set is chosen: add --data CLASS, such as MNISTDataModule, or a --config that names one"
    for line in message.removeprefix('Parser key "config": ').splitlines():
        text = line.strip().removeprefix("- ").strip()
        if key := KEY.match(text):
            keys += [] if keys[-1:] == [key[1]] else [key[1]]
        elif value := GIVEN.match(text):
            given = value[1]
        elif unknown := UNKNOWN_CLASS.search(text):
            classes.append(no_class(unknown[1], keys))
        elif unusable := UNUSABLE_CLASS.search(text):
            reasons.append(no_class(unusable[2], keys, unusable[1]))
        elif wanted := EXPECTED.match(text):
            given = wanted[2] or given
            expected.append(wanted[1])
        elif lacking := REQUIRED.match(text):
            reasons.append(f"lacks {lacking[1]}, which has no default: give it a value")
        elif text and not NOISE.match(text):
            reasons.append(text.replace("expected one argument", "expected a value after it"))
    if classes and not any(in_words(kind) in NUMBERS.values() for kind in expected):
        reasons += classes
    elif expected and not reasons:
        reasons.append(f"got {given}, expected {' or '.join(dict.fromkeys(map(in_words, expected)))}")
    if any(WITH_KEY.match(reason) for reason in reasons):  # what the other classes of a list say is beside the point
        reasons = [reason for reason in reasons if not UNKNOWN_OPTION.search(reason) or WITH_KEY.match(reason)]
    reason = "; ".join(dict.fromkeys(reasons)) or " ".join(message.split())
    if not keys:
        return reason
    return f"{'.'.join(keys)}{'.' if WITH_KEY.match(reason) else ': '}{reason}"


def in_words(kind: str) -> str:
    """A type as the parser writes it, in words.

    Example:
        >>> in_words("<class 'float'>"), in_words("typing.Literal['a', 'b']")
        ('a number', 'one of a, b')
    """
    if kind.startswith("typing.Literal"):
        return f"one of {kind[len('typing.Literal[') : -1].replace(chr(39), '')}"
    return TYPES.get(kind.split("'")[1] if "'" in kind else kind, "a list, such as [1,2]")


def no_class(name: str, keys: Sequence[str], reason: str = "") -> str:
    """That a class cannot fill a slot, and which can.

    Args:
        name: of the class.
        keys: of the slot, the last its own.
        reason: why not, where it is known.
    """
    slot = keys[-1].split(".")[-1].rstrip("+") if keys else ""
    known = [name for key in SLOTS if key.split(".")[-1].lstrip("-") == slot for name in class_names(key)]
    anything = [name for key in SLOTS for name in class_names(key)]
    similar = [cls.__name__ for cls in subclasses(OTHER_SLOTS[slot])] if slot in OTHER_SLOTS else known or anything
    short = name.rsplit(".", 1)[-1]
    if known and name not in known and name in anything:
        return f"{name} is no class for this slot; expected one of {', '.join(known)}"
    why = f" ({reason})" if re.match(r"No module|module .* has no attribute", reason) else ""
    others = f"; expected one of {', '.join(known)}" if known else ""
    return f"no class {name!r}{why}{nearest(short, similar) or others}"


def subclasses(cls: type) -> Iterator[type]:
    """All classes derived from one, as far as they are imported."""
    derived: list[type] = cls.__subclasses__()
    for each in derived:
        yield each
        yield from subclasses(each)
