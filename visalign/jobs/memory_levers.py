"""The ways to take less memory: what each changes in a recipe, and what it costs in time."""

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from visalign.config import ModelSettings, OfflineConfig, OnlineConfig
from visalign.config.load import build_objective
from visalign.errors import UserError
from visalign.generators.base import Generator
from visalign.jobs.memory_sizes import roundable
from visalign.trainers.cost import WITH_GRADIENT, sample_passes
from visalign.trainers.online.epoch_shape import check_arithmetic
from visalign.trainers.optim import OPTIMIZERS

Config = OfflineConfig | OnlineConfig
Changes = dict[str, Any]
"""Settings by their names in a recipe, such as {"model.gradient_checkpointing": True}."""

SMALLER_BATCH, HALF_THE_BATCH = 1.005, 1.03
"""Time of a step when half as many samples are drawn at once, or pass in two micro-batches, as assumed."""

OFFLOADED = {"frozen": 1.01, "rewards": 1.01, "blocks": 1.2}
"""Time of a step whose frozen parts are elsewhere, as assumed."""
QUANTISED = {"int8": 1.15, "nf4": 1.3}
"""Time of a step with weights that have to be computed from rounded ones, as assumed."""
ROUNDED_TEXTS, ADAFACTOR, FUSED = 1.02, 1.05, 1.05
"""Hardly time: what is assumed for prompts that are read by rounded weights, an optimiser without momentum, and
gradients that nothing clips, so that each is chosen after what changes nothing."""
LARGE = 10**9
"""Numbers in a text encoder from which on rounding it is proposed."""


@dataclass(frozen=True)
class Choice:
    """One position of a lever: what it changes, and the time of a step relative to that without it."""

    changes: Changes
    time: float = 1.0
    why: str = ""


AS_SET = Choice({})


def changed(config: Config, changes: Changes) -> Config:
    """The settings with others, by their names in a recipe."""
    sections: dict[str, Changes] = {}
    for name, value in changes.items():
        section, key = name.split(".")
        sections.setdefault(section, {})[key] = value
    return config.model_copy(update={section: getattr(config, section).model_copy(update=given)
                                     for section, given in sections.items()})


def checkpointing(config: Config, generator: Generator) -> Iterator[Choice]:
    """A forward pass more for each pass with gradients, by the passes that a step has."""
    if not config.model.gradient_checkpointing:
        yield Choice({"model.gradient_checkpointing": True}, 1 + 1 / _passes(config), "blocks are computed again")


def _passes(config: Config) -> float:
    """Passes of a step for each pass with gradients, which counts three of them."""
    objective = build_objective(config.objective, loop=config.loop)
    if config.loop == "offline":
        return WITH_GRADIENT + objective.passes.without / objective.passes.with_gradient
    drawn, learnt, frozen = sample_passes(config, objective)
    return (drawn + WITH_GRADIENT * learnt + frozen) / learnt


def micro_batches(config: Config, generator: Generator) -> Iterator[Choice]:
    """Halves of the batch, with as many more of them: the effective batch stays."""
    train = config.train
    if config.loop == "offline":
        for parts in (2**k for k in range(1, 13)):
            if train.batch_size % parts == 0:
                yield Choice({"train.batch_size": train.batch_size // parts,
                              "train.gradient_accumulation": train.gradient_accumulation * parts},
                             HALF_THE_BATCH ** math.log2(parts), "the effective batch stays as it is")
        return
    unit = build_objective(config.objective, loop="online").unit_size(config.rollout.group_size)
    size = train.batch_size // 2
    while size >= unit:
        yield Choice({"train.batch_size": size}, HALF_THE_BATCH ** math.log2(train.batch_size / size),
                     "gradients are summed over an update anyway")
        size //= 2


def drawn_together(config: Config, generator: Generator) -> Iterator[Choice]:
    """Fewer samples at once in evaluations and rollouts."""
    most = max(config.eval.batch_size, config.rollout.batch_size if config.loop == "online" else 1)
    for parts in (2**k for k in range(1, most.bit_length())):
        size = max(1, config.eval.batch_size // parts)
        changes: Changes = {"eval.batch_size": size} if size < config.eval.batch_size else {}
        if config.loop == "online" and config.rollout.batch_size % parts == 0:
            trial = changes | {"rollout.batch_size": config.rollout.batch_size // parts}
            changes = trial if _divides(changed(config, trial)) else changes
        if changes:
            yield Choice(changes, SMALLER_BATCH ** math.log2(parts), "fewer samples are drawn at once")


def _divides(config: OnlineConfig) -> bool:
    try:
        check_arithmetic(config, 1)
    except UserError:
        return False
    return True


def small_optimizer(config: Config, generator: Generator) -> Iterator[Choice]:
    """8-bit moments, and where all weights are trained hardly any."""
    if config.optim.options:  # which are of its own constructor
        return
    if config.optim.name == "adamw":
        yield Choice({"optim.name": "adamw8bit"}, 1.01, "moments of 8 bits")
    if config.optim.name.startswith("adamw") and config.model.tuning == "full":
        yield Choice({"optim.name": "adafactor"}, ADAFACTOR, "hardly any moments")


def fused(config: Config, generator: Generator) -> Iterator[Choice]:
    """No gradients but one, where all weights are trained by one process; which combinations take it is checked."""
    if config.loop == "offline" and config.model.tuning == "full" and not config.optim.fused_backward and \
            int(os.environ.get("WORLD_SIZE", "1")) == 1 and OPTIMIZERS[config.optim.name].alone and \
            build_objective(config.objective, loop=config.loop).passes.with_gradient == 1:
        yield Choice({"optim.fused_backward": True, "optim.grad_clip": None}, FUSED,
                     "each weight steps when its gradient is there, which is not clipped")


def sides_apart(config: Config, generator: Generator) -> Iterator[Choice]:
    """One side of a pair after the other, for a forward pass more."""
    if config.loop == "offline" and not config.train.one_side_at_a_time and \
            "rejected" in build_objective(config.objective, loop=config.loop).sides:
        yield Choice({"train.one_side_at_a_time": True}, 1 + 1 / _passes(config), "one side of a pair at a time")


def rounded_weights(config: Config, generator: Generator) -> Iterator[Choice]:
    """A quantised base below a LoRA, and text encoders that are; those of a GGUF file are packed already."""
    model = config.model
    if model.tuning != "lora" or packed(model):
        return
    texts = {} if model.quantized_parts else large_texts(generator)
    for name, time in QUANTISED.items() if model.quantization == "none" else [(model.quantization, 1.0)]:
        base: Changes = {} if name == model.quantization else {"model.quantization": name}
        if base:
            yield Choice(base, time, "the reference is the rounded model")
        if texts:
            yield Choice(base | {"model.quantized_parts": tuple(texts)}, time * ROUNDED_TEXTS,
                         "the reference is the rounded model" if base else "prompts are read by rounded weights")


def packed(model: ModelSettings) -> bool:
    """Whether the denoiser comes from a GGUF file."""
    return any(given.lower().endswith(".gguf") for given in (model.source, *model.parts.values()))


def large_texts(generator: Generator) -> dict[str, int]:
    """Text encoders that are worth rounding, and the numbers in them that can be."""
    found = {name: roundable(part) for name, part in generator.text_encoders().items()}
    return {name: numbers for name, numbers in found.items() if numbers >= LARGE}


def rewards_away(config: Config, generator: Generator) -> Iterator[Choice]:
    """Rewards in host memory while the generator trains."""
    if config.loop == "online" and config.reward.models and not config.reward.offload:
        yield Choice({"reward.offload": True}, OFFLOADED["rewards"], "rewards leave the GPU while it trains")


def offloaded(config: Config, generator: Generator) -> Iterator[Choice]:
    """Frozen parts in host memory while the denoiser runs, and the reference of a full fine-tune block by block."""
    if config.model.offload == "none":
        yield Choice({"model.offload": "frozen"}, OFFLOADED["frozen"], "text encoders and VAE leave the GPU")
    if config.model.offload != "blocks" and config.model.tuning == "full":
        yield Choice({"model.offload": "blocks"}, OFFLOADED["blocks"], "the reference comes block by block")


def narrow_weights(config: Config, generator: Generator) -> Iterator[Choice]:
    """Frozen weights as they are computed with; a CPU holds them in float32 else."""
    if config.model.weights == "auto" and config.model.precision in ("auto", "bf16"):
        yield Choice({"model.weights": "bf16"}, 1.001, "frozen weights in half as many bytes")


def sliced_decoding(config: Config, generator: Generator) -> Iterator[Choice]:
    """One sample at a time through the VAE, or tiles of one."""
    if not config.model.vae_slicing:
        yield Choice({"model.vae_slicing": True}, 1.002, "one sample at a time is decoded")
    if not config.model.vae_tiling:
        yield Choice({"model.vae_slicing": True, "model.vae_tiling": True}, 1.02, "samples are decoded in tiles")


def half_decoding(config: Config, generator: Generator) -> Iterator[Choice]:
    """Latents decoded in bf16, by VAEs that can."""
    if config.model.vae_precision == "fp32" and not generator.exact_vae:
        yield Choice({"model.vae_precision": "bf16"}, 1.004, "samples are decoded in bf16")


Lever = Callable[[Config, Generator], Iterator[Choice]]

CHEAP: tuple[Lever, ...] = (narrow_weights, offloaded, rewards_away, sliced_decoding, half_decoding, small_optimizer,
                            fused, drawn_together)
DEAR: tuple[Lever, ...] = (micro_batches, checkpointing, sides_apart, rounded_weights)
LEVERS = CHEAP + DEAR
"""In the order in which they are said; each gives its positions from the least change on, the last of which saves
most where it is a cheap one."""
