"""Combinations: each wraps rewards (`of`) and is itself a reward, so they nest.

Every dimension of every inner reward is one column, turned so that larger is better. A sample that one inner reward
could not judge is NaN in the combination, with that reward's reason.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from visalign.errors import UserError, nearest
from visalign.media import Sample
from visalign.rewards.base import Judge, Reward, Scores
from visalign.rewards.reference import ReferenceScores, read_reference


@dataclass
class Combination(Judge):
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
        self.columns = tuple(f"{reward.name}.{name}" for reward in self.inner for name in reward.dimensions)
        self.signs = torch.tensor([1.0 if reward.higher_is_better else -1.0
                                   for reward in self.inner for _ in reward.dimensions])

    def check(self) -> None:
        for reward in self.inner:
            reward.check()

    def to(self, device: str) -> None:
        super().to(device)
        for reward in self.inner:
            reward.to(device)

    def judge(self, samples: list[Sample]) -> Scores:
        values, spreads, remarks = [], [], {}
        for reward in self.inner:
            answer = reward.score(samples)
            values.append(answer.values)
            spreads.append(torch.full_like(answer.values, float("nan")) if answer.spread is None else answer.spread)
            remarks = {i: f"{reward.name}: {text}" for i, text in answer.remarks.items()} | remarks
        combined = self.combine(torch.cat(values, 1) * self.signs, torch.cat(spreads, 1), samples)
        missing = combined.isnan().nonzero().flatten().tolist()
        return Scores(combined[:, None], {i: remarks.get(i, self.why_missing) for i in {*remarks, *missing}})

    why_missing = "an inner reward gave no value"

    def combine(self, values: Tensor, spreads: Tensor, samples: list[Sample]) -> Tensor:
        """[n] from values [n, C] and spreads [n, C]."""
        raise NotImplementedError

    def weights_of(self, weights: dict[str, float], default: float = 0.0) -> Tensor:
        """[C] from names of columns, or of rewards with one dimension, or of dimensions that only one reward has."""
        found = torch.full((len(self.columns),), float(default))
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

    def check(self) -> None:
        super().check()
        if not self.reference:
            raise UserError(f"reward {self.name}: set reference to a table that `visalign score` wrote for samples of "
                            "the base model")
        self.scores  # noqa: B018  reading it is the check

    @property
    def scores(self) -> ReferenceScores:
        if not hasattr(self, "_scores"):
            self._scores = read_reference(self.reference, self.columns, self.signs)
        return self._scores

    def standardise(self, values: Tensor) -> Tensor:
        mean, std = self.scores.mean_and_std()
        return (values - mean) / std


@dataclass
class WeightedSum(Referenced):
    """Sum of weight times reward, each standardised on the reference set first (`standardised: false`: as they are)."""

    weights: dict[str, float] = field(default_factory=dict)
    standardised: bool = True

    def __post_init__(self):
        super().__post_init__()
        self.weight = self.weights_of(self.weights) if self.weights else torch.ones(len(self.columns))

    def check(self) -> None:
        if self.standardised:
            super().check()
            self.scores.mean_and_std()
        else:
            Combination.check(self)

    def combine(self, values: Tensor, spreads: Tensor, samples: list[Sample]) -> Tensor:
        used = self.weight != 0
        return (self.standardise(values) if self.standardised else values)[:, used] @ self.weight[used]


@dataclass
class Centred(Referenced):
    """Base of the centred rewards: r_ref comes from the reference samples of the same prompt, in reference units."""

    why_missing = "the reference set has no sample of this prompt"

    def check(self) -> None:
        super().check()
        self.scores.mean_and_std()

    def references(self, prompt: str) -> Tensor | None:
        """Standardised rewards of the prompt's reference samples, [m, C]."""
        rows = self.scores.of_prompt(prompt)
        return None if rows is None else self.standardise(rows)

    def combine(self, values: Tensor, spreads: Tensor, samples: list[Sample]) -> Tensor:
        values = self.standardise(values)
        known = {prompt: self.references(prompt) for prompt in {sample.prompt for sample in samples}}
        return torch.stack([torch.tensor(float("nan")) if known[sample.prompt] is None
                            else self.centred(value, known[sample.prompt])
                            for sample, value in zip(samples, values, strict=True)])

    def centred(self, value: Tensor, references: Tensor) -> Tensor:
        """A scalar from one sample's value [C] and its prompt's references [m, C]."""
        raise NotImplementedError


@dataclass
class LogSigmoid(Centred):
    """Weighted sum of log sigmoid(r - r_ref), r_ref a quantile of the base model's rewards for that prompt.

    Sums of it act like AND: raising what is already high adds little.
    """

    quantile: float = 0.5
    weights: dict[str, float] = field(default_factory=dict)

    def __post_init__(self):
        super().__post_init__()
        self.weight = self.weights_of(self.weights) if self.weights else torch.ones(len(self.columns))
        if not 0 <= self.quantile <= 1:
            raise ValueError(f"quantile must be from 0 to 1, got {self.quantile}")

    def centred(self, value: Tensor, references: Tensor) -> Tensor:
        return (F.logsigmoid(value - references.quantile(self.quantile, dim=0)) * self.weight).sum()


@dataclass
class PAR(Centred):
    """Preference as reward: sigmoid(r - r_ref) averaged over up to `references_used` base samples, in (0, 1)."""

    references_used: int = 10

    score_range = (0.0, 1.0)

    def __post_init__(self):
        super().__post_init__()
        if self.references_used < 1:
            raise ValueError(f"references_used must be at least 1, got {self.references_used}")

    def centred(self, value: Tensor, references: Tensor) -> Tensor:
        return torch.sigmoid(value - references[:self.references_used]).mean()


@dataclass
class Ensemble(Referenced):
    """Several judges of one thing: their `mean`, worst case (`wco`: min), or mean minus penalty times variance (`uwo`).

    With a reference table each is standardised first; without one they are taken as they are.
    """

    mode: Literal["mean", "wco", "uwo"] = "mean"
    penalty: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        if self.penalty < 0:
            raise ValueError(f"penalty must be at least 0, got {self.penalty}")

    def check(self) -> None:
        if self.reference:
            super().check()
            self.scores.mean_and_std()
        else:
            Combination.check(self)

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

    The second term keeps an uncertain judgement from being free.
    """

    penalty: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        if len(self.columns) != 1:
            raise ValueError(f"of must have one dimension in all, found {', '.join(self.columns)}; pick one with a "
                             "direction")
        if self.penalty < 0:
            raise ValueError(f"penalty must be at least 0, got {self.penalty}")

    why_missing = "the inner reward reports no spread"

    def combine(self, values: Tensor, spreads: Tensor, samples: list[Sample]) -> Tensor:
        u = self.penalty * spreads[:, 0]
        return (-u).exp() * values[:, 0] - u


@dataclass
class Gate(Combination):
    """The second reward where the first one reaches `threshold`, else `otherwise`."""

    threshold: float = 0.0
    otherwise: float = 0.0

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

    weights: dict[str, float] = field(default_factory=dict)

    def __post_init__(self):
        super().__post_init__()
        direction = self.weights_of(self.weights)
        if not direction.norm() > 0:
            raise ValueError("weights are all 0, so they have no direction")
        self.direction = direction / direction.norm()

    def judge(self, samples: list[Sample]) -> Scores:
        """As for any combination; a dimension of weight 0 may be missing, and spread is carried along."""
        used = self.direction != 0
        answers = [reward.score(samples) for reward in self.inner]
        values = torch.cat([answer.values for answer in answers], 1) * self.signs
        remarks = {i: text for answer in reversed(answers) for i, text in answer.remarks.items()}
        score = values[:, used] @ self.direction[used]
        spread = None
        if all(answer.spread is not None for answer in answers):
            spread = (torch.cat([answer.spread for answer in answers], 1)[:, used] * self.direction[used]).norm(dim=1)
        return Scores(score[:, None], remarks, None if spread is None else spread[:, None])
