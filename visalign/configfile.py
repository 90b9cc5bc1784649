"""Reading a recipe: YAML data, never code.

Unknown keys are errors that name the nearest allowed key. `key=value` overrides use dots for nesting
(`optim.lr=1e-4`) and `model=NAME` is short for `model.source=NAME`.
"""

import math
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

from visalign.config import Config, Model, OnlineConfig
from visalign.errors import UserError, nearest

Kind = TypeVar("Kind", bound=BaseModel)


def load_config(path: str | Path, overrides: tuple[str, ...] = (), kind: type[Kind] | None = None) -> Kind:
    """Read and validate a recipe of `kind`; by default an online one if it has a `rollout` section, else offline.

    Raises UserError with one sentence naming the file and key, what was given, and what is allowed.
    """
    raw = read_yaml(Path(path), "config")
    if not isinstance(raw, dict):
        raise UserError(f"config {path}: expected a mapping of sections, found {type(raw).__name__}")
    for override in overrides:
        _apply_override(raw, override)
    return parse_config(raw, str(path), kind)


def model_of(source: str, settings: tuple[str, ...] = ()) -> Model:
    """A model with settings given as `key=value`. Raises UserError naming the key that is wrong."""
    raw: dict[str, Any] = {"source": source}
    for setting in settings:
        _apply_override(raw, setting)
    try:
        return Model.model_validate(raw)
    except ValidationError as error:
        raise UserError(f"model {source}: {_explain(error.errors()[0], Model)}") from None


def read_yaml(path: Path, what: str) -> Any:
    """The content of a YAML file. Raises UserError naming the file when it is missing or unreadable."""
    try:
        return yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{what} {path}: there is no such file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{what} {path}: not readable as YAML ({' '.join(str(error).split())})") from None
    except OSError as error:
        raise UserError(f"{what} {path}: cannot be read ({error.strerror})") from None


def parse_config(raw: dict, where: str = "config", kind: type[Kind] | None = None) -> Kind:
    """Settings already read; see `load_config`."""
    kind = kind or (OnlineConfig if "rollout" in raw else Config)
    try:
        config = kind.model_validate(raw)
    except ValidationError as error:
        raise UserError(f"{where}: {_explain(error.errors()[0], kind)}") from None
    build_objective(config.objective, where, kind.loop)
    if isinstance(config, OnlineConfig):
        build_advantage(config.advantage, where)
    return config


def build_advantage(settings: dict[str, Any], where: str = "config"):
    """The advantage rule with its settings validated."""
    from visalign.objectives.advantages import AdvantageRule

    return build_dataclass(AdvantageRule, settings, f"{where}: unknown key advantage.{{key}}", f"{where}: advantage")


def build_objective(settings: dict[str, Any], where: str = "config", loop: str = "offline"):
    """The objective named in `settings`, with its own settings validated."""
    from visalign.objectives import REGISTRIES

    objectives, settings = REGISTRIES[loop], dict(settings)
    name = settings.pop("name", None)
    if not isinstance(name, str) or name not in objectives:
        hint = nearest(str(name), objectives)
        raise UserError(f"{where}: objective.name is '{name}', which is no objective{hint}")
    return build_dataclass(objectives[name], settings, f"{where}: unknown key objective.{{key}} for {name}",
                           f"{where}: objective")


def build_dataclass(kind: type, settings: dict[str, Any], unknown: str, prefix: str):
    """An instance of the dataclass `kind` with checked types and no unknown field.

    Raises UserError: `unknown` with {key} filled in and the nearest name, or `prefix`, the field and what is allowed.
    """
    fields = getattr(kind, "__dataclass_fields__", {})
    allowed = [key for key, field in fields.items() if field._field_type.name == "_FIELD"]
    for key in settings:
        if key not in allowed:
            raise UserError(unknown.format(key=key) + nearest(key, allowed))
    try:
        return TypeAdapter(kind).validate_python(settings)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{prefix}{'.' if key else ': '}{_message(key, first)}") from None


def _apply_override(raw: dict, override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise UserError(f"override '{override}': expected key=value, for example optim.lr=1e-4")
    if key == "model":
        key = "model.source"
    *parents, last = key.split(".")
    node = raw
    for parent in parents:
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise UserError(f"override '{override}': {parent} is a value, not a section")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"override '{override}': the value is not readable as YAML") from None
    node[last] = _number(value)


def _number(value):
    """YAML 1.1 reads 1e-4 as text; people mean the number."""
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            return value
        return number if math.isfinite(number) else value
    return value


def _section(location: tuple, kind: Any) -> type[BaseModel] | None:
    for part in location:
        field = getattr(kind, "model_fields", {}).get(part)
        if field is None:
            return None
        options = [field.annotation, *getattr(field.annotation, "__args__", ())]
        kind = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)
    return kind


def _explain(error: dict, kind: type[BaseModel]) -> str:
    location = tuple(error["loc"])
    key = ".".join(str(part) for part in location)
    if error["type"] == "extra_forbidden":
        section = _section(location[:-1], kind)
        return f"unknown key {key}{nearest(str(location[-1]), section.model_fields if section else ())}"
    if error["type"] == "value_error":  # the sentence of a check in config.py names its keys itself
        return error["msg"].removeprefix("Value error, ")
    return _message(key, error)


def _message(key: str, error: dict) -> str:
    if error["type"] == "missing":
        return f"{key} is missing"
    message = error["msg"].removeprefix("Value error, ")
    if not key or error["type"] == "value_error":
        return f"{key + ': ' if key else ''}{message}"
    return f"{key} is {error['input']!r}: {message[0].lower()}{message[1:]}"


def recipe_path(name: str) -> Path:
    """A recipe shipped with visalign, from a source checkout or from an installed package."""
    here = Path(__file__).resolve().parent
    for folder in (here / "configs", here.parent / "configs"):
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"recipe {name}: not found beside the package; install visalign from a source checkout")
