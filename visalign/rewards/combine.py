"""Combinations: each wraps rewards (`of`) and is itself a reward, so they nest.

Every dimension of every inner reward is one column, with its sign chosen so that larger is better. A column of weight 0
is ignored. A sample that one inner reward could not score is NaN in the combination, with that reward's reason.
"""

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from visalign.errors import UserError, nearest
from visalign.media.samples import Sample
from visalign.media.source_images import group_of
from visalign.rewards.base import Reward, RewardModel, Scores
from visalign.rewards.reference import ReferenceScores, read_reference
from visalign.rewards.sizes import sum_of
from visalign.validation.ranges import Few, Portion, RewardValue, Signed, Weight


@dataclass
class Combination(RewardModel):
    """Base: gathers the columns of the inner rewards; a subclass turns them into one score in `combine`."""

    of: Any = field(default_factory=list)

    def __post_init__(self):
        super().__post_init__()
        self.inner: list[Reward] = list(self.of)
        if not self.inner:
            raise ValueError("of is empty; name at least one reward")
        self.modalities = frozenset.intersection(*(reward.modalities for reward in self.inner))
        if not self.modalities:
            raise ValueError("of: these rewards have no modality in common")
        self.needs_group = any(reward.needs_group for reward in self.inner)
        self.needs_sources = any(getattr(reward, "needs_sources", False) for reward in self.inner)
        self.columns = tuple(f"{reward.name}.{name}" for reward in self.inner for name in reward.dimensions)
        self.signs = torch.tensor([1.0 if reward.higher_is_better else -1.0
                                   for reward in self.inner for _ in reward.dimensions])
        self.weight = self.weights_of(getattr(self, "weights", {}))
        self.used = self.weight != 0
        if not self.used.any():
            raise ValueError("weights are all 0, so nothing counts")

    def check(self) -> None:
        for reward in self.inner:
            reward.check()

    def to(self, device: str) -> None:
        super().to(device)
        for reward in self.inner:
            reward.to(device)

    def held_bytes(self) -> int | None:
        return sum_of([reward.held_bytes() for reward in self.inner])

    def score_batch(self, samples: list[Sample]) -> Scores:
        values, spreads, remarks = [], [], {}
        for reward in self.inner:
            answer = reward.score(samples)
            values.append(answer.values)
            spreads.append(torch.full_like(answer.values, float("nan")) if answer.spread is None else answer.spread)
            remarks = {i: f"{reward.name}: {text}" for i, text in answer.remarks.items()} | remarks
        chosen, spread = (torch.cat(values, 1) * self.signs)[:, self.used], torch.cat(spreads, 1)[:, self.used]
        combined = self.combine(chosen, spread, samples)
        missing = combined.isnan().nonzero().flatten().tolist()
        return Scores(combined[:, None], {i: remarks.get(i, self.why_missing) for i in {*remarks, *missing}},
                      self.combined_spread(spread))

    why_missing = "an inner reward gave no value"

    @abstractmethod
    def combine(self, values: Tensor, spreads: Tensor, samples: list[Sample]) -> Tensor:
        """[n] from values and spreads [n, C'] of the C' columns whose weight is not 0."""

    def combined_spread(self, spreads: Tensor) -> Tensor | None:
        """The combination's own standard deviation [n, 1], where it is known."""
        return None

    def weights_of(self, weights: dict[str, float]) -> Tensor:
        """[C] from names of columns, or of rewards with one dimension, or of dimensions that only one reward has.

        Columns that are not named have weight 0; without names all have weight 1.
        """
        found = torch.zeros(len(self.columns)) if weights else torch.ones(len(self.columns))
        for key, weight in weights.items():
            matches = [i for i, column in enumerate(self.columns) if key in (column, *column.split(".", 1))]
            if len(matches) != 1:
                problem = "names no column" if not matches else "names more than one column"
                raise ValueError(f"weights: '{key}' {problem}{nearest(key, self.columns)}")
            found[matches[0]] = weight
        return found


@dataclass
class Referenced(Combination):
    """Base of combinations that need the base model's rewards: a table written by `visalign score`."""

    reference: str = ""

    def uses_reference(self) -> bool:
        return True

    def check(self) -> None:
        super().check()
        if not self.uses_reference():
            return
        if not self.reference:
            raise UserError(f"reward {self.name}: set reference to a table that `visalign score` wrote for samples of "
                            "the base model")
        self.scores.mean_and_std()

    @property
    def scores(self) -> ReferenceScores:
        if not hasattr(self, "_scores"):
            columns = tuple(name for name, used in zip(self.columns, self.used.tolist(), strict=True) if used)
            self._scores = read_reference(self.reference, columns, self.signs[self.used])
        return self._scores

    def standardise(self, values: Tensor) -> Tensor:
        mean, std = self.scores.mean_and_std()
        return (values - mean) / std


@dataclass
class WeightedSum(Referenced):
    """Sum of weight times reward, each standardised on the reference set first (`standardised: false`: as they are)."""

    weights: dict[str, Signed] = field(default_factory=dict)
    standardised: bool = True

    def uses_reference(self) -> bool:
        return self.standardised

    def combine(self, values: Tensor, spreads: Tensor, samples: list[Sample]) -> Tensor:
        return (self.standardise(values) if self.standardised else values) @ self.weight[self.used]


@dataclass
class Centred(Referenced):
    """Base of the centred rewards: r_ref comes from the reference samples of the same prompt, in reference units."""

    why_missing = "the reference set has no sample of this prompt"

    def references(self, prompt: str) -> Tensor | None:
        """Standardised rewards of the prompt's reference samples, [m, C]."""
        rows = self.scores.of_prompt(prompt)
        return None if rows is None else self.standardise(rows)

    def combine(self, values: Tensor, spreads: Tensor, samples: list[Sample]) -> Tensor:
        values = self.standardise(values)
        prompts = [group_of(sample) for sample in samples]
        known = {prompt: self.references(prompt) for prompt in set(prompts)}
        return torch.stack([torch.tensor(float("nan")) if known[prompt] is None
                            else self.centred(value, known[prompt])
                            for prompt, value in zip(prompts, values, strict=True)])

    @abstractmethod
    def centred(self, value: Tensor, references: Tensor) -> Tensor:
        """A scalar from one sample's value [C] and its prompt's references [m, C]."""


@dataclass
class LogSigmoid(Centred):
    """Weighted sum of log sigmoid(r - r_ref), r_ref a quantile of the base model's rewards for that prompt.

    Sums of it act like AND: raising an already high reward adds little.
    """

    quantile: Portion = 0.5
    weights: dict[str, Signed] = field(default_factory=dict)

    def centred(self, value: Tensor, references: Tensor) -> Tensor:
        return (F.logsigmoid(value - references.quantile(self.quantile, dim=0)) * self.weight[self.used]).sum()


@dataclass
class PAR(Centred):
    """Preference as reward: sigmoid(r - r_ref) averaged over up to `references_used` base samples, in (0, 1)."""

    references_used: Few = 10

    score_range = (0.0, 1.0)

    def centred(self, value: Tensor, references: Tensor) -> Tensor:
        return torch.sigmoid(value - references[:self.references_used]).mean()


@dataclass
class Ensemble(Referenced):
    """Several rewards together: `mean`, worst case (`wco`: min), or mean minus penalty times variance (`uwo`).

    With a reference table each is standardised first; without one they are taken as they are.
    """

    mode: Literal["mean", "wco", "uwo"] = "mean"
    penalty: Weight = 1.0

    def uses_reference(self) -> bool:
        return bool(self.reference)

    def combine(self, values: Tensor, spreads: Tensor, samples: list[Sample]) -> Tensor:
        values = self.standardise(values) if self.reference else values
        if self.mode == "wco":
            return torch.where(values.isnan().any(1), torch.nan, values.amin(1))
        if self.mode == "uwo":
            return values.mean(1) - self.penalty * values.var(1, correction=0)
        return values.mean(1)


@dataclass
class UncertaintyWeight(Combination):
    """exp(-penalty u) r - penalty u, with u the inner reward's own spread (Ctrl-U, its loss with L = -r).

    The second term makes uncertainty costly.
    """

    penalty: Weight = 1.0

    def __post_init__(self):
        super().__post_init__()
        if len(self.columns) != 1:
            raise ValueError(f"of must have one dimension in all, found {', '.join(self.columns)}; pick one with a "
                             "direction")

    why_missing = "the inner reward reports no spread"

    def combine(self, values: Tensor, spreads: Tensor, samples: list[Sample]) -> Tensor:
        u = self.penalty * spreads[:, 0]
        return (-u).exp() * values[:, 0] - u


@dataclass
class GatedReward(Combination):
    """The second reward where the first one reaches `threshold`, else `otherwise`."""

    threshold: RewardValue = 0.0
    otherwise: RewardValue = 0.0

    def __post_init__(self):
        super().__post_init__()
        if len(self.columns) != 2:
            raise ValueError(f"of must be two rewards of one dimension each, found {', '.join(self.columns)}")

    def combine(self, values: Tensor, spreads: Tensor, samples: list[Sample]) -> Tensor:
        gated = torch.where(values[:, 0] >= self.threshold, values[:, 1], self.otherwise)
        return torch.where(values.isnan().any(1), torch.nan, gated)


@dataclass
class Direction(Combination):
    """The rewards' component along a user's direction: weights scaled to a unit vector (DPA, Wang et al. 2024)."""

    weights: dict[str, Signed] = field(default_factory=dict)

    def __post_init__(self):
        super().__post_init__()
        if not self.weights:
            raise ValueError("weights is empty or all 0, so there is no direction")
        self.direction = (self.weight / self.weight.norm())[self.used]

    def combine(self, values: Tensor, spreads: Tensor, samples: list[Sample]) -> Tensor:
        return values @ self.direction

    def combined_spread(self, spreads: Tensor) -> Tensor | None:
        return None if spreads.isnan().all() else (spreads * self.direction).norm(dim=1, keepdim=True)
