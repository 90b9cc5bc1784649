"""Every number that a person may set has a lowest and a highest value, said in its type."""

import dataclasses
from typing import get_args, get_type_hints

import click
import pytest
from annotated_types import Interval
from pydantic import BaseModel

from visalign.cli import main
from visalign.config import GuideConfig, OfflineConfig, OnlineConfig, RewardConfig
from visalign.evaluation.density_ratio import GeneratorRatio
from visalign.objectives import REGISTRIES
from visalign.objectives.advantages import AdvantageRule
from visalign.rewards.registry import REWARDS
from visalign.validation.ranges import Ranged, intervals


def sections(kind):
    """A settings class and every one that stands below it."""
    yield kind
    for field in kind.model_fields.values():
        for each in (field.annotation, *get_args(field.annotation)):
            if isinstance(each, type) and issubclass(each, BaseModel):
                yield from sections(each)


def unbounded(hint, given=()):
    """Number types in a type that lack an end."""
    given = (*given, *(each for each in getattr(hint, "__metadata__", ()) if isinstance(each, Interval)))
    if hint in (int, float):
        low = any(each.ge is not None or each.gt is not None for each in given)
        high = any(each.le is not None or each.lt is not None for each in given)
        return [] if low and high else [hint]
    parts = get_args(hint)
    if hasattr(hint, "__metadata__"):
        return unbounded(parts[0], given)
    return [each for part in parts for each in unbounded(part)]


CLASSES = sorted({each for root in (OfflineConfig, OnlineConfig, RewardConfig, GuideConfig) for each in sections(root)}
                 | {method for methods in REGISTRIES.values() for method in methods.values()}
                 | {AdvantageRule, GeneratorRatio} | set(REWARDS.values()), key=lambda each: each.__name__)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_number_of_a_recipe_has_two_ends(kind):
    names = kind.model_fields if issubclass(kind, BaseModel) else {f.name for f in dataclasses.fields(kind) if f.init}
    hints = get_type_hints(kind, include_extras=True)
    assert {name: hints[name] for name in names if unbounded(hints[name])} == {}


def commands(group, path=""):
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{path}{name} ")
        else:
            yield f"{path}{name}", command


@pytest.mark.parametrize("name, command", commands(main), ids=lambda each: each if isinstance(each, str) else "")
def test_every_number_of_the_command_line_has_two_ends(name, command):
    kinds = click.types.IntParamType | click.types.FloatParamType
    numbers = [param for param in command.params if isinstance(param.type, kinds)]
    assert [param.name for param in numbers
            if getattr(param.type, "min", None) is None or getattr(param.type, "max", None) is None] == []


@pytest.mark.parametrize("kind", [method for methods in REGISTRIES.values() for method in methods.values()
                                  if dataclasses.fields(method)] + [AdvantageRule], ids=lambda kind: kind.__name__)
def test_python_is_held_to_the_same_ranges(kind):
    assert issubclass(kind, Ranged)
    hints = get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        for interval in intervals(hints[field.name]):
            beyond = [end for end in (interval.gt, interval.lt) if end is not None]
            beyond += [end - 1 for end in (interval.ge,) if end is not None]
            beyond += [end + 1 for end in (interval.le,) if end is not None]
            for value in (*beyond, float("nan"), float("inf")):
                with pytest.raises(ValueError, match=f"{field.name} must be"):
                    kind(**{field.name: value})


@pytest.mark.parametrize("typed", ["0", "-1", "100000", "x", "1.5"])
def test_an_option_out_of_range_is_one_sentence(typed):
    from click.testing import CliRunner

    result = CliRunner().invoke(main, ["generate", "tiny-sd3", "a cat", f"--steps={typed}"])
    assert result.exit_code == 2 and "--steps" in result.output


@pytest.mark.parametrize("typed", ["nan", "inf", "-1", "1000"])
def test_numbers_that_are_none_are_refused(typed):
    from click.testing import CliRunner

    result = CliRunner().invoke(main, ["generate", "tiny-sd3", "a cat", f"--guidance-scale={typed}"])
    assert result.exit_code == 2 and "--guidance-scale" in result.output
