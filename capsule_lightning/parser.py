"""Configs by name, and parser errors of one line."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from jsonargparse import ActionConfigFile, _typehints
from jsonargparse._util import import_object
from lightning import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningArgumentParser

from capsule_lightning.cli import SLOTS, class_names, find_config, nearest
from capsule_lightning.errors import InputError

NOISE = re.compile(
    r"Does not validate against any|Subtypes: |Errors:|Expected a <class 'NoneType'>|Given value"
    r"|Expected a path but|Problem with given class_path|Not a valid subclass of|Subclass types expect"
    r"|a class path \(str\)|a dict with|a dict without|Expected a List|Expected a <class 'bool'>"
)
KEY = re.compile(r'^Parser key "([\w.+]+)":?$')
WITH_KEY = re.compile(r"^[a-z_.]+: ")  # an inner parser has been here
UNKNOWN_CLASS = re.compile(r"Expected a dot import path string: (\S+)")
UNKNOWN_OPTION = re.compile(
    r"[Uu]nrecognized arguments: (\S+)|does not accept (?:option|nested key) '([\w.]+)'"
    r"|[Oo]ption '([\w.]+)' is not accepted"
)


class ConfigFile(ActionConfigFile):
    """``--config``: a file, the name of a shipped one, or a config written out, ``{trainer: {max_epochs: 1}}``."""

    @staticmethod
    def apply_config(parser: Any, cfg: Any, dest: str, value: Any, *args: Any) -> None:
        """Resolve the name, then do as the parent does; errors name the file."""
        written_out = isinstance(value, str) and value.startswith("{")
        path = find_config(value) if isinstance(value, str) and not written_out else value
        try:
            ActionConfigFile.apply_config(parser, cfg, dest, path, *args)
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"{path}: {one_line(str(error))}") from error


class Parser(LightningArgumentParser):
    """Says what is wrong in one line, with the nearest right spelling, instead of printing all options."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Refuse the input."""
        text = one_line(str(message))
        found = UNKNOWN_OPTION.search(text)
        if found and "did you mean" not in text:
            word = next(group for group in found.groups() if group).split("=")[0].lstrip("-")
            parser = getattr(ex, "subcommand_parser", None) or self
            text += nearest(word, [action.dest for action in parser._actions])
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
    set, and ``lr`` does not outlive a change of the optimiser.

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

    Example:
        >>> from torch.optim import SGD, Adam
        >>> shared_arguments(Adam, SGD)
        set()
    """
    whole = (LightningDataModule, LightningModule)
    if not (isinstance(one, type) and isinstance(other, type) and issubclass(one, whole)):
        return set()
    base = next((c for c in one.__mro__ if issubclass(other, c) and "__init__" in c.__dict__ and c is not object), None)
    return set(inspect.signature(base).parameters) if base else set()


_typehints.discard_init_args_on_class_path_change = keep_what_is_shared


def one_line(message: str) -> str:
    """What matters of the parser's account of everything that it tried.

    Example:
        >>> one_line('Parser key "net":' + chr(10) + "- Expected a dot import path string: CapsNte")
        "net: no class 'CapsNte'; did you mean 'CapsNet'?"
    """
    keys: list[str] = []
    reasons: list[str] = []
    for line in message.splitlines():
        text = line.strip().removeprefix("- ").strip()
        key = KEY.match(text)
        unknown = UNKNOWN_CLASS.search(text)
        if key:
            keys.append(key[1])
        elif unknown:
            known = [name for slot in SLOTS for name in class_names(slot)]
            reasons.append(f"no class {unknown[1]!r}{nearest(unknown[1], known)}")
        elif text and not NOISE.match(text):
            reasons.append(text)
    reason = "; ".join(dict.fromkeys(reasons)) or message
    if not keys:
        return reason
    return f"{'.'.join(keys)}{'.' if WITH_KEY.match(reason) else ': '}{reason}"
