"""`key=value` on the command line: what the text stands for depends on the setting it is for.

A setting that is text (a path, a prompt, a name, one of several words) gets the text as it is typed, so that
`data.path=my set #1/x`, `output.folder=2026-11-25` and `guard.action=off` mean what they say; quotes around the whole
are taken off. Every other setting gets the value that the text has in YAML: a number, a list, a mapping; and so does
one that may be text as well as a list or a mapping, where what is typed is [in brackets] or begins with {.
"""

from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from visalign.errors import UserError
from visalign.storage.yaml_files import parse_yaml


def apply_overrides(raw: dict, overrides: tuple[str, ...], kind: type[BaseModel]) -> None:
    """Write each `key=value` into `raw`, settings of `kind`. Raises UserError naming the override that is none."""
    for override in overrides:
        _apply(raw, override, kind)


def _apply(raw: dict, override: str, kind: type[BaseModel]) -> None:
    key, separator, text = override.partition("=")
    path, said = key.strip().split("."), f"override '{' '.join(override.split())[:200]}'"
    if not separator or not all(part and part.isprintable() for part in path):
        raise UserError(f"{said}: expected key=value, for example optim.lr=1e-4")
    if path == ["model"] and "source" in kind.model_fields["model"].annotation.model_fields:
        path = ["model", "source"]
    node = raw
    for parent in path[:-1]:
        node[parent] = {} if node.get(parent) is None else node[parent]
        node = node[parent]
        if not isinstance(node, dict):
            raise UserError(f"{said}: {parent} is a value, not a section")
    node[path[-1]] = _value(text, _members(_type_of(path, kind, raw)), said)


def _type_of(path: list[str], kind: Any, raw: dict) -> Any:
    """The annotation of a setting; Any where none is known."""
    for depth, part in enumerate(path):
        field = getattr(kind, "model_fields", {}).get(part) or getattr(kind, "__dataclass_fields__", {}).get(part)
        if field is None:
            return Any
        annotation = getattr(field, "annotation", None) or field.type
        if depth + 1 == len(path):
            return annotation
        inner = (each for each in _members(annotation) if hasattr(each, "model_fields"))
        kind = _method(part, raw) or next(inner, None)
    return kind


def _method(section: str, raw: dict) -> type | None:
    """The settings that stand behind the open sections `objective` and `advantage`."""
    if section == "advantage":
        from visalign.objectives.advantages import AdvantageRule

        return AdvantageRule
    if section == "objective":
        from visalign.objectives import REGISTRIES

        name = raw.get("objective", {}).get("name")
        return next((methods[name] for methods in REGISTRIES.values() if str(name) in methods), None)
    return None


def _members(annotation: Any) -> list[Any]:
    """The alternatives of an annotation."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _members(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return [member for each in get_args(annotation) for member in _members(each)]
    if origin is Literal:
        return [type(word) for word in get_args(annotation)]
    return [origin or annotation]


def _value(text: str, members: list[Any], where: str) -> Any:
    is_list = tuple in members and text.strip().startswith("[") and text.strip().endswith("]")
    if str not in members or is_list or (dict in members and text.lstrip().startswith("{")):
        return parse_yaml(text, where)
    if NoneType in members and text.strip() in ("", "~", "null"):
        return None
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        try:
            unquoted = parse_yaml(text, where)
        except UserError:  # "one" and "two"
            return text
        return unquoted if isinstance(unquoted, str) else text
    return text
