"""Arguments and options shared by several commands."""

import math
from pathlib import Path
from typing import Any, get_args

import click

from visalign.errors import UserError
from visalign.validation.ranges import Few, GuidanceScale, SamplingSteps, intervals

DEVICES = ("auto", "cpu", "cuda")
SAMPLING_DEFAULTS = ("the model's own: SD1.5 50 and 7.5, SDXL 30 and 5, SD3 28 and 4.5, FLUX 28 and 3.5, Wan 50 and 5, "
                     "LTX 50 and 3, HunyuanVideo and CogVideoX 50 and 6")


class _Real(click.FloatRange):
    """Numbers in a range; nan, which is neither below nor above anything, is refused."""

    def convert(self, value, param, ctx):
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail("nan is not a number", param, ctx)
        return number


def ranged(hint: Any) -> click.ParamType:
    """The option type of a ranged number of validation/ranges.py."""
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
            self.fail("names nothing; give at least one name, several separated by commas", param, ctx)
        return names


class Numbers(click.ParamType):
    """Whole numbers separated by commas, as a tuple."""

    name = "numbers"

    def convert(self, value, param, ctx) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in value.split(",")]
        if not all(part.isdecimal() and part.isascii() and len(part) < 10 for part in parts):
            self.fail(f"{value!r} is not whole numbers separated by commas, such as 2,6", param, ctx)
        return tuple(map(int, parts))


class RecipeName(click.ParamType):
    """A recipe: a file, or the name of a shipped one, which the shell completes."""

    name = "recipe"

    def shell_complete(self, ctx, param, incomplete: str):
        from click.shell_completion import CompletionItem

        from visalign.config.recipes import recipes

        names = [CompletionItem(name) for name in recipes() if name.startswith(incomplete)]
        return names or [CompletionItem(incomplete, type="file")]


def together(*options):
    """One decorator from several, in the order of the help."""
    def decorate(command):
        for option in reversed(options):
            command = option(command)
        return command
    return decorate


def recipe_arguments(command):
    """CONFIG and its overrides."""
    return together(click.argument("config", type=RecipeName()), click.argument("overrides", nargs=-1))(command)


def resume_options(command):
    """--resume and --auto-resume."""
    return together(
        click.option("--resume", is_flag=True, help="Continue the run in output.folder from its last checkpoint."),
        click.option("--auto-resume", is_flag=True, help="The same where there is a run, else start one: a command for "
                                                         "schedulers to repeat."))(command)


def resumes(settings, resume: bool, auto_resume: bool) -> bool:
    """Whether the run in output.folder is to be continued; the same in all processes, which meet before one begins it.
    """
    from visalign.storage.run_folder import holds_run

    return resume or (auto_resume and holds_run(settings.output.folder))


def out_option(default: str | None, help: str | None = None):
    """-o/--out: where the results go."""
    return click.option("--out", "-o", type=click.Path(path_type=Path), default=default and Path(default),
                        show_default=default is not None, help=help)


def device_option(command):
    return click.option("--device", default="auto", show_default=True, type=click.Choice(DEVICES))(command)


def set_option(command):
    return click.option("--set", "settings", multiple=True, metavar="KEY=VALUE",
                        help="A setting of the model, such as frames=33 or resolution=[480,832]; may be repeated.")(
                            command)


def samples_option(default: int, least: Any = Few):
    return click.option("--samples-per-prompt", default=default, show_default=True, type=ranged(least))


def sampling_options(otherwise: str = SAMPLING_DEFAULTS):
    """--steps and --guidance-scale; otherwise: their defaults, in words."""
    return together(
        click.option("--steps", type=ranged(SamplingSteps), help=f"Sampling steps (default: {otherwise})."),
        click.option("--guidance-scale", type=ranged(GuidanceScale), help="Classifier-free guidance (default: as for "
                                                                          "steps); 1 is none."))


def read_recipe(name: str | Path, overrides: tuple[str, ...], kind: type | None = None, weights: bool = True):
    """A recipe's settings; settings that are probably unintended cause a notice. weights: whether a language model must
    be there, and not its configuration alone.

    Raises UserError also for a generator that cannot be found, before the slow imports of the code that loads it.
    """
    from visalign.config import LanguageModelSettings, ModelSettings
    from visalign.config.load import load_config
    from visalign.config.notes import notes
    from visalign.config.recipes import find_recipe

    settings = load_config(find_recipe(name), overrides, kind)
    if isinstance(settings.model, ModelSettings):
        from visalign.generators import locate_model

        locate_model(settings.model)
    if isinstance(settings.model, LanguageModelSettings):
        from visalign.storage.language_models import locate_language_model

        locate_language_model(settings.model.source, weights=weights)
    for note in notes(settings):
        click.echo(f"note: {note}", err=True)
    return settings


def read_numbers(text: str, what: str) -> list[float]:
    """Numbers separated by commas. Raises UserError starting with `what`."""
    try:
        numbers = [float(number) for number in text.split(",")]
    except ValueError:
        numbers = [math.nan]
    if not all(map(math.isfinite, numbers)):
        raise UserError(f"{what} {text} must be numbers separated by commas, such as 0,1,2,4")
    return numbers
