"""Reference pages that are written from the code when the documentation is built.

A page holds a marker on a line of its own, such as `{{ settings offline }}`; what replaces it is Markdown made from the
settings, the objectives and the rewards themselves, so that it cannot fall behind them.
"""

import ast
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import click
from annotated_types import Interval
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

MARKER = re.compile(r"^\{\{ (\w+)(?: (\w+))? \}\}$", re.MULTILINE)
ITEM = re.compile(r"(?:^|(?<=[.;)] ))([a-z]\w*(?:, [a-z]\w*)*): ")

LONG = re.compile(r"\d{4,}(\.0)?|\d+\.0\b")
PROCESSES = {"any": "every family", "flow": "rectified-flow families", "diffusion": "diffusion families"}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace every marker of a page. Raises KeyError for one that nobody writes."""
    return MARKER.sub(lambda found: WRITERS[found[1]](*filter(None, [found[2]])), markdown)


def settings(kind: str) -> str:
    """Every setting of one kind of run: a section of the page for each section of its YAML."""
    from visalign import config
    from visalign.config.adapter import AdaptConfig
    from visalign.config.language_reward import LanguageRewardConfig

    root = {"offline": config.OfflineConfig, "online": config.OnlineConfig, "reward": config.RewardConfig,
            "guide": config.GuideConfig, "language": config.LanguageConfig, "adapter": AdaptConfig,
            "language_online": config.LanguageOnlineConfig, "language_reward": LanguageRewardConfig}[kind]
    return "\n\n".join(_section(path, model, kind) for path, model in _sections(root))


def _sections(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """(dotted path, settings) of every section below `model`, in the order of the YAML."""
    for name, field in model.model_fields.items():
        for inner in _models(field.annotation):
            below = f"{path}.{name}".lstrip(".")
            yield below, inner
            yield from _sections(inner, below)


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]


def _section(path: str, model: type[BaseModel], kind: str) -> str:
    text = inspect.cleandoc(model.__doc__ or "")
    rows = [f"| `{name}` | {_type(field.annotation, field.metadata)} | {_default(field)} |"
            for name, field in model.model_fields.items() if not _models(field.annotation)]
    table = ["", "| setting | allowed | default |", "|---|---|---|", *rows] if rows else []
    return "\n".join([f"### `{path}` {{ #{kind}-{path.replace('.', '-')} }}", "", _prose(text), *table])


def _prose(text: str) -> str:
    """A docstring as Markdown: `name: what it means` becomes an item of a list."""
    paragraphs = []
    for paragraph in text.split("\n\n"):
        if all(line.startswith("    ") for line in paragraph.splitlines()):
            paragraphs.append(f"```text\n{inspect.cleandoc(paragraph)}\n```")
            continue
        flat = " ".join(paragraph.split())
        starts = [found.start() for found in ITEM.finditer(flat)]
        head, items = flat[:starts[0]] if starts else flat, [
            flat[a:b] for a, b in zip(starts, [*starts[1:], len(flat)], strict=False)]
        paragraphs += [_plain(head)] if head.strip() else []
        paragraphs += ["\n".join(map(_item, items))] if items else []
    return "\n\n".join(paragraphs)


def _item(text: str) -> str:
    names, _, meaning = text.partition(": ")
    return f"- {', '.join(f'`{name}`' for name in names.split(', '))}: {_plain(meaning)}"


def _plain(text: str) -> str:
    """Text in which nothing but code is markup: formulas keep their stars, underscores and angles."""
    parts = re.split(r"(`[^`]*`)", text.strip())
    return "".join(part if part.startswith("`") else re.sub(r"([*_\[\]|{}])", r"\\\1", part).replace("<", "&lt;")
                   for part in parts)


def _type(annotation: Any, metadata: Any = ()) -> str:
    """What a setting may be, in words."""
    from visalign.validation.ranges import range_in_words

    for each in metadata:
        if isinstance(each, Interval):
            return f"{_type(annotation)} {LONG.sub(lambda m: f'{float(m[0]):,.0f}', range_in_words(each))}"
    if get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        return _type(inner, more)
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{word}`" for word in get_args(annotation))
    if get_origin(annotation) is Union or type(annotation).__name__ == "UnionType":
        return " or ".join(dict.fromkeys(_type(part) for part in get_args(annotation)))
    if get_origin(annotation) in (tuple, list):
        parts = [part for part in get_args(annotation) if part is not Ellipsis]
        return "a list of " + ", ".join(dict.fromkeys(_type(part) for part in parts))
    if get_origin(annotation) is dict:
        return f"a mapping to {_type(get_args(annotation)[1])}"
    if hasattr(annotation, "__dataclass_fields__"):
        return "a mapping"
    return {str: "text", int: "a whole number", float: "a number", bool: "true or false", dict: "a mapping",
            type(None): "null", Any: "a value"}.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _default(field: Any) -> str:
    if field.default in (PydanticUndefined, MISSING):
        return "must be given" if field.default_factory in (None, MISSING) else "empty"
    value = field.default
    if value is None:
        return "null"
    if isinstance(value, tuple | list):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def methods(loop: str) -> str:
    """Every objective of a loop: what it minimises, where it departs from its paper, its settings, its recipes."""
    from visalign.objectives import REGISTRIES

    pages, described = [], set()
    for name, objective in REGISTRIES[loop].items():
        module = inspect.getmodule(objective)
        if module.__name__ not in described:
            described.add(module.__name__)
            pages.append(_prose(inspect.cleandoc(module.__doc__)))
        pages.append(_objective(name, objective, loop))
    return "\n\n".join(pages)


def _objective(name: str, objective: type, loop: str) -> str:
    from visalign.config.recipes import recipes

    named = re.compile(rf"^objective:\s*\{{?\s*name: {name}\b", re.MULTILINE)
    shipped = [recipe for recipe, file in recipes().items() if recipe.startswith("language/") == loop.startswith(
        "language") and named.search(file.read_text(encoding="utf-8"))]
    return "\n".join([
        f"### `{name}`", "", _described(objective), "",
        *([f"Models: {PROCESSES[objective.process]}.", ""] if hasattr(objective, "process") else []),
        "Recipes: " + (", ".join(f"`{each}`" for each in shipped) or "none") + "."])


def _described(settings: type) -> str:
    """What a dataclass of settings says of itself and of the classes it takes settings from, and a table of them."""
    texts = [inspect.cleandoc(each.__doc__) for each in settings.__mro__
             if each.__module__.startswith("visalign.objectives") and "__dataclass_fields__" in vars(each)]
    rows = [f"| `{field.name}` | {_type(hint)} | {_default(field)} |"
            for field, hint in ((field, get_type_hints(settings, include_extras=True)[field.name])
                                for field in fields(settings))]
    table = ["", "| setting | allowed | default |", "|---|---|---|", *rows] if rows else []
    return "\n".join(["\n\n".join(map(_prose, texts)), *table])


def advantages() -> str:
    """The advantage rule: what it computes, its settings, and what several rewards are combined by."""
    from visalign.objectives import advantages as rule
    from visalign.objectives import balance, constrained, levels, worst_group

    return "\n\n".join([_prose(inspect.cleandoc(rule.__doc__)), _described(rule.AdvantageRule),
                        *(_prose(inspect.cleandoc(each.__doc__)) for each in (
                            balance, constrained, worst_group, levels))])


def commands() -> str:
    """Every command with its options, as `-h` prints them."""
    from visalign.cli import main

    return "\n\n".join(_commands(main, click.Context(main, info_name="visalign")))


def _commands(command: click.Command, context: click.Context) -> Iterator[str]:
    """A section for each command below this one, itself first."""
    yield _command(command, context)
    for name, inner in sorted(getattr(command, "commands", {}).items()):
        if not inner.hidden:
            yield from _commands(inner, click.Context(inner, info_name=name, parent=context))


def _command(command: click.Command, context: click.Context) -> str:
    records = [param.get_help_record(context) for param in command.params if isinstance(param, click.Option)]
    rows = [f"| <code>{name.replace('|', '&#124;')}</code> | {_plain(what)} |" for name, what in filter(None, records)]
    table = ["", "| option | |", "|---|---|", *rows] if rows else []
    level = "##" if isinstance(command, click.Group) or context.parent.parent is None else "###"
    help_text = inspect.cleandoc(command.help or "").replace("\b\n", "")
    return "\n".join([f"{level} {context.command_path}", "", f"```text\n{command.get_usage(context)}\n```", "",
                      _plain(help_text), *table])


def rewards() -> str:
    """One row for each reward, as `visalign list rewards` prints it."""
    from visalign.rewards.registry import describe_rewards

    return "\n".join(["| reward | scores | what it is |", "|---|---|---|",
                      *(f"| `{name}` | {what} | {_plain(line)} |" for name, what, line in describe_rewards())])


def docstring(module: str) -> str:
    """The text at the head of a module, its tables kept as they are."""
    path = Path("visalign", *module.split("__")).with_suffix(".py")
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    return f"```text\n{text}\n```"


WRITERS: dict[str, Callable[..., str]] = {"settings": settings, "methods": methods, "advantages": advantages,
                                          "commands": commands, "rewards": rewards, "docstring": docstring}
