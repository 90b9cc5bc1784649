"""The cost of a training step and of a held-out measurement, in passes of one sample through the network.

A pass with gradient counts as three, an image that is decoded and scored as four, and everything in a measurement a
third more, since nothing overlaps there: that holds for small networks; on large ones it costs somewhat less.
"""

from visalign.config import OfflineConfig, OnlineConfig
from visalign.config.load import build_advantage
from visalign.trainers.online.tail import steps_to_draw

WITH_GRADIENT, DECODED, LOOKING = 3, 4, 1.3


def passes_of_step(config: OfflineConfig | OnlineConfig, objective) -> float:
    """Passes of one optimiser step (offline) or one epoch (online) in one process."""
    return _OF_STEP[config.loop](config, objective)


def _offline(config: OfflineConfig, objective) -> float:
    pairs = config.train.batch_size * config.train.gradient_accumulation
    learnt = len(objective.sides) * (WITH_GRADIENT * objective.passes.with_gradient + objective.passes.without)
    return pairs * (learnt + own_passes(config, objective))


def own_passes(config: OfflineConfig, objective) -> int:
    """Passes that draw a sample of an earlier self, where an objective learns from them; made once for each prompt and
    self, so that a step takes at most these."""
    own = config.data.selves
    return own.steps * (2 if own.guidance_scale != 1 else 1) if "own" in objective.needs else 0


def _online(config: OnlineConfig, objective) -> float:
    drawn, learnt, frozen = sample_passes(config, objective)
    size = config.rollout.prompts_per_epoch * config.rollout.group_size
    return size * (drawn + DECODED + passes_of_update(config) * (WITH_GRADIENT * learnt + frozen))


def passes_of_update(config: OnlineConfig) -> float:
    """How often an online update goes over its samples, in the mean: once, and at a probe once more for each reward."""
    rule = build_advantage(config.advantage)
    return 1 + len(config.reward.models) / rule.every if rule.probes else 1.0


def trained_terms(config: OnlineConfig, objective) -> int:
    """How many terms of an online sample are learnt from in an epoch, of a sliding window those inside it."""
    steps = _trained_steps(config)
    return {"steps": steps, "siblings": steps, "noised": getattr(objective, "times", 1),
            "known_noise": getattr(objective, "times", 1),
            "sampling": getattr(objective, "last_steps", 1)}[objective.view]


def sample_passes(config: OnlineConfig, objective) -> tuple[int, int, int]:
    """Passes an online sample takes: to draw it, with gradient to learn from it, and without."""
    rollout, terms = config.rollout, trained_terms(config, objective)
    guided, trained, reference = (_branches(rollout.guidance_scale if scale is None else scale) for scale in (
        None, objective.train_guidance, objective.ref_guidance))
    learnt = 1 if rollout.guidance_apart else trained
    frozen = trained * ("old" in objective.needs) + reference * ("reference" in objective.needs) + trained - learnt
    return guided * steps_to_draw(rollout), learnt * terms, frozen * terms


def _branches(scale: float) -> int:
    """Passes of a prediction under guidance."""
    return 2 if scale != 1 else 1


def _trained_steps(config: OnlineConfig) -> int:
    rollout = config.rollout
    noisy = rollout.steps - rollout.clean_steps
    return rollout.trained_window.size if rollout.trained_window else max(1, int(noisy * rollout.train_fraction))


def kept_steps(config: OnlineConfig, objective) -> int:
    """Sampling steps that are stored of each sample."""
    steps = _trained_steps(config)
    return {"steps": steps, "siblings": steps, "noised": 0, "known_noise": 0, "sampling": 1}[objective.view]


def passes_of_look(prompts: int, seeds: int, steps: int, guidance_scale: float) -> float:
    """Of sampling and decoding `seeds` images of each prompt."""
    return LOOKING * prompts * seeds * (steps * (2 if guidance_scale > 1 else 1) + DECODED)


_OF_STEP = {"offline": _offline, "online": _online}
