"""What a run takes in memory, part by part and moment by moment, before anything is loaded.

    held all the time (weights, optimiser, averages) + the moment that takes most (backward, optimiser's step, sampling,
    decoding, encoding)

Activations are counted on a generator without weights (generators/hardware/weightless.py); all else is arithmetic.
"""

import json
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from visalign.config import OfflineConfig, OnlineConfig
from visalign.config.load import build_objective
from visalign.data.prompts import count_prompts
from visalign.errors import UserError
from visalign.generators.encoding_size import numbers_of_latents
from visalign.generators.hardware.devices import held_dtype
from visalign.generators.hardware.quantization import QUANTIZERS
from visalign.jobs.memory_beside import reward_sizes
from visalign.jobs.memory_sizes import PassSizes
from visalign.parallel.zero import BUCKET
from visalign.trainers.optim import MOMENTS

PROGRAM = {"cuda": round(0.7 * 2**30), "cpu": round(0.9 * 2**30)}
"""A GPU's context, workspaces and fragmentation (others have measured it); Python and its libraries (measured)."""
FOREACH = ("adamw",)
"""Optimisers of torch that, on a GPU, work on all weights at once, in a copy of them."""


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes. held: by part, all the time. moments: what each takes beside, by part, less what is away then.

    unknown: why activations could not be counted. uncounted: what else is not in it, in sentences. host: what lies
    in host memory meanwhile, where that is another.
    """

    held: dict[str, int]
    moments: dict[str, dict[str, int]]
    unknown: str | None = None
    uncounted: tuple[str, ...] = ()
    host: dict[str, int] = field(default_factory=dict)

    @property
    def moment(self) -> str:
        """The one that takes most."""
        return max(self.moments, key=lambda name: sum(self.moments[name].values()))

    @property
    def peak(self) -> int:
        return sum(self.held.values()) + sum(self.moments[self.moment].values())

    def at(self, moment: str) -> int:
        return sum(self.held.values()) + sum(self.moments[moment].values())


def plan_memory(config: OfflineConfig | OnlineConfig, sizes: PassSizes) -> MemoryPlan:
    """The plan of one process on the device of `sizes`."""
    return _Planning(config, sizes).plan()


count = lru_cache(count_prompts)
"""Of a file of prompts, read once for all plans."""


@lru_cache
def objective_of(settings: str, loop: str) -> Any:
    """An objective by its settings as JSON, built once for all plans."""
    return build_objective(json.loads(settings), loop=loop)


class _Planning:
    def __init__(self, config: OfflineConfig | OnlineConfig, sizes: PassSizes):
        self.config, self.sizes, self.generator = config, sizes, sizes.model.generator
        self.objective = objective_of(json.dumps(config.objective), config.loop)
        self.on_gpu = sizes.model.device.type == "cuda"
        self.trained = sizes.held.trained
        self.rewards = reward_sizes(config)
        self.division, self.processes = sizes.division, sizes.division.processes
        self.mine = sizes.held.trained_part
        """Of the trained weights, what this process holds."""
        self.stepped = 4 * self.division.flat(self.trained // 4) if self._flat() else self.mine
        """Of them, what it steps."""

    def _flat(self) -> bool:
        """Whether only what trains the network is divided, as by ZeRO-2."""
        return self.division.state > 1 and self.division.weights == 1

    def _sharded(self) -> bool:
        return self.division.weights > 1

    def plan(self) -> MemoryPlan:
        held = self._weights() | self._beside_the_weights() | {"program": PROGRAM[self.sizes.model.device.type]}
        held = {name: size for name, size in held.items() if size}
        away = self._away()
        learning, host = away | self._rewards_away(), self._epoch() if self.on_gpu else {}
        step = {"the optimiser's step": self._step() | learning}
        try:
            moments = {"a step's backward pass": self._backward() | learning, "sampling": self._sampling() | away,
                       **self._coding(away)}
        except UserError as error:
            return MemoryPlan(held, step, str(error), self._uncounted(), host)
        return MemoryPlan(held, moments | step, None, self._uncounted(), host)

    def _uncounted(self) -> tuple[str, ...]:
        unknown, found = self.rewards.unknown, []
        if unknown:
            found.append(f"rewards are not counted: {', '.join(unknown)}")
        if "own" in self.objective.needs:
            found.append("samples of earlier selves, of which host memory keeps the latents, are not counted: "
                         f"{4 * numbers_of_latents(self.generator):,} bytes for each prompt and self")
        if self._learns_through_rewards():
            found.append("gradients through the VAE and the rewards are not counted")
        return tuple(found)

    def _learns_through_rewards(self) -> bool:
        return self.config.loop == "online" and self.objective.through_reward

    def _rewards_away(self) -> dict[str, int]:
        """Of the rewards that score, what is in host memory while the network learns: less than nothing."""
        offloaded = self.config.loop == "online" and self.config.reward.offload and self.on_gpu
        return {"rewards offloaded": -self.rewards.scoring} if offloaded and self.rewards.scoring else {}

    def _epoch(self) -> dict[str, int]:
        """What is kept of an epoch's samples."""
        online = self.config.loop == "online"
        return self.sizes.sample.epoch(self.config, self.objective, self.processes) if online else {}

    def _away(self) -> dict[str, int]:
        """Of the frozen parts, what is in host memory while the network runs: less than nothing."""
        if self.config.model.offload == "none" or not self.on_gpu:
            return {}
        return {"offloaded": -self._texts() - self.sizes.held.vae}

    def _weights(self) -> dict[str, int]:
        held, full = self.sizes.held, self.config.model.tuning == "full"
        streamed = self.config.model.offload == "blocks" and self.on_gpu
        numbers = min(2 * held.block, self.trained // 4) if streamed else self.mine // 4  # one computes, one comes
        copy = self.sizes.model.compute_dtype.itemsize * numbers if full else 0
        frozen = self._narrowed(held.frozen_part) if self._sharded() else self._rounded(self._narrowed(held.frozen))
        return {"frozen weights": frozen + held.packed, "trained weights": self.mine, "frozen copy": copy,
                "text encoders": self._texts(), "VAE": held.vae}

    def _narrowed(self, size: int) -> int:
        """Weights held as these settings say; they were counted as those of `sizes` do."""
        model = self.sizes.model
        return size * held_dtype(self.config.model, model.device).itemsize // model.held.itemsize

    def _rounded(self, frozen: int) -> int:
        """The denoiser's frozen weights, with those that these settings quantise in fewer bytes."""
        model = self.config.model
        if model.quantization == "none":
            return frozen
        width = held_dtype(model, self.sizes.model.device).itemsize
        saved = width - QUANTIZERS[model.quantization].bytes_per_weight
        return frozen - round(self.sizes.held.roundable * saved)

    def _texts(self) -> int:
        """Text encoders, with those that these settings quantise in fewer bytes."""
        model, size = self.config.model, self._narrowed(self.sizes.held.text_encoders)
        if model.quantization == "none":
            return size
        saved = held_dtype(model, self.sizes.model.device).itemsize - QUANTIZERS[model.quantization].bytes_per_weight
        return size - round(saved * sum(self.sizes.roundable_parts.get(name, 0) for name in model.quantized_parts))

    def _kept_unrounded(self) -> int:
        """Weights that a backward pass holds beside the rounded ones they were computed from."""
        model, held = self.config.model, self.sizes.held
        unpacks = bool(held.packed) if model.quantization == "none" else QUANTIZERS[model.quantization].held_backward
        if not unpacks:
            return 0
        numbers = held.roundable_in_block if model.gradient_checkpointing else held.roundable
        return numbers * self.sizes.model.compute_dtype.itemsize

    def _beside_the_weights(self) -> dict[str, int]:
        copies = len({"old", "sampler"} & self.objective.needs)
        old = copies + 1 if copies else 0  # their values, and the current ones while one is in their place
        copied = self.processes > 1 and self.division.state == 1 and self.config.loop == "offline"
        buckets = self.trained if copied else min(4 * BUCKET, self.trained) if self._flat() else 0
        return {"optimiser": round(MOMENTS[self.config.optim.name] * self.stepped / 4),
                "stepped copy": self.stepped if self._flat() else 0,
                "average": self.mine if self.config.optim.ema_decay else 0, "old policy": old * self.mine,
                "earlier selves": self._selves() * self.mine,
                "buckets of gradients": buckets,
                "rewards": self.rewards.scoring + self.rewards.measuring} | ({} if self.on_gpu else self._epoch())

    def _selves(self) -> int:
        """Snapshots at the end of the run, and the current weights while one is in their place."""
        if "own" not in self.objective.needs:
            return 0
        return self.config.data.selves.most(self.config.train.steps) + 1

    def _backward(self) -> dict[str, int]:
        size = self.sizes.training(self.rows_trained(), self.config.model.gradient_checkpointing)
        last = getattr(self.objective, "last_steps", 1)
        passes = last if last == 1 else min(last, self.config.rollout.steps)
        return {"activations": size * passes, "weights unrounded": self._kept_unrounded(),
                "gradients": self._gradients(), "gathered blocks": self._gathered_blocks()}

    def _gradients(self) -> int:
        if self.config.optim.fused_backward:
            return self.sizes.held.largest
        kept = self._sharded() and self.config.model.tuning == "lora"  # whole until the last pass of a step
        return self.trained if kept or self.division.state == 1 else self.stepped

    def _gathered_blocks(self) -> int:
        """Of a network in parts: the block that computes, the one that comes, and the gradient of one."""
        full = self.config.model.tuning == "full"
        width = 4 if full else held_dtype(self.config.model, self.sizes.model.device).itemsize
        return (2 * width + 4 * full) * self.sizes.held.block if self._sharded() else 0

    def _gathered(self) -> int:
        """The network whole beside its parts, and its frozen copy, for passes that need no other process."""
        if not self._sharded():
            return 0
        copy = self.sizes.model.compute_dtype.itemsize * self.trained // 4 * (self.config.model.tuning == "full")
        return self._narrowed(self.sizes.held.frozen) + self.trained + copy

    def _step(self) -> dict[str, int]:
        if self.config.optim.fused_backward:
            return {"gradients": self._gradients()}
        working = self.stepped if self.on_gpu and self.config.optim.name in FOREACH else 0
        return {"gradients": self.stepped, "working copy": working}

    def _sampling(self) -> dict[str, int]:
        """Of an evaluation, or of a rollout, whose steps lie on the device until its batch is drawn."""
        found = [{"activations": self.sizes.sampling(guided * rows)} for guided, rows in self._drawn()]
        if self.config.loop == "online" and self.on_gpu:
            found[-1] |= self.sizes.sample.batch(self.config, self.objective)
        return max(found, key=lambda parts: sum(parts.values())) | {"gathered weights": self._gathered()}

    def _coding(self, away: dict[str, int]) -> dict[str, dict[str, int]]:
        model = self.config.model
        encoding, decoding = self.sizes.coding(model.vae_tiling)
        decoding //= 2 if model.vae_precision == "bf16" else 1
        together = 1 if model.vae_slicing else min(
            self.generator.coded_together(), max(rows for _, rows in self._drawn()))
        texts = {name: size + self.sizes.held.vae for name, size in away.items()}
        found = {"encoding": {"activations": encoding}, "decoding": {"activations": decoding * together} | texts}
        if away and self.generator.sources is None:  # the VAE and the text encoders come in turn
            found |= {"encoding": {"activations": encoding} | texts, "encoding prompts": {
                "offloaded": -self.sizes.held.vae}}
        return found

    def rows_trained(self) -> int:
        """Samples in passes with gradients until a backward pass, those of guidance included."""
        config = self.config
        if config.loop == "offline":
            together = 1 if config.train.one_side_at_a_time else len(self.objective.sides)
            return config.train.batch_size * together * self.objective.passes.with_gradient
        scale = self.objective.train_guidance
        scale = config.rollout.guidance_scale if scale is None else scale
        return config.train.batch_size * (1 if config.rollout.guidance_apart else self._guided(scale))

    def _drawn(self) -> list[tuple[int, int]]:
        """Passes of a sample under guidance, and samples drawn at once: of an evaluation, and of a rollout or of
        earlier selves."""
        evaluation = self.config.eval
        prompts = count(evaluation.prompts, evaluation.max_prompts) if evaluation.prompts else \
            evaluation.max_prompts or evaluation.batch_size
        looks = min(evaluation.batch_size, prompts * evaluation.samples_per_prompt)
        found = [(self._guided(evaluation.guidance_scale), 1 if self.generator.sources is not None else looks)]
        if self.config.loop == "online":
            found.append((self._together(self.config.rollout), self.config.rollout.batch_size))
        elif "own" in self.objective.needs:
            found.append((self._guided(self.config.data.selves.guidance_scale), self.config.train.batch_size))
        return found

    def _together(self, rollout) -> int:
        """Rows of a sample in one pass of a rollout."""
        return 1 if rollout.guidance_apart else self._guided(rollout.guidance_scale)

    def _guided(self, scale: float | None) -> int:
        return 1 if scale in (None, 1) or self.sizes.model.takes_scale else 2
