"""Any aligned generator as a reward, by how much likelier a sample is to it than to the generator before.

    r(x0, prompt) = -(beta / 2) mean_m w(t_m) [ E_strong(x0, t_m, e_m) - E_weak(x0, t_m, e_m) ]

E is the mean squared error of the prediction at x0 noised to the time t_m by e_m, w and beta are those of the run's
objective: the implicit reward of DPO (Rafailov et al. 2023, arXiv 2305.18290; of diffusion, Wallace et al. 2023, arXiv
2311.12908), which is the contrast density ratio log p_strong - log p_weak (Xu et al. 2024, arXiv 2411.02481) with minus
errors in the place of log-likelihoods. Its differences between samples of a prompt are log-odds.

Times and noises are the same for both models and for all samples, so what they add to a score is the same everywhere.
The errors differ most between times, so the times are one from each of `terms` equally likely parts of those that the
run learnt at.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from visalign.config import DataSettings, OfflineConfig
from visalign.config.load import build_objective
from visalign.evaluation.ratio_models import RatioModels, RatioSide, load_ratio, makes_media, ratio_models
from visalign.generators.base import Conditioning, Generator
from visalign.generators.observe.rows import join
from visalign.media.samples import Sample
from visalign.media.source_images import put_into, split_prompt
from visalign.objectives.dpo import PreferenceOptions
from visalign.processes.times import stratified_unit_times
from visalign.rewards.base import RewardModel
from visalign.rewards.web.reward import Told
from visalign.sampling.encoding_cache import EncodingCache
from visalign.sampling.seeds import rng_for
from visalign.storage.language_models import WHEELS
from visalign.validation.ranges import BatchSize, Few, Positive, Seed


@dataclass(frozen=True)
class RatioRule:
    """How errors become a reward, as the run's objective has it: beta, w(t), and the distribution of its times."""

    beta: float
    objective: Any = None
    sampling: str = "uniform"
    shift: float = 1.0

    def reward(self, strong: Tensor, weak: Tensor, noise_fraction: Tensor) -> Tensor:
        """Of errors [M] at the same times and noises, a number."""
        weight = 1.0 if self.objective is None else self.objective.time_weight(noise_fraction)
        return 0.5 * self.beta * (weight * (weak - strong)).mean()


def rule_of(run: Any, beta: float | None) -> RatioRule:
    """That of a run's settings; of a model without a run Diffusion-DPO's beta, and all times alike."""
    if not isinstance(run, OfflineConfig):
        return RatioRule(beta or PreferenceOptions.beta)
    objective = build_objective(run.objective)
    own = getattr(objective, "beta", PreferenceOptions.beta) if "reference" in objective.needs else \
        PreferenceOptions.beta
    return RatioRule(beta or own, objective, run.train.timestep_sampling, run.train.timestep_shift)


@dataclass
class _LoadedSide:
    """A model, and its embeddings of prompts."""

    side: RatioSide
    cache: EncodingCache

    def conditioning(self, prompt: str) -> Conditioning:
        """Of one sample of a prompt, on the device; kept on disk."""
        key = self.cache.prompt_key(prompt)
        self.cache.add_prompts({key: prompt})
        generator = self.side.generator
        found = {name: value.to(generator.device) for name, value in self.cache.conditioning([key]).items()}
        return generator.for_size(found)


@dataclass
class GeneratorRatio(RewardModel):
    """How much likelier an image or video is to an aligned generator than to the one before, as a run and its base.

    strong: a run, its export or a checkpoint of it, MODEL+LORA, a LoRA, or a model. weak: the model it was aligned
    from; None: the run's own. terms: times and noises, M. beta: None: the run's. model: further settings that both are
    loaded with, as in a recipe, such as {prompt_tokens: 8}. cache: folder for embeddings of prompts. batch_size: noised
    copies of one sample that pass the network together.
    """

    strong: str
    weak: str | None = None
    terms: Few = 16
    beta: Positive | None = None
    seed: Seed = 0
    model: dict[str, Any] = field(default_factory=dict)
    cache: str = DataSettings.model_fields["cache"].default
    batch_size: BatchSize = field(default=16, kw_only=True)

    modalities = Told(frozenset({"image", "video"}), "models")
    needs_sources = Told(False, "models")
    named_by = "strong"
    needs_prompt = True

    @cached_property
    def models(self) -> RatioModels:
        """What strong and weak name. Raises UserError where they cannot be compared."""
        return ratio_models(self.strong, self.weak, self.model, self._where)

    @cached_property
    def rule(self) -> RatioRule:
        return rule_of(self.models.run, self.beta)

    def check(self) -> None:
        _ = self.models

    @classmethod
    def takes(cls, given: Mapping[str, Any]) -> bool:
        """Whether settings of `density_ratio` are of generators, not of language models."""
        strong, weak = given.get("strong"), given.get("weak")
        own = {each.name for each in fields(cls)} - {each.name for each in fields(RewardModel)} - {"strong", "weak"}
        return bool(own & given.keys()) or makes_media(strong) or makes_media(weak) or (
            weak is None and strong not in WHEELS)

    @property
    def _where(self) -> str:
        return f"reward {self.name}"

    def load(self) -> tuple[_LoadedSide, _LoadedSide]:
        sides = load_ratio(self.models, self.device, self._where)
        caches = {id(side.generator): side.generator for side in sides}
        opened = {key: EncodingCache(self.cache, generator) for key, generator in caches.items()}
        strong, weak = (_LoadedSide(side, opened[id(side.generator)]) for side in sides)
        return strong, weak

    def to(self, device: str) -> None:
        """What is loaded elsewhere is given up, and loaded anew at the next use: what was observed of a pipeline
        belongs to its device."""
        if str(device) != self.device:
            self._network = None
        super().to(device)

    def refusal(self, sample: Sample) -> str | None:
        if self.needs_sources and sample.sources and not split_prompt(sample.source_prompt)[1]:
            return "its source images are not known by their files, which the model reads"
        return super().refusal(sample)

    def score_batch(self, samples: list[Sample]) -> Tensor:
        """Each sample by itself, so that none depends on what it is scored with."""
        strong, weak = self.network
        found = torch.stack([self._reward(strong, weak, sample) for sample in samples])
        for side in (strong, weak):
            side.cache.share()
        return found[:, None]

    def _reward(self, strong: _LoadedSide, weak: _LoadedSide, sample: Sample) -> Tensor:
        generator = strong.side.generator
        generator.check_media([sample.media], self._where)
        [x0] = generator.encode_media(generator.to_pixels([sample.media]))
        prompt = put_into(self.models.strong.asking, sample.source_prompt)
        t, noise = self.drawn(generator)
        errors = [self.errors(side, x0, t, noise, prompt) for side in (strong, weak)]
        return self.rule.reward(*errors, generator.process.noise_fraction(t).to(errors[0]))

    def drawn(self, generator: Generator) -> tuple[Tensor, Tensor]:
        """The times [M] and noises [M, ...] of every sample."""
        rng = rng_for("density ratio", self.seed)
        fractions = stratified_unit_times(self.terms, self.rule.sampling, self.rule.shift, rng)
        noise = torch.randn(self.terms, *generator.latent_shape(), generator=rng)
        return generator.process.times_at(fractions).to(generator.device), noise.to(generator.device)

    @torch.no_grad()
    def errors(self, side: _LoadedSide, x0: Tensor, t: Tensor, noise: Tensor, prompt: str) -> Tensor:
        """Of clean latents [...] at times [M] and noises [M, ...], float32 [M]."""
        generator, conditioning, found = side.side.generator, side.conditioning(prompt), []
        process = generator.process
        with side.side.on():
            for now, drawn in zip(t.split(self.batch_size), noise.split(self.batch_size), strict=True):
                clean = x0.expand_as(drawn)
                prediction = generator.predict(process.add_noise(clean, drawn, now), now,
                                               join([conditioning] * len(now)))
                target = process.target(clean, drawn, now)
                found.append((prediction.float() - target).square().flatten(1).mean(1))
        return torch.cat(found)
