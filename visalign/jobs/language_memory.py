"""What a run of a language model takes in memory, part by part and moment by moment, before anything is loaded.

Weights, gradients and the optimiser are arithmetic; activations are counted on the model's configuration
(language/sketch.py) with the run's own largest batch. Logits of the vocabulary come in tiles where the objective takes
the log-probabilities of answers alone, and whole where it compares distributions.
"""

from typing import NamedTuple

from torch import Tensor

from visalign.config import LanguageOnlineConfig, LanguageSettings
from visalign.config.load import build_objective
from visalign.errors import UserError
from visalign.generators.hardware.devices import pick_dtype
from visalign.jobs.cards import Card, in_gib
from visalign.jobs.memory_plan import FOREACH, PROGRAM, MemoryPlan
from visalign.language.convert import held_precision
from visalign.language.sketch import LanguageSketch, model_on_meta, numbers_in, pass_activations
from visalign.rewards.sizes import SINGLE
from visalign.storage.language_models import locate_language_model
from visalign.trainers.optim import MOMENTS

TILE = (4096, 32768)
"""Tokens and entries of the vocabulary whose logits are in memory at once where none are kept (TRL's fused head)."""


def language_memory(config: LanguageSettings, sketch: LanguageSketch, batch: dict[str, Tensor],
                    card: Card) -> list[str]:
    """The table of a run's memory: every part, every moment, the peak, and whether it fits. batch: {} where none
    is short enough."""
    plan = plan_language(config, sketch, batch, card)
    lines = [f"memory, in GiB    on {card.words}", *(f"  {name:<26}{in_gib(size):>7}" for name, size in
                                                     plan.held.items())]
    for moment, parts in plan.moments.items():
        what = ", ".join(f"{in_gib(size)} {name}" for name, size in parts.items() if size)
        lines.append(f"  {f'at {moment}':<26}{in_gib(plan.at(moment)):>7} with {what} beside")
    lines.append(f"  {'peak':<26}{in_gib(plan.peak):>7} at {plan.moment}")
    return [*lines, *(f"  {each}" for each in (*plan.uncounted, in_words_of(config, plan, card)))]


def in_words_of(config: LanguageSettings, plan: MemoryPlan, card: Card) -> str:
    """Whether a run fits, and what to change where it does not."""
    if plan.unknown:
        return f"activations are not counted: {plan.unknown}"
    if plan.peak <= card.bytes:
        return f"it fits, with {in_gib(card.bytes - plan.peak)} GiB to spare"
    levers = [words for words, there in (
        ("model.gradient_checkpointing=true", not config.model.gradient_checkpointing),
        ("a smaller train.batch_size with more train.gradient_accumulation", config.train.batch_size > 1),
        ("model.tuning=lora", config.model.tuning == "full")) if there]
    return f"it does not fit, {in_gib(plan.peak - card.bytes)} GiB are missing" + (
        f"; try {', or '.join(levers)}" if levers else "")


class _Passes(NamedTuple):
    """What an objective asks of a pass: whether it compares with a reference, whether it keeps whole logits, and how
    many teachers give theirs."""

    compares: bool
    whole: bool
    teachers: int


def plan_language(config: LanguageSettings, sketch: LanguageSketch, batch: dict[str, Tensor],
                  card: Card) -> MemoryPlan:
    """The plan of one process on a card."""
    on_gpu, passes = card.device.type == "cuda", _passes_of(config)
    held_type = held_precision(config, card.device)
    trained = SINGLE * sketch.trained
    frozen = 0 if config.model.tuning == "full" else sketch.base
    held = {"frozen weights": held_type.itemsize * frozen, "trained weights": trained,
            **_beside(config, sketch, passes, held_type.itemsize),
            "optimiser": round(MOMENTS[config.optim.name] * sketch.trained), "program": PROGRAM[card.device.type]}
    working = trained if on_gpu and config.optim.name in FOREACH else 0
    moments = {"the optimiser's step": {"gradients": trained, "working copy": working}}
    unknown = None if batch else "every pair is longer than train.max_length"
    if batch:
        try:
            passed = {name: value for name, value in batch.items() if name != "completion_mask"}
            kept = pass_activations(sketch, passed, card.device, pick_dtype(config.model.precision, card.device),
                                    held_type)
            moments = {"a step's backward pass": {
                "activations": kept.of(config.model.gradient_checkpointing), "gradients": trained,
                "logits": _logits(sketch, batch, passes)}} | moments
        except UserError as error:
            unknown = str(error)
    return MemoryPlan({name: size for name, size in held.items() if size}, moments, unknown,
                      ("answers drawn in between, and what measures them, are not counted",))


def _passes_of(config: LanguageSettings) -> _Passes:
    objective = build_objective(config.objective, loop=config.methods)
    if isinstance(config, LanguageOnlineConfig):
        return _Passes(bool(objective.beta), False, 0)
    whole = bool({"distributions", "hidden"} & objective.needs)
    return _Passes(whole or "reference" in objective.needs, whole, len(objective.teachers))


def _beside(config: LanguageSettings, sketch: LanguageSketch, passes: _Passes, width: int) -> dict[str, int]:
    """Bytes of frozen models beside the one that learns."""
    own = config.model.reference
    reference = 0
    if passes.compares and own is not None:
        reference = _numbers_of(config, own, "model.reference")
    elif passes.compares and config.model.tuning == "full":
        reference = sketch.base
    teachers = sum(_numbers_of(config, source, f"model.teachers.{name}")
                   for name, source in config.model.teachers.items())
    return {"reference": width * reference, "teachers": width * teachers}


def _numbers_of(config: LanguageSettings, source: str, where: str) -> int:
    return numbers_in(model_on_meta(locate_language_model(source, where, weights=False), config.model.vision, where))


def _logits(sketch: LanguageSketch, batch: dict[str, Tensor], passes: _Passes) -> int:
    """Of whole ones: the policy's, their logarithms and gradients, and those of the reference and each teacher."""
    rows, tokens = batch["input_ids"].shape
    if passes.whole or passes.teachers:
        return SINGLE * rows * (tokens - 1) * sketch.text.vocab_size * (3 + passes.compares + passes.teachers)
    return 2 * SINGLE * min(TILE[0], rows * tokens) * min(TILE[1], sketch.text.vocab_size)
