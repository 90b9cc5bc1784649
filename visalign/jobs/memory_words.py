"""What a person reads of memory: the table of `--dry-run`, what `model.memory: auto` chose, and whether a run fits."""

import contextlib
import textwrap
from collections.abc import Iterator
from pathlib import Path

from visalign.errors import UserError, notice
from visalign.generators.base import Generator
from visalign.generators.hardware.devices import pick_device
from visalign.generators.hardware.weightless import Weightless
from visalign.jobs.cards import Card, find_card, in_gib
from visalign.jobs.memory_fit import Fit, advice, fits, in_words, least_slow
from visalign.jobs.memory_levers import LEVERS, Config, changed
from visalign.jobs.memory_plan import MemoryPlan, plan_memory
from visalign.jobs.memory_sizes import PassSizes
from visalign.storage.out_of_memory import OutOfMemory
from visalign.storage.yaml_files import read_mapping

TINY = 2**30 // 2
"""Bytes of a model with which any machine that runs torch can be expected to be large enough."""
CERTAIN = 1.5
"""How far an estimate has to lie above what there is for a run to be refused; below that it is warned of."""


def memory_table(config: Config, sizes: PassSizes, card: Card) -> list[str]:
    """Every part, every moment, the peak, and whether it fits."""
    plan = plan_memory(config, sizes)
    several = sizes.division.words
    lines = [f"memory, in GiB        on {card.words}" + f"; one of {several}" * bool(several)]
    lines += [f"  {name:<30}{in_gib(size):>7}" for name, size in plan.held.items()]
    for moment, parts in plan.moments.items():
        what = ", ".join(f"{in_gib(size)} {name}" for name, size in parts.items() if size)
        lines.append(f"  {f'at {moment}':<30}{in_gib(plan.at(moment)):>7}" + (f" with {what} beside" if what else ""))
    lines.append(f"  {'peak':<30}{in_gib(plan.peak):>7} at {plan.moment}")
    if plan.host:
        what = ", ".join(f"{in_gib(size)} of {name}" for name, size in plan.host.items())
        lines.append(f"  {'in host memory':<30}{in_gib(sum(plan.host.values())):>7} with {what} of an epoch")
    return [*lines, *(f"  {each}" for each in (*plan.uncounted, verdict(config, sizes, card, plan)))]


def verdict(config: Config, sizes: PassSizes, card: Card, plan: MemoryPlan) -> str:
    """Whether it fits, and what to switch on where it does not."""
    if plan.unknown:
        return f"activations are not counted: {plan.unknown}"
    if fits(plan, card):
        return f"it fits, with {in_gib(card.bytes - plan.peak)} GiB to spare"
    return f"it does not fit, {in_gib(plan.peak - card.bytes)} GiB are missing: {advice(config, sizes)}; " \
           "model.memory=auto chooses for you"


def fitted(config: Config, sizes: PassSizes, card: Card) -> tuple[Config, list[str]]:
    """The settings that `model.memory: auto` chooses, and what to say of them; others as they are.

    Raises UserError where nothing fits.
    """
    if config.model.memory != "auto":
        return config, []
    plan = plan_memory(config, sizes)
    if plan.unknown:
        raise UserError(f"model.memory auto: {plan.unknown}, so nothing can be planned; set yourself what saves memory")
    found = least_slow(config, sizes, card)
    if found is None:
        rewards = f" (rewards take {in_gib(plan.held['rewards'])} of them)" if "rewards" in plan.held else ""
        raise UserError(f"model.memory auto: no settings make this run fit {card.words}; it would take "
                        f"{in_gib(plan.peak)} GiB{rewards} at {plan.moment}; {advice(config, sizes)}")
    return found.config, [explained_choice(found, card)]


def explained_choice(found: Fit, card: Card) -> str:
    """One paragraph: what was chosen, why, and what it costs."""
    if not found.choices:
        text = f"model.memory auto: nothing had to be changed; the peak of {in_gib(found.plan.peak)} GiB, at " \
               f"{found.plan.moment}, fits {card.words}."
    else:
        chosen = "; ".join(f"{in_words(each.changes)} ({each.why})" for each in found.choices)
        text = f"model.memory auto: the least slow settings that fit {card.words} are {chosen}. A step is expected " \
               f"to take {found.time:.2f} times as long as with the settings as they were; the peak is " \
               f"{in_gib(found.plan.peak)} GiB, at {found.plan.moment}."
    text = " ".join([text, *(f"{each[0].upper()}{each[1:]}." for each in found.plan.uncounted)])
    return textwrap.fill(text, 110)


def settled(config: Config, generator: Generator, resume: bool = False) -> Config:
    """Settings that fit, before anything is loaded; a notice of what was chosen, or of what may not fit.

    generator: the model without weights. A run that is resumed keeps what was chosen as it started. Raises UserError
    where the run cannot fit.
    """
    earlier = Path(config.output.folder).expanduser() / "config.yaml"
    if config.model.memory == "auto" and resume and earlier.is_file():
        return as_chosen(config, read_mapping(earlier, "run"), generator)
    modules = [generator.denoiser, *generator.frozen_modules()]
    small = 4 * sum(p.numel() for module in modules for p in module.parameters()) < TINY
    if small and config.model.memory != "auto":
        return config
    card = find_card(config.train.device)
    sizes = PassSizes(Weightless(config.model, card.device))
    config, said = fitted(config, sizes, card)
    for text in said:
        notice(text)
    plan = plan_memory(config, sizes)
    if not fits(plan, card):
        text = f"memory: about {in_gib(plan.peak)} GiB are needed at {plan.moment}, on {card.words}: " \
               f"{advice(config, sizes)}, or let model.memory=auto choose"
        if plan.peak > CERTAIN * card.bytes:
            raise UserError(text)
        notice(text)
    return config


def as_chosen(config: Config, known: dict, generator: Generator) -> Config:
    """The settings with those that levers move as an earlier start of the run has them."""
    names = {name for lever in LEVERS for choice in lever(config, generator) for name in choice.changes}
    found = {name: known[section][key] for name in names for section, key in [name.split(".")]
             if key in known.get(section, {})}
    return changed(config, {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()})


@contextlib.contextmanager
def advised(config: Config) -> Iterator[None]:
    """Within it memory that ends is told with what to switch on next, and by how much that lowers the estimate."""
    try:
        yield
    except OutOfMemory as error:
        sizes = PassSizes(Weightless(config.model, pick_device(config.train.device)))
        plan = plan_memory(config, sizes)
        raise UserError(f"the memory ended while {error.moment}, with {in_gib(error.taken)} GiB taken (the estimate "
                        f"for this run is {in_gib(plan.peak)} GiB, at {plan.moment}): "
                        f"{advice(config, sizes)}") from error
