"""Views of the generator's own samples for an update. An objective names its view; the loop needs nothing else.

To add a view: a class with these methods, and its name in view_names.py.
"""

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from visalign.config import RolloutSettings
from visalign.errors import UserError
from visalign.generators.base import Conditioning, Generator, Guidance
from visalign.objectives.advantages import AdvantageRule
from visalign.objectives.online import NoisedTerms, OnlineObjective, StepTerms
from visalign.processes.steps import LOG_PROBS, sensitivity
from visalign.sampling.seeds import rng_for
from visalign.trainers.online.old_policy import OldPolicy
from visalign.trainers.online.rollout import Trajectory
from visalign.trainers.online.scoring import RewardSet
from visalign.trainers.online.step_selection import StepPlan, check_steps, noise_of_steps, trained_count
from visalign.trainers.online.trunks import widened


@dataclass(frozen=True)
class MicroBatch:
    """Samples in one pass through the network, on the device.

    advantage: float32 [B], or [B, T] where each of a view's T terms has its own. process: [B, T], of the terms by
    themselves, None where nothing is learnt from that.
    """

    samples: list[Trajectory]
    advantage: Tensor
    conditioning: Conditioning
    guidance: Guidance | None
    epoch: int
    process: Tensor | None = None

    def advantage_of(self, term: int) -> Tensor:
        """The advantage of a term, [B]."""
        return self.advantage if self.advantage.ndim == 1 else self.advantage[:, term]


@dataclass
class Context:
    """The parts of a run that views need."""

    generator: Generator
    settings: RolloutSettings
    objective: OnlineObjective
    old: OldPolicy | None
    reward_set: RewardSet | None
    seed: int


class TermView(Protocol):
    """terms: how many terms each sample has. has_ratio: whether they hold old log-probabilities. span: the lowest and
    the highest noise fraction that terms may have. kept: which steps the sampler must store, int64 [n, K]. expect: that
    many are stored of each sample of the epoch to learn from."""

    terms: int
    has_ratio: bool
    span: tuple[float, float]

    def expect(self, stored: int) -> None: ...

    def kept(self, plan: StepPlan) -> Tensor: ...

    def levels(self, epoch: int, sample: Trajectory) -> Tensor:
        """The noise fraction of each term of a sample, float64 [T]."""
        ...

    def build(self, batch: MicroBatch, term: int) -> tuple[object, Tensor]:
        """The terms the objective takes, and [B] the step of each for the tables."""
        ...


class PredictingView:
    has_ratio = False

    def __init__(self, context: Context, noisy: list[int]):
        self.context, self.generator, self.settings = context, context.generator, context.settings
        self.process, self.needs = context.generator.process, context.objective.needs
        self.times = self.generator.schedule(self.settings.steps)
        self.prepare(noisy)

    def prepare(self, noisy: list[int]) -> None:
        """Check settings and count terms."""

    def expect(self, stored: int) -> None:
        """Only steps make terms of what is stored."""

    def groups(self, batch: MicroBatch) -> Tensor:
        """The group of each sample, int64 [B]."""
        return torch.tensor([s.start.place // self.settings.group_size for s in batch.samples],
                            device=self.generator.device)

    def predictions(self, x: Tensor, t: Tensor, batch: MicroBatch) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """(policy, old, reference) at the same latents and times; the frozen ones first, since they change weights."""
        def predict(scale: float | None) -> Tensor:
            guidance = batch.guidance
            if scale is not None and guidance is not None:
                guidance = replace(guidance, scale=scale)
            return self.generator.predict(x, t, batch.conditioning, guidance)

        method = self.context.objective
        old = reference = None
        if "old" in self.needs:
            with torch.no_grad(), self.context.old.active():
                old = predict(method.train_guidance)
        if "reference" in self.needs:
            with self.generator.reference():
                reference = predict(method.ref_guidance)
        return predict(method.train_guidance), old, reference


class StepView(PredictingView):
    """Stored transitions of a stochastic sampler, one per term."""

    has_ratio = True

    def prepare(self, noisy: list[int]) -> None:
        check_steps(self.settings, noisy)
        self.terms = trained_count(self.settings, noisy)
        self.noise = noise_of_steps(self.process, self.times, self.settings)
        always = self.settings.window is None and self.settings.train_choice == "first"
        levels = self.process.noise_fraction(self.times[noisy[:self.terms] if always else noisy])
        self.span = levels.min().item(), levels.max().item()

    def expect(self, stored: int) -> None:
        self.terms = stored

    def kept(self, plan: StepPlan) -> Tensor:
        return plan.trained

    def levels(self, epoch: int, sample: Trajectory) -> Tensor:
        return self.process.noise_fraction(self.times[sample.steps.cpu()]).double()

    def build(self, batch: MicroBatch, term: int) -> tuple[StepTerms, Tensor]:
        def stored(name: str) -> Tensor:
            return torch.stack([getattr(s, name)[term] for s in batch.samples]).to(self.generator.device)

        steps = torch.stack([s.steps[term] for s in batch.samples])
        x, after = stored("before"), stored("after")
        t, t_next = self.times[steps].to(x.device), self.times[steps + 1].to(x.device)
        prediction, _, reference = self.predictions(x, t, batch)
        where = (x, t, t_next, self.settings.sampler, self.settings.noise_level)
        mean, std = widened(self.process.moments(prediction, *where), self.settings, steps)
        log_prob = LOG_PROBS[self.settings.log_prob]
        ref_mean = None if reference is None else self.process.moments(reference, *where).mean
        return StepTerms(
            advantage=batch.advantage_of(term), log_prob=log_prob(after, mean, std), old_log_prob=stored("log_prob"),
            sample=after, mean=mean, old_mean=stored("mean") if "old_mean" in self.needs else None, std=std,
            h=self.process.noise_fraction(t) - self.process.noise_fraction(t_next),
            sensitivity=sensitivity(self.process, *where), prediction=prediction, ref_mean=ref_mean,
            ref_log_prob=None if ref_mean is None else log_prob(after, ref_mean, std),
            ref_prediction=reference, group=self.groups(batch),
            mean_std=self.noise[torch.stack([s.steps for s in batch.samples])].mean(1).to(x.device),
            step=steps.to(x.device), process_advantage=None if batch.process is None else batch.process[:, term],
            moves=stored("moves") if "moves" in self.needs else None), steps


class NoisedView(PredictingView):
    """Clean latents noised afresh; a time and a noise belong to a sample of an epoch, or to its group."""

    def prepare(self, noisy: list[int]) -> None:
        method = self.context.objective
        grid = self.times[:-1]
        fraction = self.process.noise_fraction(grid)
        usable = [j for j in range(max(1, len(grid) - 1)) if fraction[j] >= (1 - method.noisiest) * fraction[0]]
        self.grid = grid[usable]
        self.terms = min(method.times, len(usable)) if method.time_sampling == "grid" else method.times
        self.sharing = self.settings.group_size if method.draws == "group" else 1  # samples that share what is drawn
        levels = self.process.noise_fraction(self.grid)
        self.span = (levels.min().item(), levels.max().item()) if method.time_sampling == "grid" else (0.0, 1.0)

    def kept(self, plan: StepPlan) -> Tensor:
        return torch.empty(len(plan.trained), 0, dtype=torch.int64)

    def levels(self, epoch: int, sample: Trajectory) -> Tensor:
        owner = sample.start.place // self.sharing
        times = torch.stack([self._time(epoch, owner, term) for term in range(self.terms)])
        return self.process.noise_fraction(times).double()

    def build(self, batch: MicroBatch, term: int) -> tuple[NoisedTerms, Tensor]:
        x0 = torch.stack([s.latents for s in batch.samples]).to(self.generator.device)
        drawn = [self._draw(batch.epoch, s.start.place // self.sharing, term, x0.shape[1:]) for s in batch.samples]
        t = torch.stack([time for time, _ in drawn]).to(x0.device)
        noise = torch.stack([noise for _, noise in drawn]).to(x0.device)
        x_t = self.process.add_noise(x0, noise, t)
        prediction, old, reference = self.predictions(x_t, t, batch)
        fraction = self.process.noise_fraction(t)
        terms = NoisedTerms(
            advantage=batch.advantage_of(term), x0=x0, x_t=x_t, noise_fraction=fraction,
            target=self.process.target(x0, noise, t), prediction=prediction, old_prediction=old,
            ref_prediction=reference, x0_of=lambda predicted: self.process.x0_from(predicted, x_t, t),
            group=self.groups(batch))
        return terms, (10 * (1 - fraction)).long().clamp(0, 9).cpu()

    def _draw(self, epoch: int, owner: int, term: int, shape) -> tuple[Tensor, Tensor]:
        """Time and noise of one term of one owner: a sample by its place in the epoch, or a group by its slot."""
        return self._time(epoch, owner, term), torch.randn(
            shape, generator=rng_for(self.context.seed, epoch, owner, term, "noise"))

    def _time(self, epoch: int, owner: int, term: int) -> Tensor:
        method, seed = self.context.objective, self.context.seed
        if method.time_sampling == "grid":
            order = torch.randperm(len(self.grid), generator=rng_for(seed, epoch, owner, "times"))
            return self.grid[order[term]]
        shifted = replace(self.process, shift=method.time_shift)
        return shifted.sample_times(1, method.time_sampling, rng_for(seed, epoch, owner, term, "time"))[0]


def check_levels(rule: AdvantageRule, view: TermView) -> None:
    """Raise UserError where the terms lie on one side of what divides the rewards by noise level."""
    reason = rule.schedule.one_sided(*view.span) if rule.schedule else ""
    if reason:
        low, high = view.span
        raise UserError(f"advantage.schedule.split {rule.schedule.split:g}: the noise levels that are trained on, "
                        f"{low:.3g} to {high:.3g} with this model's times, {reason}; choose a split between them")
