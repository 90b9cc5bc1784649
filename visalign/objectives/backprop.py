"""The reward's gradient, through the end of a sampling run or through one step at known noise.

`draft` is DRaFT-K (Clark et al. 2023, arXiv 2309.17400), the last K sampling steps:

    L = -scale R(decode(x0)) + beta |v - v_ref|^2

`direct_align` is Direct-Align (SRPO, Shen et al. 2025, arXiv 2509.06942). An own sample x0 is noised with known noise,
x_t = (1 - t) x0 + t eps, and one step of length d at any t gives it back, whichever way the step leads:

    denoise  x' = x_t - d v,  x0_hat = (x' - (t-d) eps) / (1 - (t-d)),  r = R(decode(x0_hat))
    inverse  x' = x_t + d v,  x0_hat = (x' - (t+d) eps) / (1 - (t+d)),  r = R with the words swapped, else -R
    L = scale max(ceiling - r, 0)  or, without a ceiling,  -scale r,  + beta |v - v_ref|^2

The exact v gives x0 for any d; an error e of v enters by d/(1-t+d) e, where the estimate x_t - t v has t e. In the
inverse branch v has the opposite sign in x0_hat, and so has the reward: both branches push v the same way, and what a
relative reward likes whatever the text says cancels.

Both are sharp and easily hacked. Differs from the papers in: the pull to the reference, which DRaFT's own runs lack;
the noise is drawn afresh, where Direct-Align's code may take the sample's own first noise; the branches alternate from
sample to sample and from term to term, not from one accumulation step to the next; diffusion models step by DDIM.
Recipes: configs/online/draft.yaml, configs/online/direct_align.yaml.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from visalign.objectives.base import Outcome
from visalign.objectives.online import OnlineBase, RewardTerms, mean_square
from visalign.objectives.registry import register
from visalign.validation.ranges import Positive, RewardValue, SamplingSteps, Weight, Within


@dataclass(frozen=True)
class ThroughReward(OnlineBase):
    """scale: of the reward. beta: of the pull to the reference's predictions."""

    scale: Positive = 1.0
    beta: Weight = 0.0

    through_reward: ClassVar[bool] = True
    chooses: ClassVar[bool] = True

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"reference"} if self.beta else ())

    def __call__(self, terms: RewardTerms) -> Outcome:
        loss, metrics = self.scale * self.missing(terms), {"differentiated_reward": terms.reward.detach()}
        if self.beta:
            kl = mean_square(terms.prediction, terms.ref_prediction)
            loss, metrics["kl"] = loss + self.beta * kl, kl.detach()
        return Outcome(loss.mean(), metrics)

    def missing(self, terms: RewardTerms):
        """What the reward lacks, [B]."""
        return -terms.reward


@register("online", "draft")
@dataclass(frozen=True)
class DRaFT(ThroughReward):
    """last_steps: K, the sampling steps that carry gradients (1 is common). scale: of the reward."""

    last_steps: SamplingSteps = 1

    view: ClassVar[str] = "sampling"
    stale: ClassVar[str] = "its gradient passes through the current policy's own last steps"


@register("online", "direct_align")
@dataclass(frozen=True)
class DirectAlign(ThroughReward):
    """distance: d, the length of the step in noise fraction. cleanest, noisiest: the noise fractions between which t
    is drawn; near pure noise structure suffers, near data the reward is hacked by colour. times: draws of a time and a
    noise for each sample. branches: which way the step leads, `both` in turn. ceiling: samples whose reward has reached
    it, as their branch sees it, push no further; null: all do."""

    distance: Within = 0.05
    cleanest: Within = 0.5
    noisiest: Within = 0.9
    times: SamplingSteps = 1
    branches: Literal["denoise", "inverse", "both"] = "denoise"
    ceiling: RewardValue | None = None

    view: ClassVar[str] = "known_noise"

    def __post_init__(self):
        super().__post_init__()
        if self.cleanest > self.noisiest:
            raise ValueError(f"cleanest {self.cleanest:g} lies above noisiest {self.noisiest:g}")
        if self.branches != "inverse" and self.distance > self.cleanest:
            raise ValueError(f"distance {self.distance:g} leads beyond clean data from cleanest {self.cleanest:g}; it "
                             "must not be longer")
        if self.branches != "denoise" and self.noisiest + self.distance >= 1:
            raise ValueError(f"noisiest {self.noisiest:g} + distance {self.distance:g} must be below 1 for branches "
                             f"{self.branches}: at pure noise nothing of the sample is left")

    def missing(self, terms: RewardTerms):
        return -terms.reward if self.ceiling is None else (self.ceiling - terms.reward).clamp(min=0)
