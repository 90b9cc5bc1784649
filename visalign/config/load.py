"""Reading a recipe: YAML data, never code.

Unknown keys are errors that name the nearest allowed key. `key=value` overrides use dots for nesting
(`optim.lr=1e-4`) and `model=NAME` is short for `model.source=NAME`.
"""

import re
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from pydantic import BaseModel, TypeAdapter, ValidationError

from visalign.config import (
    LanguageConfig,
    LanguageOnlineConfig,
    ModelSettings,
    OfflineConfig,
    OnlineConfig,
    Settings,
)
from visalign.config.adapter import AdaptConfig
from visalign.config.common import switch_for_number
from visalign.config.language_answers import AskedSettings
from visalign.config.overrides import apply_overrides
from visalign.errors import UserError, nearest
from visalign.storage.old_names import OLD_SETTINGS
from visalign.storage.yaml_files import read_mapping
from visalign.validation.ranges import RANGE_WORDS

Kind = TypeVar("Kind", bound=BaseModel)


def load_config(path: str | Path, overrides: tuple[str, ...] = (), kind: type[Kind] | None = None) -> Kind:
    """Read and validate a recipe of `kind`; by default an online one if it has a `rollout` section, else offline, of a
    language model where it says `loop: language` or `loop: adapt`.

    Raises UserError with one sentence naming the file and key, what was given, and what is allowed.
    """
    raw = read_mapping(path, "config")
    kind = kind or kind_of_recipe(raw, overrides)
    apply_overrides(raw, overrides, kind)
    return parse_config(raw, str(path), kind)


def kind_of_recipe(raw: dict, overrides: tuple[str, ...] = ()) -> type[Settings]:
    """What a recipe is a recipe of: its loop, and whether the model learns from samples of its own."""
    online = "rollout" in raw or any(each.startswith("rollout.") for each in overrides)
    if raw.get("loop") == "adapt":
        return AdaptConfig
    if raw.get("loop") == "language":
        return LanguageOnlineConfig if online else LanguageConfig
    return OnlineConfig if online else OfflineConfig


class _OneModel(Settings):
    model: ModelSettings


class _OnlyAnswers(Settings):
    answers: AskedSettings = AskedSettings()


def model_of(source: str, settings: tuple[str, ...] = ()) -> ModelSettings:
    """A model with settings given as `key=value`. Raises UserError naming the key that is wrong."""
    raw: dict[str, Any] = {"model": {"source": source}}
    apply_overrides(raw, tuple(f"model.{setting}" for setting in settings), _OneModel)
    try:
        return _OneModel.model_validate(raw).model
    except ValidationError as error:
        raise UserError(f"model {source}: {_explain(error, _OneModel)}") from None


def changed_model(model: ModelSettings, changes: dict[str, Any], where: str) -> ModelSettings:
    """The same model with some other settings. Raises UserError naming the key that is wrong."""
    try:
        return _OneModel.model_validate({"model": model.model_dump(exclude_unset=True) | changes}).model
    except ValidationError as error:
        raise UserError(f"{where}: {_explain(error, _OneModel)}") from None


def asked_settings(settings: tuple[str, ...]) -> AskedSettings:
    """How language models are asked, from `key=value`. Raises UserError naming the key that is wrong."""
    raw: dict[str, Any] = {}
    apply_overrides(raw, tuple(f"answers.{setting}" for setting in settings), _OnlyAnswers)
    try:
        return _OnlyAnswers.model_validate(raw).answers
    except ValidationError as error:
        raise UserError(f"set: {_explain(error, _OnlyAnswers)}") from None


def parse_config(raw: dict, where: str = "config", kind: type[Kind] | None = None) -> Kind:
    """Settings already read; see `load_config`."""
    kind = kind or kind_of_recipe(raw)
    try:
        config = kind.model_validate(raw)
    except ValidationError as error:
        raise UserError(f"{where}: {_explain(error, kind)}") from None
    if isinstance(config, AdaptConfig):
        build_objective(config.dpo.objective, where, LanguageConfig.methods)
        return config
    build_objective(config.objective, where, getattr(kind, "methods", None) or kind.loop)
    if hasattr(config, "advantage"):
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
        raise UserError(f"{where}: objective.name is '{name}', which is not an objective{hint}")
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
    hints = get_type_hints(kind, include_extras=True)
    for key, value in settings.items():
        if switch_for_number(hints[key], value):
            raise UserError(f"{prefix}.{key} is {value!r}: a number is expected")
    try:
        return _adapter(kind).validate_python(settings)
    except ValidationError as error:
        first = min(error.errors(), key=lambda each: (each["type"] != "unexpected_keyword_argument",
                                                      _reads_as_word(each["input"]) != _is_word(each)))
        if first["type"] == "unexpected_keyword_argument":  # of settings within a setting
            raise UserError(unknown.format(key=".".join(map(str, first["loc"])))) from None
        key = ".".join(str(part) for part in first["loc"] if not _ALTERNATIVE.fullmatch(str(part)))
        or_number = " or a number" if _is_word(first) and str(first["loc"][-1]).startswith("literal[") else ""
        raise UserError(f"{prefix}{'.' if key else ': '}{_message(key, first)}{or_number}") from None


def _is_word(error: dict) -> bool:
    return error["type"] == "literal_error"


def _reads_as_word(value: Any) -> bool:
    """Whether a setting that takes a word or a number was given what can only be meant as a word."""
    if not isinstance(value, str):
        return False
    try:
        float(value)
    except ValueError:
        return True
    return False


_adapter = lru_cache(TypeAdapter)
"""What validates a class's settings: making one takes longer than all that it does afterwards."""


def _section(location: tuple, kind: Any) -> type[BaseModel] | None:
    for part in location:
        field = getattr(kind, "model_fields", {}).get(part)
        if field is None:
            return None
        options = [field.annotation, *getattr(field.annotation, "__args__", ())]
        kind = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)
    return kind


def _explain(errors: ValidationError, kind: type[BaseModel]) -> str:
    """One mistake: a key that is unknown before one that is missing, since it is often the same, misspelt; a value
    before its type, since the other alternatives of a setting report types."""
    error = min(errors.errors(), key=lambda each: (each["type"] != "extra_forbidden", each["type"].endswith("_type"),
                                                   -len(each["loc"])))
    location = tuple(part for part in error["loc"] if not _ALTERNATIVE.fullmatch(str(part)))
    key = ".".join(str(part) for part in location)
    if error["type"] == "extra_forbidden" and key in OLD_SETTINGS:
        return f"{key} is called {OLD_SETTINGS[key]} now"
    if error["type"] == "extra_forbidden":
        section = _section(location[:-1], kind)
        return f"unknown key {key}{nearest(str(location[-1]), section.model_fields if section else ())}"
    if error["type"] == "value_error":  # a validator's own sentence names its keys
        return error["msg"].removeprefix("Value error, ")
    return _message(key, error)


_ALTERNATIVE = re.compile(r"(constrained-)?(int|float|str)|(tuple|dict|literal)\[.*\]")
"""How pydantic names the alternatives of a type in an error's location."""

_EXPECTED = {"string_pattern_mismatch": "it must not be empty", "too_short": "it must not be empty",
             "string_type": "text is expected; put it in quotes", "bool_parsing": "true or false is expected",
             "bool_type": "true or false is expected", "tuple_type": "a list such as [a, b] is expected",
             "dict_type": "a mapping such as {name: value} is expected",
             "model_type": "a mapping such as {name: value} is expected"}


def _message(key: str, error: dict) -> str:
    if error["type"] == "missing":
        return f"{key} is missing"
    message = error["msg"].removeprefix("Value error, ")
    if not key or error["type"] == "value_error":
        return f"{key + ': ' if key else ''}{message}"
    message = _EXPECTED.get(error["type"]) or f"{message[0].lower()}{message[1:]}"
    for end, words in RANGE_WORDS.items():
        if end in error.get("ctx", {}):
            message = f"it must be {words} {error['ctx'][end]}"
    return f"{key} is {repr(error['input'])[:100]}: {message}"
