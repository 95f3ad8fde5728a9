"""Configs by name, and parser errors of one line."""

from __future__ import annotations

import re
from typing import Any, NoReturn

from jsonargparse import ActionConfigFile
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
    """``--config``: a file, or the name of a shipped one."""

    @staticmethod
    def apply_config(parser: Any, cfg: Any, dest: str, value: Any, *args: Any) -> None:
        """Resolve the name, then do as the parent does; errors name the file."""
        path = find_config(value) if isinstance(value, str) else value
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
