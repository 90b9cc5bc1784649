"""Which settings make a run fit a card, and what they cost in time: for `model.memory: auto`, `--dry-run` and errors.

The least slow set of levers (memory_levers.py) that fits is found by trying them all: a plan is arithmetic once the
passes have been measured.
"""

import importlib.util
import itertools
import math
from dataclasses import dataclass

from visalign.generators.hardware.quantization import QUANTIZERS
from visalign.jobs.cards import Card, in_gib
from visalign.jobs.memory_levers import AS_SET, LEVERS, Changes, Choice, Config, changed
from visalign.jobs.memory_plan import MemoryPlan, plan_memory
from visalign.jobs.memory_sizes import PassSizes
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
    tried = [[AS_SET, *lever(config)] for lever in LEVERS]
    for choices in sorted(itertools.product(*tried), key=_slowness):
        given = changed(config, {name: value for choice in choices for name, value in choice.changes.items()})
        if not _usable(given, sizes) or not (card.planned or _installed(given)):
            continue
        plan = plan_memory(given, sizes)
        if fits(plan, card):
            return Fit(given, tuple(each for each in choices if each.changes), _time(choices), plan)
    return None


def _usable(config: Config, sizes: PassSizes) -> bool:
    """Whether settings make a difference on this device: a GPU holds weights as it computes with them anyway."""
    on_gpu = sizes.model.device.type == "cuda"
    return config.model.weights == "auto" if on_gpu else config.model.offload == "none"


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
    for choice in (choice for lever in LEVERS for choice in lever(config)):
        given = changed(config, choice.changes)
        if _usable(given, sizes) and (saved := before - plan_memory(given, sizes).peak) > 0.02 * before:
            found.append((saved / choice.time**8, saved, choice))
    if not found:
        return None
    _, saved, choice = max(found, key=lambda each: each[0])
    return choice, saved


def in_words(changes: Changes) -> str:
    """'model.gradient_checkpointing=true train.batch_size=2'."""
    return " ".join(f"{name}={str(value).lower() if isinstance(value, bool) else value}"
                    for name, value in changes.items())


def advice(config: Config, sizes: PassSizes) -> str:
    """What to switch on next, and by how much that lowers the estimate, as the end of a sentence."""
    found = next_lever(config, sizes)
    if found is None:
        return "nothing that can be switched on lowers it; take a smaller model.resolution or a larger card"
    choice, saved = found
    return f"{in_words(choice.changes)} would take {in_gib(saved)} GiB less"
