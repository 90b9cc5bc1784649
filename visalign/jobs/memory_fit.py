"""Which settings make a run fit a card, and what they cost in time: for `model.memory: auto`, `--dry-run` and errors.

The least slow set of levers (memory_levers.py) that fits is found by trying them all: a plan is arithmetic once the
passes have been measured.
"""

import importlib.util
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from visalign.errors import UserError
from visalign.generators.hardware.quantization import QUANTIZERS
from visalign.jobs.cards import Card, in_gib
from visalign.jobs.memory_levers import AS_SET, CHEAP, DEAR, LEVERS, Changes, Choice, Config, Lever, changed
from visalign.jobs.memory_plan import MemoryPlan, plan_memory
from visalign.jobs.memory_sizes import PassSizes
from visalign.trainers.opening import check_sharded
from visalign.trainers.optim import OPTIMIZERS


@dataclass(frozen=True)
class Fit:
    """Settings, what they change, their time relative to the settings as they were, and their plan."""

    config: Config
    choices: tuple[Choice, ...]
    time: float
    plan: MemoryPlan


def fits(plan: MemoryPlan, card: Card) -> bool:
    return plan.peak <= card.bytes


def least_slow(config: Config, sizes: PassSizes, card: Card) -> Fit | None:
    """The quickest settings that fit the card, those with the fewest changes among equals; None where none fits."""
    for choices in sorted(_possible(config, sizes, card), key=_slowness):
        given = _chosen(config, choices)
        if not (card.planned or _installed(given)):
            continue
        plan = plan_memory(given, sizes)
        if fits(plan, card) and _allowed(given):
            return Fit(given, tuple(each for each in choices if each.changes), _time(choices), plan)
    return None


def _possible(config: Config, sizes: PassSizes, card: Card) -> Iterator[tuple[Choice, ...]]:
    """Positions of all levers, without those that do not fit even with every cheap lever at its end."""
    cheap, dear = ([[AS_SET, *_choices(lever, config, sizes)] for lever in levers] for levers in (CHEAP, DEAR))
    ends = tuple(positions[-1] for positions in cheap)
    for others in itertools.product(*dear):
        if fits(plan_memory(_chosen(config, ends + others), sizes), card):
            yield from (some + others for some in itertools.product(*cheap))


def _chosen(config: Config, choices: tuple[Choice, ...]) -> Config:
    return changed(config, {name: value for choice in choices for name, value in choice.changes.items()})


def _choices(lever: Lever, config: Config, sizes: PassSizes) -> Iterator[Choice]:
    """A lever's positions that make a difference on this device: a GPU holds weights as it computes with them."""
    idle = {"model.weights"} if sizes.model.device.type == "cuda" else {"model.offload", "reward.offload"}
    return (choice for choice in lever(config, sizes.model.generator) if not idle & choice.changes.keys())


def _allowed(config: Config) -> bool:
    """Whether settings go together."""
    try:
        type(config).model_validate(config.model_dump())
        check_sharded(config)
    except (ValidationError, UserError):
        return False
    return True


def _installed(config: Config) -> bool:
    """Whether the packages of these settings are here."""
    model, package = config.model, OPTIMIZERS[config.optim.name].module.partition(".")[0]
    needed = [package, *([QUANTIZERS[model.quantization].package] if model.quantization != "none" else [])]
    return all(importlib.util.find_spec(name) for name in needed)


def _time(choices: tuple[Choice, ...]) -> float:
    return math.prod(choice.time for choice in choices)


def _slowness(choices: tuple[Choice, ...]) -> tuple[float, int]:
    return _time(choices), sum(bool(choice.changes) for choice in choices)


def next_lever(config: Config, sizes: PassSizes) -> tuple[Choice, int] | None:
    """The one change that lowers the peak most for its time, and by how many bytes; None where nothing does."""
    before = plan_memory(config, sizes).peak
    found = []
    for choice in (choice for lever in LEVERS for choice in _choices(lever, config, sizes)):
        given = changed(config, choice.changes)
        if _allowed(given) and (saved := before - plan_memory(given, sizes).peak) > 0.02 * before:
            found.append((saved / choice.time**8, saved, choice))
    if not found:
        return None
    _, saved, choice = max(found, key=lambda each: each[0])
    return choice, saved


def in_words(changes: Changes) -> str:
    """'model.gradient_checkpointing=true train.batch_size=2'."""
    return " ".join(f"{name}={_as_typed(value)}" for name, value in changes.items())


def _as_typed(value: Any) -> str:
    """A value as it is given on the command line."""
    if isinstance(value, tuple):
        return f"[{','.join(value)}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def advice(config: Config, sizes: PassSizes) -> str:
    """What to switch on next, and by how much that lowers the estimate, as the end of a sentence."""
    found = next_lever(config, sizes)
    if found is None:
        return "nothing that can be switched on lowers it; take a smaller model.resolution or a larger card"
    choice, saved = found
    return f"{in_words(choice.changes)} would take {in_gib(saved)} GiB less"
