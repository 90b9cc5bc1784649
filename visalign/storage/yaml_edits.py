"""Settings put into the text of a recipe, whose comments and layout stay as they are."""

import json
import re
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.nodes import CollectionNode, MappingNode, Node

_PLAIN = re.compile(r"(\.{1,2}/|[A-Za-z~/])[\w./~-]*(:[\w./-]+)*")
_ANCHOR = re.compile(r" *&\w+")
"""The name by which a value is repeated further down, which then repeats the new one."""
_WORDS = {"true", "false", "null", "~"}


def quoted(text: str) -> str:
    """A text as YAML; plain where it can be mistaken for nothing else."""
    plain = _PLAIN.fullmatch(text) and text.lower() not in _WORDS
    return text if plain else json.dumps(text, ensure_ascii=False)


def with_settings(text: str, changes: dict[str, Any]) -> str:
    """The text of a YAML mapping with values by dotted key, such as {"data.path": "pairs.jsonl"}; None takes a setting
    out, with its comments. Sections that are not there are added. What is put in comes before what is taken out, so
    that no section is left empty on the way."""
    for key, value in sorted(changes.items(), key=lambda change: change[1] is None):
        text = _removed(text, key) if value is None else _set(text, key, value)
    return text


def in_one_line(value: Any) -> str:
    """A value in YAML's flow style, which reads back unchanged."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{quoted(str(key))}: {in_one_line(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(in_one_line, value)) + "]"
    return quoted(value) if isinstance(value, str) else json.dumps(value)


def _found(text: str, key: str) -> tuple[list[tuple[Any, Any]], list[str]]:
    """The (key, value) nodes on the way to a setting, the whole mapping first, and the names that are not there."""
    root = YAML(typ="safe", pure=True).compose(text)
    way, names = [(root, root)], key.split(".")
    while names and isinstance(way[-1][1], MappingNode):
        entry = next((each for each in way[-1][1].value if each[0].value == names[0]), None)
        if entry is None:
            break
        way.append(entry)
        names = names[1:]
    return way, names


def _set(text: str, key: str, value: Any) -> str:
    way, missing = _found(text, key)
    name, node = way[-1]
    if not missing or not isinstance(node, MappingNode):  # an empty section, or a value that becomes a mapping
        for each in reversed(missing):
            value = {each: value}
        colon = text.index(":", name.end_mark.index) + 1
        anchor = _ANCHOR.match(text, colon)
        return f"{text[:colon]}{anchor.group() if anchor else ''} {in_one_line(value)}{text[_end(node, colon):]}"
    for each in reversed(missing[1:]):
        value = {each: value}
    line = f"{quoted(missing[0])}: {in_one_line(value)}"
    if node.flow_style:
        start = node.start_mark.index + 1
        return f"{text[:start]}{line}{', ' * bool(node.value)}{text[start:]}"
    if len(way) == 1:
        return text.rstrip("\n") + f"\n{line}\n"
    first = node.value[0][0].start_mark
    start = first.index - first.column
    between = text.index("\n", name.end_mark.index) + 1  # before the comments that precede the first setting
    return f"{text[:between]}{' ' * first.column}{line}\n{text[between:start]}{text[start:]}"


def _removed(text: str, key: str) -> str:
    way, missing = _found(text, key)
    if missing:
        return text
    (name, node), (_, parent) = way[-1], way[-2]
    start, end = name.start_mark.index, _end(node, name.end_mark.index + 1)
    if parent.flow_style:
        place = [each[0].value for each in parent.value].index(name.value)
        later = parent.value[place + 1:place + 2]
        start = start if later or not place else _end(parent.value[place - 1][1], start)
        return text[:start] + text[later[0][0].start_mark.index if later else end:]
    line = text.find("\n", end)
    return text[:start - name.start_mark.column] + (text[line + 1:] if line >= 0 else "")


def _end(node: Node, empty: int) -> int:
    """Where the text of a value ends; that of a block ends with its last value. empty: where an empty one stands."""
    if not isinstance(node, CollectionNode) or node.flow_style:
        return node.end_mark.index if node.start_mark.index != node.end_mark.index else empty
    last = node.value[-1]
    return _end(last[1], last[0].end_mark.index + 1) if isinstance(node, MappingNode) else _end(last, empty)
