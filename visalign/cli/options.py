"""What several verbs take in the same way."""

import math
from pathlib import Path
from typing import Any, get_args

import click

from visalign.validation.ranges import intervals


class Overridable(click.Command):
    """A verb that takes `key=value`; settings typed like options are answered with the form that is meant."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        known = {word for param in self.get_params(ctx) for word in (*param.opts, *param.secondary_opts)}
        for i, word in enumerate(args):
            name, equals, value = word.partition("=")
            if word.startswith("--") and name not in known and (equals or "." in name):
                value = value if equals else (args[i + 1] if i + 1 < len(args) else "VALUE")
                raise click.UsageError(f"settings are written without dashes: write {name[2:]}={value}", ctx)
        return super().parse_args(ctx, args)


class _Real(click.FloatRange):
    """Numbers of a range; nan, which is neither below nor above anything, is none."""

    def convert(self, value, param, ctx):
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail("nan is no number", param, ctx)
        return number


def ranged(hint: Any) -> click.ParamType:
    """The option type of a ranged number of visalign/ranges.py."""
    interval, kind = next(intervals(hint)), click.IntRange if get_args(hint)[0] is int else _Real
    low = interval.gt if interval.ge is None else interval.ge
    high = interval.lt if interval.le is None else interval.le
    return kind(low, high, min_open=interval.ge is None, max_open=interval.le is None)


class Names(click.ParamType):
    """Names separated by commas, with or without spaces, as a tuple."""

    name = "names"

    def __init__(self, may_be_none: bool = False):
        self.may_be_none = may_be_none

    def convert(self, value, param, ctx) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        names = tuple(name.strip() for name in value.split(",") if name.strip())
        if not names and not self.may_be_none:
            self.fail("names nothing; give at least one name, several with commas between them", param, ctx)
        return names


def read_recipe(path: Path, overrides: tuple[str, ...], kind: type | None = None):
    """A recipe's settings; what is probably not meant is said on the way."""
    from visalign.config.load import load_config
    from visalign.config.notes import notes

    settings = load_config(path, overrides, kind)
    for note in notes(settings):
        click.echo(f"note: {note}", err=True)
    return settings
