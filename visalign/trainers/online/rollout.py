"""Drawing the generator's own samples, storing only the steps that are trained on.

Sampling is the diffusers pipeline's: same times, same guidance, same network input. Noise belongs to a sample
(its place in the epoch), so it does not depend on batches or processes; steps outside the window draw no noise, and
those after it may be fewer (tail.py). Samples that are still equal are drawn once (trunks.py).
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from visalign.config import OnlineConfig, RolloutSettings
from visalign.config.load import build_objective
from visalign.generators.base import Conditioning, Generator, Guidance
from visalign.processes.steps import LOG_PROBS, Moments, draw
from visalign.sampling.drawn_rows import DrawnRows
from visalign.storage.out_of_memory import memory_told
from visalign.trainers.online.guide import Followed, RolloutGuide, Unguided, rollout_guide
from visalign.trainers.online.siblings import SiblingSteps, siblings_of
from visalign.trainers.online.tail import Multistep, tail_times
from visalign.trainers.online.trunks import Trunks, widened


@dataclass(frozen=True)
class Start:
    """Where one sample starts: its place in the epoch, prompt, and the seeds of its first noise and of its steps."""

    place: int
    prompt: str
    prompt_key: str
    noise_seed: int
    step_seed: int


@dataclass
class Trajectory:
    """One of the generator's samples, on the CPU in float32: clean latents, and K stored steps.

    steps: int64 [K], indices of the stored steps. before, after: latents [K, ...]. log_prob: [K]. mean: [K, ...] where
    the objective needs it. moves: how far a guide moved each stored step's sample, [K, ...], 0 where it did not;
    values: the guide's reward before and after each, [K, 2], NaN where it was not asked; each where something is learnt
    from it.
    Where siblings are drawn, `after` is the best one of each stored step; other: the worst, [K, ...]; other_log_prob,
    decided: its log-probability, and whether it is told apart from the best, [K].
    """

    start: Start
    latents: Tensor
    steps: Tensor
    before: Tensor
    after: Tensor
    log_prob: Tensor
    mean: Tensor | None
    moves: Tensor | None = None
    values: Tensor | None = None
    other: Tensor | None = None
    other_log_prob: Tensor | None = None
    decided: Tensor | None = None


class Sampler:
    """Samples one generator with one recipe's settings. guide: what the samples follow."""

    def __init__(self, generator: Generator, settings: RolloutSettings, keep_mean: bool,
                 guide: RolloutGuide | SiblingSteps | Unguided | None = None):
        self.generator, self.settings, self.keep_mean = generator, settings, keep_mean
        self.guide = guide or Unguided()
        self.times = generator.schedule(settings.steps)

    @memory_told("sampling")
    @torch.no_grad()
    def draw(self, starts: list[Start], conditioning: Conditioning, guidance: Guidance | None,
             stochastic: frozenset[int], kept: Tensor, after_step: Callable[[], object] = list) -> list[Trajectory]:
        """Samples of one batch. kept: int64 [B, K], the steps of each sample to store."""
        shape = self.generator.latent_shape()
        noise = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(s.noise_seed)) for s in starts])
        sources = [torch.Generator().manual_seed(s.step_seed) for s in starts]
        alone = min([*stochastic, *kept.flatten().tolist()], default=0)
        trunks = Trunks([(s.prompt, s.noise_seed) for s in starts], self.settings, alone)
        rows = trunks.rows(0)
        x, texts, led = rows.only(noise.to(self.generator.device)), rows.texts(conditioning), rows.guidance(guidance)
        followed: Followed = self.guide.follow(conditioning, stochastic, kept)
        store = _Store(kept, shape, self.keep_mean, x.device)
        tail, end = self.settings.tail, self.settings.steps
        if tail is not None:
            end = max(stochastic, default=end - 1) + 1
        solver = Multistep(self.generator.process)
        for j in range(end):
            before, rows = rows, trunks.rows(j)
            if rows != before:
                x, texts, led = rows.only(before.whole(x)), rows.texts(conditioning), rows.guidance(guidance)
            moments, prediction = self._moments(x, j, texts, led, stochastic)
            if tail is not None and j == end - 1:
                solver.predicted(prediction, x, self.times[j].repeat(len(x)).to(x.device))
            fresh = None
            if j in stochastic:
                fresh = torch.stack([torch.randn(shape, generator=sources[i]) for i in rows.drawn]).to(x.device)
            after = draw(followed.moved(moments, j, x, prediction), fresh)
            stored = followed.stored(after, j, moments, sources)
            store.add(j, rows, x, stored, moments, LOG_PROBS[self.settings.log_prob])
            x = after
            after_step()
        if tail is not None:
            for t, t_next in pairwise(tail_times(self.times, end, tail.ratio)):
                t, t_next = t.repeat(len(x)).to(x.device), t_next.repeat(len(x)).to(x.device)
                x = solver.step(self.generator.predict(x, t, conditioning, guidance), x, t, t_next)
                after_step()
        followed.end(x)
        x = self.generator.replay.finished(x, conditioning)
        store.fetch()
        return [Trajectory(start, latents, *store.row(i), *followed.row(i))
                for i, (start, latents) in enumerate(zip(starts, x.cpu(), strict=True))]

    def _moments(self, x: Tensor, j: int, conditioning: Conditioning, guidance: Guidance | None,
                 stochastic: frozenset[int]) -> tuple[Moments, Tensor]:
        """The Gaussian of step j, and the prediction that it follows from."""
        t, t_next = (self.times[i].repeat(len(x)).to(x.device) for i in (j, j + 1))
        prediction = self.generator.predict(x, t, conditioning, guidance)
        sampler = self.settings.sampler if j in stochastic else "ode"
        moments = self.generator.process.moments(prediction, x, t, t_next, sampler, self.settings.noise_level)
        return widened(moments, self.settings, torch.full((len(x),), j)), prediction


def sampler_of(config: OnlineConfig, generator: Generator) -> Sampler:
    """What draws a recipe's samples. Raises UserError when its guide does not fit the generator."""
    needs = build_objective(config.objective, loop="online").needs
    guide = siblings_of(config, rollout_guide(config, generator, "moves" in needs))
    return Sampler(generator, config.rollout, "old_mean" in needs, guide)


class _Store:
    """The stored steps of a batch, on the device until `fetch`: a copy after each step would stop it every time.

    In single precision: with the next latents rounded, their log-probabilities would be those of other samples.
    """

    def __init__(self, kept: Tensor, shape: tuple[int, ...], keep_mean: bool, device: torch.device):
        self.kept = kept
        size = (*kept.shape, *shape)
        self.before, self.after = (torch.full(size, torch.nan, device=device) for _ in range(2))
        self.mean = torch.full(size, torch.nan, device=device) if keep_mean else None
        self.log_prob = torch.full(kept.shape, float("nan"), device=device)

    def add(self, j: int, drawn: DrawnRows, before: Tensor, after: Tensor, moments: Moments,
            log_prob: Callable) -> None:
        rows, places = (each.to(before.device) for each in (self.kept == j).nonzero(as_tuple=True))
        if not len(rows):
            return
        own = torch.tensor(drawn.place, device=before.device)[rows]
        self.before[rows, places], self.after[rows, places] = before[own], after[own]
        self.log_prob[rows, places] = log_prob(after[own], moments.mean[own], moments.std[own])
        if self.mean is not None:
            self.mean[rows, places] = moments.mean[own]

    def fetch(self) -> None:
        """Move everything to the CPU, where an epoch's samples wait for their rewards."""
        self.before, self.after, self.log_prob = self.before.cpu(), self.after.cpu(), self.log_prob.cpu()
        self.mean = None if self.mean is None else self.mean.cpu()

    def row(self, i: int) -> tuple[Tensor, ...]:
        return (self.kept[i], self.before[i], self.after[i], self.log_prob[i],
                None if self.mean is None else self.mean[i])
