"""Rollouts that follow a latent reward R, and what R says of the states they pass through (Euphonium).

    x' = mean + std z + kappa h grad R(x_t, t, prompt),     R = sum_d w_d r_d

The score tilted by exp(R / b) adds g^2 h / (2 b) grad R to the mean of a step of the SDE: kappa = g^2 / (2 b). Zhong et
al. 2026 (arXiv 2602.04928). The stored mean and log-probability are those of the plain step, as in its code, so the
first update's ratios are 1 and the policy is led to reproduce what the guide moved.

R reads the blocks of the frozen reference, so it stays the same while the generator learns.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from visalign.config import OnlineConfig
from visalign.config.guide import RolloutGuideSettings
from visalign.config.load import build_advantage
from visalign.errors import UserError
from visalign.generators.base import Conditioning, Generator
from visalign.guidance import Guiding, load_guide
from visalign.processes.steps import Moments
from visalign.processes.times import per_sample


class Followed(Protocol):
    """What one batch of samples follows."""

    def moved(self, moments: Moments, j: int, x: Tensor, prediction: Tensor) -> Moments:
        """What step j is drawn from, at latents x whose prediction this is; called for each step in order."""
        ...

    def end(self, x: Tensor) -> None:
        """These are the clean latents."""
        ...

    def stored(self, after: Tensor, j: int, moments: Moments, sources: list[torch.Generator]) -> Tensor:
        """What is stored as the sample of step j: `after`, which goes on, or a sibling drawn from the sources."""
        ...

    def row(self, i: int) -> tuple[Tensor | None, ...]:
        """Of sample i, on the CPU, fields of its trajectory from `moves` on."""
        ...


class SaidByGuide(NamedTuple):
    """R before and after the stored steps of samples, [n, K, 2], NaN where it was not asked; and which steps, [n, K].
    """

    values: Tensor
    steps: Tensor


def steps_in_range(settings: RolloutGuideSettings, process, times: Tensor, steps: Iterable[int]) -> frozenset[int]:
    """Of these steps, those whose noise lies in the guide's part of the range."""
    noise = process.noise_fraction(times)
    return frozenset(j for j in steps if settings.last <= noise[j].item() <= settings.first)


class Unguided:
    """Samples follow nothing."""

    def follow(self, texts: Conditioning, stochastic: frozenset[int], kept: Tensor) -> "Unguided":
        return self

    def networks(self) -> list[nn.Module]:
        return []

    def check(self, noisy: list[int]) -> None:
        pass

    def moved(self, moments: Moments, j: int, x: Tensor, prediction: Tensor) -> Moments:
        return moments

    def stored(self, after: Tensor, j: int, moments: Moments, sources: list[torch.Generator]) -> Tensor:
        return after

    def end(self, x: Tensor) -> None:
        pass

    def row(self, i: int) -> tuple[None, None]:
        return None, None


@dataclass(frozen=True)
class RolloutGuide:
    """reward: as LatentReward, (latents, t, **texts) -> [B, E, D]. weights: [D]. times: of the sampling run, [N + 1].
    process: which states R is asked of (AdvantageRule.process), None where nothing is learnt from that. keep_moves:
    whether the objective needs how steps were moved.
    """

    reward: Callable[..., Tensor]
    weights: Tensor
    generator: Generator
    settings: RolloutGuideSettings
    times: Tensor
    process: str | None = None
    keep_moves: bool = False

    def steps(self, stochastic: frozenset[int]) -> frozenset[int]:
        """Of these steps, those at which the guide is followed and asked."""
        return steps_in_range(self.settings, self.generator.process, self.times, stochastic)

    def check(self, noisy: list[int]) -> None:
        """Raise UserError when none of the steps that may be stochastic lies within its range."""
        if not self.steps(frozenset(noisy)):
            noise = self.generator.process.noise_fraction(self.times)
            raise UserError(f"rollout.guide: between first {self.settings.first:g} and last {self.settings.last:g} of "
                            "the noise range no sampling step adds noise; the steps that do begin at "
                            f"{', '.join(f'{noise[j].item():.3g}' for j in noisy)}")

    def networks(self) -> list[nn.Module]:
        """The weights of its own that it reads the generator with."""
        return [self.reward] if isinstance(self.reward, nn.Module) else []

    def follow(self, texts: Conditioning, stochastic: frozenset[int], kept: Tensor) -> "FollowedGuide":
        return FollowedGuide(self, texts, self.steps(stochastic), kept)

    def time(self, j: int, x: Tensor) -> Tensor:
        """The guide's time of the state before step j, [B]; after the last step, that of data."""
        if j == len(self.times) - 1:
            return self.generator.process.times_at(torch.zeros(len(x))).to(x.device)
        return self.times[j].repeat(len(x)).to(x.device)

    def value(self, x: Tensor, t: Tensor, texts: Conditioning) -> Tensor:
        """R at latents, [B] float32."""
        with self.generator.reference():
            return self._weighed(x, t, texts)

    def _weighed(self, x: Tensor, t: Tensor, texts: Conditioning) -> Tensor:
        return (self.reward(x, t, **texts).mean(1) * self.weights).sum(1)

    def value_and_gradient(self, x: Tensor, t: Tensor, texts: Conditioning) -> tuple[Tensor, Tensor]:
        """R [B], and its gradient [B, ...]."""
        latents = x.detach().requires_grad_(True)
        with self.generator.reference(), torch.enable_grad():  # backward too: gradient checkpointing passes again
            value = self._weighed(latents, t, texts)
            gradient, = torch.autograd.grad(value.sum(), latents)
        return value.detach(), gradient


class FollowedGuide:
    """A guide over one batch. guided: the steps at which it is followed."""

    def __init__(self, guide: RolloutGuide, texts: Conditioning, guided: frozenset[int], kept: Tensor):
        self.guide, self.texts, self.guided, self.kept = guide, texts, guided, kept
        self.asked = {each for j in guided for each in (j, j + 1)} if guide.process else set()
        self.values: dict[int, Tensor] = {}
        self.moves: dict[int, Tensor] = {}

    def moved(self, moments: Moments, j: int, x: Tensor, prediction: Tensor) -> Moments:
        guide, value = self.guide, None
        t = guide.time(j, x)
        if j in self.guided and guide.settings.scale:
            value, gradient = guide.value_and_gradient(x, t, self.texts)
            move = guide.settings.scale * per_sample(self._length(j, x), x) * gradient
            self._check(move, "gradient", j)
            moments = moments._replace(mean=moments.mean + move)
            if guide.keep_moves:
                self.moves[j] = move.float()
        if j in self.asked:
            if guide.process == "dense":
                x0, clean = guide.generator.process.x0_from(prediction, x, t), guide.time(len(guide.times) - 1, x)
                value = guide.value(x0, clean, self.texts)
            self.values[j] = guide.value(x, t, self.texts) if value is None else value
        return moments

    def stored(self, after: Tensor, j: int, moments: Moments, sources: list[torch.Generator]) -> Tensor:
        return after

    def end(self, x: Tensor) -> None:
        last = len(self.guide.times) - 1
        if last in self.asked:
            self.values[last] = self.guide.value(x, self.guide.time(last, x), self.texts)
        for j, value in self.values.items():
            self._check(value, "reward", j)
        self.values = {j: value.float().cpu() for j, value in self.values.items()}
        self.moves = {j: move.cpu() for j, move in self.moves.items()}

    def row(self, i: int) -> tuple[Tensor | None, Tensor | None]:
        steps = self.kept[i].tolist()
        moves = values = None
        if self.guide.keep_moves:
            nothing = torch.zeros(self.guide.generator.latent_shape())
            moves = torch.stack([self.moves[j][i] if j in self.moves else nothing for j in steps])
        if self.guide.process:
            unasked = torch.full((), torch.nan)
            values = torch.stack([torch.stack([self.values[k][i] if j in self.guided else unasked
                                               for k in (j, j + 1)]) for j in steps])
        return moves, values

    def _length(self, j: int, x: Tensor) -> Tensor:
        noise = self.guide.generator.process.noise_fraction(self.guide.times[j:j + 2])
        return (noise[0] - noise[1]).repeat(len(x)).to(x.device)

    def _check(self, found: Tensor, what: str, j: int) -> None:
        if not found.isfinite().all():
            raise UserError(f"rollout.guide {self.guide.settings.source}: its {what} at sampling step {j} is not "
                            "finite; try model.precision=fp32, or a guide that was trained longer")


def rollout_guide(config: OnlineConfig, generator: Generator, keep_moves: bool) -> RolloutGuide | Unguided:
    """What a recipe's samples follow. Raises UserError when its guide does not fit the generator."""
    settings, rule = config.rollout.guide, build_advantage(config.advantage)
    if settings is None:
        return Unguided()
    reward = load_guide(settings.source, generator)
    Guiding(settings.weights, settings.first, settings.last).check(reward.settings.dimensions)
    weights = torch.tensor([settings.weights.get(name, 0.0) for name in reward.settings.dimensions],
                           device=generator.device)
    return RolloutGuide(reward, weights, generator, settings, generator.schedule(config.rollout.steps),
                        rule.process if rule.process_weight else None, keep_moves)
