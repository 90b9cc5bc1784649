"""Siblings of a sampling step: several candidates from the same latents, of which a latent reward knows the best.

    x'_i = mean + std z_i,  i = 1..k,     one goes on;  the best and the worst by R are a pair where
    softmax(R_best, R_worst)_1 - softmax(R_best, R_worst)_2 > threshold,     R = sum_d w_d r_d

Liang et al. 2024 (arXiv 2406.04314), step-aware preference optimisation. R's differences are log-odds, so the left side
is how much likelier than not the best one is the better. Candidates are drawn alike, so that the first one, which goes
on whatever R says of it, is a random one.
Differs from its code in: R scores the candidates themselves, at their own time, where its reward sees the images
that the next predictions make of them, decoded: a pass and a decoding of each candidate.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from visalign.config import OnlineConfig
from visalign.config.online import SiblingSettings
from visalign.generators.base import Conditioning
from visalign.processes.steps import LOG_PROBS, Moments, draw
from visalign.trainers.online.guide import RolloutGuide, Unguided


class Pair(NamedTuple):
    """Two siblings of each sample's step, [B, ...], by R; decided: bool [B], whether R tells them apart."""

    best: Tensor
    worst: Tensor
    decided: Tensor


def best_and_worst(candidates: Tensor, rewards: Tensor, threshold: float) -> Pair:
    """Of candidates [k, B, ...] with rewards [k, B]."""
    rows = torch.arange(candidates.shape[1], device=candidates.device)
    best, worst = rewards.argmax(0), rewards.argmin(0)
    gap = torch.tanh((rewards[best, rows] - rewards[worst, rows]) / 2)  # s(d) - s(-d)
    return Pair(candidates[best, rows], candidates[worst, rows], gap > threshold)


@dataclass(frozen=True)
class SiblingSteps:
    """guide: whose reward tells siblings apart, and in whose range they are drawn; it moves nothing."""

    guide: RolloutGuide
    settings: SiblingSettings
    log_prob: Callable[[Tensor, Tensor, Tensor], Tensor]

    def networks(self) -> list[nn.Module]:
        return self.guide.networks()

    def check(self, noisy: list[int]) -> None:
        self.guide.check(noisy)

    def follow(self, texts: Conditioning, stochastic: frozenset[int], kept: Tensor) -> "DrawnSiblings":
        return DrawnSiblings(self, texts, kept)


class DrawnSiblings:
    """The siblings of one batch, at the steps that are stored."""

    def __init__(self, steps: SiblingSteps, texts: Conditioning, kept: Tensor):
        self.steps, self.texts, self.kept = steps, texts, kept
        self.others: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    def moved(self, moments: Moments, j: int, x: Tensor, prediction: Tensor) -> Moments:
        return moments

    def stored(self, after: Tensor, j: int, moments: Moments, sources: list[torch.Generator]) -> Tensor:
        """The best of `after` and its siblings."""
        if not (self.kept == j).any():
            return after
        noise = [torch.stack([torch.randn(after.shape[1:], generator=g) for g in sources]).to(after.device)
                 for _ in range(self.steps.settings.count - 1)]
        candidates = torch.stack([after, *(draw(moments, each) for each in noise)])
        guide = self.steps.guide
        t = guide.time(j + 1, after)
        rewards = torch.stack([guide.value(each, t, self.texts) for each in candidates])
        pair = best_and_worst(candidates, rewards, self.steps.settings.threshold)
        self.others[j] = pair.worst, self.steps.log_prob(pair.worst, *moments), pair.decided
        return pair.best

    def end(self, x: Tensor) -> None:
        pass

    def row(self, i: int) -> tuple[None, None, Tensor, Tensor, Tensor]:
        """As of what samples follow, and of sample i the worst sibling of each stored step, its log-probability, and
        whether it is told apart from the best."""
        worst, log_prob, decided = (torch.stack([self.others[j][k][i].cpu() for j in self.kept[i].tolist()])
                                    for k in range(3))
        return None, None, worst, log_prob, decided


def siblings_of(config: OnlineConfig, guide: RolloutGuide | Unguided) -> RolloutGuide | Unguided | SiblingSteps:
    """What a recipe's steps are drawn with: siblings, or what the guide makes of one sample."""
    settings = config.rollout.siblings
    if settings is None or isinstance(guide, Unguided):
        return guide
    return SiblingSteps(guide, settings, LOG_PROBS[config.rollout.log_prob])
