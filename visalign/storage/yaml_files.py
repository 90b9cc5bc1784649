"""YAML 1.2: `off`, `no` and `2026-11-25` are strings, `010` is ten, and a key occurs once.

Every YAML file is read and written here. It is data: tags, and values that multiply through aliases, are refused.
"""

import io
import math
import re
from functools import partial
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import CollectionEndEvent, CollectionStartEvent
from ruamel.yaml.parser import Parser
from ruamel.yaml.representer import SafeRepresenter
from ruamel.yaml.resolver import BaseResolver

from visalign.errors import UserError
from visalign.storage.text_files import read_text

MOST_CHARACTERS, MOST_VALUES, MOST_DEPTH = 1_000_000, 20_000, 24
_UNWRITABLE = re.compile("[\\x00\\ud800-\\udfff]")
_NAMES = {dict: "a mapping", list: "a list", str: "text", int: "a number", float: "a number", bool: "true or false",
          type(None): "nothing"}


class _Core(BaseResolver):
    """The core schema of YAML 1.2 (section 10.3) and merge keys, whatever a %YAML line says."""

    processing_version = (1, 2)

    def __init__(self, version=None, loader=None):
        super().__init__(loader)


for _tag, _pattern, _first in (
        ("null", r"(~|null|Null|NULL|)", ["~", "n", "N", ""]),
        ("bool", r"(true|True|TRUE|false|False|FALSE)", list("tTfF")),
        ("int", r"([-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)", list("-+0123456789")),
        ("float", r"([-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))",
         list("-+.0123456789")),
        ("merge", "<<", ["<"])):
    _Core.add_implicit_resolver_base(f"tag:yaml.org,2002:{_tag}", re.compile(f"^{_pattern}\\Z"), _first)


class _Writer(SafeRepresenter):
    """Writes strings that hold line ends or control characters in double quotes, escaped, so that they read back."""


_Writer.add_representer(str, lambda writer, text: writer.represent_scalar(
    "tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"'))


class _Plain(Parser):
    """Refuses tags (even !!int raises in its own way) and deep nesting before anything is built."""

    def __init__(self, text: str, where: str, loader):
        super().__init__(loader)
        self.text, self.where, self.depth = text, where, 0

    def get_event(self):
        event = super().get_event()
        self.depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if self.depth > MOST_DEPTH:
            raise UserError(f"{self._line(event)} nested more than {MOST_DEPTH} levels deep, which settings never are")
        if getattr(event, "tag", None):
            raise UserError(f"{self._line(event)} settings are data, so tags such as "
                            f"{self.text[event.start_mark.index:][:20].split()[0]} are not read")
        return event

    def _line(self, event) -> str:
        return f"{self.where}: line {event.start_mark.line + 1}:"


def _yaml() -> YAML:
    yaml = YAML(typ="safe", pure=True)
    yaml.Resolver, yaml.Representer = _Core, _Writer
    yaml.default_flow_style, yaml.allow_unicode, yaml.width = False, True, 10_000
    yaml.sort_base_mapping_type_on_output = False
    return yaml


def read_yaml(path: str | Path, what: str) -> Any:
    """The content of a YAML file. Raises UserError naming the file when it is missing or unreadable."""
    where = f"{what} {path}"
    return parse_yaml(read_text(path, where), where)


def read_mapping(path: str | Path, what: str) -> dict[str, Any]:
    """As `read_yaml`, of a file that must hold a mapping of names to values."""
    value = read_yaml(path, what)
    if not isinstance(value, dict):
        raise UserError(f"{what} {path}: expected a mapping of `key: value` lines, found {_NAMES[type(value)]}")
    return value


def parse_yaml(text: str, where: str) -> Any:
    """A document as plain dicts with text keys, lists, texts, finite numbers, booleans and None.

    Raises UserError starting with `where` for anything else.
    """
    if len(text) > MOST_CHARACTERS:
        raise UserError(f"{where}: {len(text):,} characters are more than settings need; is this the right file?")
    try:
        yaml = _yaml()
        yaml.Parser = partial(_Plain, text, where)
        value = yaml.load(text)
    except MarkedYAMLError as error:
        raise UserError(f"{where}: not readable as YAML, {_explained(error)}") from None
    except (YAMLError, ValueError) as error:  # ValueError: a number of 5,000 digits
        raise UserError(f"{where}: not readable as YAML ({' '.join(str(error).split())[:200]})") from None
    _check_plain(value, where)
    return value


def dump_yaml(value: Any) -> str:
    """Settings as YAML that reads back unchanged."""
    text = io.StringIO()
    _yaml().dump(value, text)
    return text.getvalue()


def _explained(error: MarkedYAMLError) -> str:
    """What is wrong and where, without the library's advice for programmers."""
    mark = error.problem_mark or error.context_mark
    problem = " ".join((error.problem or error.context or "unreadable").split())
    twice = re.match(r'found duplicate key "(.*?)" with value', problem)
    if twice:
        problem = f"the key {twice[1]} occurs twice; keep one of them"
    elif "\\t" in problem or "tab" in problem:
        problem = "a tab cannot indent; use spaces"
    return f"line {mark.line + 1}: {problem[:300]}" if mark else problem[:300]


def _check_plain(value: Any, where: str) -> None:
    """Refuse values that settings cannot have, and aliases that multiply (an alias is visited wherever it occurs)."""
    waiting, seen = [("", value)], 0
    while waiting:
        key, each = waiting.pop()
        seen += 1
        if seen > MOST_VALUES:
            raise UserError(f"{where}: holds more than {MOST_VALUES:,} values; is this the right file?")
        if isinstance(each, dict):
            for name in each:
                if not isinstance(name, str) or not name.isprintable():
                    raise UserError(f"{where}: the key {name!r:.80} is not a name; put it in quotes if it is meant as "
                                    "one")
            waiting += [(f"{key}.{name}" if key else name, inner) for name, inner in each.items()]
        elif isinstance(each, list):
            waiting += [(key, inner) for inner in each]
        elif isinstance(each, float) and not math.isfinite(each):
            raise UserError(f"{where}: {key or 'the value'} is {each}, and a finite number is expected")
        elif isinstance(each, str) and _UNWRITABLE.search(each):
            raise UserError(f"{where}: {key or 'the value'} {each!r:.80} holds a character that cannot occur in text")
