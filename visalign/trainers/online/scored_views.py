"""Views whose terms are decoded and scored with gradients: the last sampling steps, or one step at known noise."""

import torch
from torch import Tensor

from visalign.objectives.online import RewardTerms
from visalign.rewards.relative import Branches
from visalign.trainers.online.known_noise import known_steps
from visalign.trainers.online.step_selection import StepPlan
from visalign.trainers.online.views import MicroBatch, PredictingView


class ScoredView(PredictingView):
    """Latents with gradients, decoded and scored by rewards that have gradients."""

    def prepare(self, noisy: list[int]) -> None:
        self.context.reward_set.check_differentiable()

    def scored(self, latents: Tensor, batch: MicroBatch, branches: Branches | None = None) -> Tensor:
        """The rewards of latents [B, ...], with gradients, [B]."""
        pixels = (self.generator.decode_pixels(latents) / 2 + 0.5).clamp(0, 1)
        words = [self.generator.text_of(s.start.prompt) for s in batch.samples]
        return self.context.reward_set.differentiable(pixels, words, branches)


class SamplingView(ScoredView):
    """The last K sampling steps with gradients."""

    terms = 1

    def prepare(self, noisy: list[int]) -> None:
        super().prepare(noisy)
        self.start = max(0, self.settings.steps - self.context.objective.last_steps)

    def kept(self, plan: StepPlan) -> Tensor:
        return torch.full((len(plan.trained), 1), self.start)

    def build(self, batch: MicroBatch, term: int) -> tuple[RewardTerms, Tensor]:
        x = torch.stack([s.before[0] for s in batch.samples]).to(self.generator.device)
        seen, frozen = [], []
        for j in range(self.start, self.settings.steps):
            t, t_next = (self.times[i].repeat(len(x)).to(x.device) for i in (j, j + 1))
            prediction, _, reference = self.predictions(x, t, batch)
            seen.append(prediction)
            frozen.append(reference)
            x = self.process.moments(prediction, x, t, t_next).mean
        reward = self.scored(x, batch)
        terms = RewardTerms(reward, torch.stack(seen, 1), torch.stack(frozen, 1) if frozen[0] is not None else None)
        return terms, torch.full((len(x),), self.start)


class KnownNoiseView(ScoredView):
    """Clean latents noised afresh, and given back by one step with gradients whose noise is known."""

    def prepare(self, noisy: list[int]) -> None:
        super().prepare(noisy)
        self.terms = self.context.objective.times

    def kept(self, plan: StepPlan) -> Tensor:
        return torch.empty(len(plan.trained), 0, dtype=torch.int64)

    def build(self, batch: MicroBatch, term: int) -> tuple[RewardTerms, Tensor]:
        steps = known_steps(self.process, self.context.objective, batch.samples, self.generator.device,
                            (self.context.seed, batch.epoch, term))
        prediction, _, reference = self.predictions(steps.x_t, steps.t, batch)
        fraction = self.process.noise_fraction(steps.t)
        reward = self.scored(steps.recovered(self.process, prediction), batch, Branches(fraction, steps.swapped))
        terms = RewardTerms(reward, prediction[:, None], None if reference is None else reference[:, None])
        return terms, (10 * (1 - fraction)).long().clamp(0, 9).cpu()
