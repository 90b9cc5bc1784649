"""The ways to take less memory: what each changes in a recipe, and what it costs in time."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from visalign.config import OfflineConfig, OnlineConfig
from visalign.config.load import build_objective
from visalign.errors import UserError
from visalign.trainers.cost import WITH_GRADIENT, sample_passes
from visalign.trainers.online.epoch_shape import check_arithmetic

Config = OfflineConfig | OnlineConfig
Changes = dict[str, Any]
"""Settings by their names in a recipe, such as {"model.gradient_checkpointing": True}."""

SMALLER_BATCH, HALF_THE_BATCH = 1.005, 1.03
"""Time of a step when half as many samples are drawn at once, or pass in two micro-batches, as assumed."""


OFFLOADED = {"frozen": 1.01, "blocks": 1.2}
"""Time of a step whose frozen parts are elsewhere, as assumed."""
QUANTISED = {"int8": 1.15, "nf4": 1.3}
"""Time of a step with weights that have to be computed from rounded ones, as assumed."""


@dataclass(frozen=True)
class Choice:
    """One position of a lever: what it changes, and the time of a step relative to that without it."""

    changes: Changes
    time: float = 1.0
    why: str = ""


AS_SET = Choice({})


def changed(config: Config, changes: Changes) -> Config:
    """The settings with others, by their names in a recipe."""
    for name, value in changes.items():
        section, key = name.split(".")
        config = config.model_copy(update={section: getattr(config, section).model_copy(update={key: value})})
    return config


def checkpointing(config: Config) -> Iterator[Choice]:
    """A forward pass more for each pass with gradients, by the passes that a step has."""
    if not config.model.gradient_checkpointing:
        yield Choice({"model.gradient_checkpointing": True}, 1 + 1 / _passes(config), "blocks are computed again")


def _passes(config: Config) -> float:
    """Passes of a step for each pass with gradients, which counts three of them."""
    objective = build_objective(config.objective, loop=config.loop)
    if config.loop == "offline":
        return WITH_GRADIENT + ("reference" in objective.needs)
    drawn, learnt, frozen = sample_passes(config, objective)
    return (drawn + WITH_GRADIENT * learnt + frozen) / learnt


def micro_batches(config: Config) -> Iterator[Choice]:
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


def drawn_together(config: Config) -> Iterator[Choice]:
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


def small_optimizer(config: Config) -> Iterator[Choice]:
    """8-bit moments, where all weights are trained."""
    if config.model.tuning == "full" and config.optim.name == "adamw":
        yield Choice({"optim.name": "adamw8bit"}, 1.01, "moments of 8 bits")


def sides_apart(config: Config) -> Iterator[Choice]:
    """One side of a pair after the other, for a forward pass more."""
    if config.loop == "offline" and not config.train.one_side_at_a_time and \
            "rejected" in build_objective(config.objective, loop=config.loop).needs:
        yield Choice({"train.one_side_at_a_time": True}, 1 + 1 / _passes(config), "one side of a pair at a time")


def rounded_weights(config: Config) -> Iterator[Choice]:
    """A quantised base below a LoRA."""
    if config.model.tuning != "lora" or config.model.quantization != "none":
        return
    for name, time in QUANTISED.items():
        yield Choice({"model.quantization": name}, time, "the reference is the rounded model")


def offloaded(config: Config) -> Iterator[Choice]:
    """Frozen parts in host memory while the denoiser runs, and the reference of a full fine-tune block by block."""
    if config.model.offload == "none":
        yield Choice({"model.offload": "frozen"}, OFFLOADED["frozen"], "text encoders and VAE leave the GPU")
    if config.model.offload != "blocks" and config.model.tuning == "full":
        yield Choice({"model.offload": "blocks"}, OFFLOADED["blocks"], "the reference comes block by block")


def narrow_weights(config: Config) -> Iterator[Choice]:
    """Frozen weights as they are computed with; a CPU holds them in float32 else."""
    if config.model.weights == "auto" and config.model.precision in ("auto", "bf16"):
        yield Choice({"model.weights": "bf16"}, 1.001, "frozen weights in half as many bytes")


def sliced_decoding(config: Config) -> Iterator[Choice]:
    """One sample at a time through the VAE, or tiles of one."""
    if not config.model.vae_slicing:
        yield Choice({"model.vae_slicing": True}, 1.002, "one sample at a time is decoded")
    if not config.model.vae_tiling:
        yield Choice({"model.vae_slicing": True, "model.vae_tiling": True}, 1.02, "samples are decoded in tiles")


LEVERS: tuple[Callable[[Config], Iterator[Choice]], ...] = (
    narrow_weights, offloaded, sliced_decoding, small_optimizer, drawn_together, micro_batches, checkpointing,
    sides_apart, rounded_weights)
"""In the order in which they are said; each gives its positions from the least change on."""
