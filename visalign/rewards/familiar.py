"""A reward that says how unlike the samples it is known on a sample is: the probe at use of MRMBench.

    z    = (h - mean) / std                                   h: what the reward reads of a sample, [d]
    dist = min over centres of |z - c| / sqrt(d)              centres: of K-means, of each label's samples
    spread = sqrt( own^2 + (s max(0, dist / t - 1))^2 )       t: the distance that a share of known samples stays below
                                                              s: standard deviation of the reward over them

Values are the reward's own. What combines rewards by their spread (`uncertainty_weight`, online runs' shrinkage) then
trusts it less where nothing was labelled, which is where a policy that is paid by it ends up.

MRMBench: arXiv 2511.12464. Differs from it in: features are standardised; the spread grows with the distance, where the
paper leaves samples out. Centres: `visalign reward probe REWARD DATA --centres FILE`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy  # its parts are imported when they are first used
import torch
from torch import Tensor

from visalign.errors import UserError
from visalign.media.samples import Sample
from visalign.rewards.base import Reward, RewardModel, Scores
from visalign.rewards.features import features_for
from visalign.storage.weights import read_shapes, read_tensors

CENTRES_OF_A_LABEL = 4
"""At most; of a label with fewer than ten times as many samples, one for each ten."""


class Centres(NamedTuple):
    """mean, std: of features, [d]. centres: [C, d], of standardised ones. within: t, a scalar. scale: s of each of the
    reward's dimensions, [D]."""

    mean: Tensor
    std: Tensor
    centres: Tensor
    within: Tensor
    scale: Tensor

    def distances(self, features: Tensor) -> Tensor:
        """Of features [n, d] from the nearest centre, [n]."""
        z = (features.double() - self.mean) / self.std
        return torch.cdist(z, self.centres).amin(1) / z.shape[1] ** 0.5

    def spread(self, features: Tensor) -> Tensor:
        """What distance adds to the spread, [n, D]."""
        return (self.distances(features) / self.within - 1).clamp(min=0)[:, None] * self.scale


def fit_centres(features: np.ndarray, labels: Sequence[Sequence[str | None]], fold: np.ndarray, scores: np.ndarray,
                share: float, seed: int = 0) -> Centres:
    """From features [n, d] of samples, their labels, each [n], the fold [n] of each, and their scores [n, D].

    share: of them that counts as near. Distances that say so are from centres of the other folds. A dimension without
    scores, such as motion of images, has the scale 0. Raises ValueError where all scores are the same, since a spread
    would have no size.
    """
    mean, std = features.mean(0), np.maximum(features.std(0), 1e-6)
    z = (features - mean) / std
    scale = np.array([column[known].std() if (known := np.isfinite(column)).any() else 0.0 for column in scores.T])
    if not (scale > 0).any():
        raise ValueError("its scores of these samples are all the same")

    def found(here: np.ndarray) -> np.ndarray:
        rng = np.random.default_rng(seed)
        parts = [_k_means(z[chosen], rng) for each in labels for name in sorted({label for label in each if label})
                 if (chosen := here & np.array([label == name for label in each])).any()]
        return np.concatenate(parts)

    apart = np.concatenate([scipy.spatial.distance.cdist(z[fold == k], found(fold != k)).min(1)
                            for k in np.unique(fold)]) / z.shape[1] ** 0.5
    everything = found(np.ones(len(z), bool))
    return Centres(*(torch.tensor(each, dtype=torch.float64) for each in (
        mean, std, everything, np.quantile(apart, share), scale)))


def _k_means(z: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    count = min(CENTRES_OF_A_LABEL, max(1, len(z) // 10))
    if count == 1:
        return z.mean(0, keepdims=True)
    return scipy.cluster.vq.kmeans2(z, count, minit="++", seed=rng, missing="raise")[0]


@dataclass
class Familiar(RewardModel):
    """A reward whose spread grows as a sample is further from all that was labelled (MRMBench's probe at use).

    of: one reward with features. centres: the .safetensors file that `visalign reward probe --centres` wrote for it.
    """

    of: Any = field(default_factory=list)
    centres: str = ""

    named_by = "centres"

    def __post_init__(self):
        super().__post_init__()
        inner = list(self.of)
        if len(inner) != 1:
            raise ValueError(f"of must name one reward, found {len(inner)}")
        self.inner: Reward = inner[0]
        self.embed: Callable[[list[Sample]], Tensor] = features_for(self.inner)
        for name in ("modalities", "dimensions", "higher_is_better", "needs_prompt", "needs_group", "score_range"):
            setattr(self, name, getattr(self.inner, name))
        self._read: Centres | None = None

    def check(self) -> None:
        self.inner.check()
        if not self.centres:
            raise UserError(f"reward {self.name}: set centres to what `visalign reward probe --centres` wrote")
        shapes = read_shapes(self._path, self._where)
        if set(shapes) != set(Centres._fields) or len(shapes["centres"]) != 2:
            raise UserError(f"{self._where}: holds {', '.join(sorted(shapes)) or 'nothing'}; expected "
                            f"{', '.join(Centres._fields)}, as `visalign reward probe --centres` writes them")
        if shapes["scale"] != (len(self.dimensions),):
            raise UserError(f"{self._where}: is of a reward with {shapes['scale'][0]} dimensions, and "
                            f"{self.inner.name} has {len(self.dimensions)}; write one for this reward")

    @property
    def _path(self) -> Path:
        return Path(self.centres).expanduser()

    @property
    def _where(self) -> str:
        return f"reward {self.name}: centres {self.centres}"

    @property
    def known(self) -> Centres:
        if self._read is None:
            tensors = read_tensors(self._path, self._where)
            self._read = Centres(**{name: tensor.double() for name, tensor in tensors.items()})
        return self._read

    def to(self, device: str) -> None:
        super().to(device)
        self.inner.to(device)

    def held_bytes(self) -> int | None:
        return self.inner.held_bytes()

    def score_batch(self, samples: list[Sample]) -> Scores:
        answer, features = self.inner.score(samples), self.embed(samples).cpu()
        if features.shape[1] != len(self.known.mean):
            raise UserError(f"{self._where}: is of {len(self.known.mean)} features, and {self.inner.name} has "
                            f"{features.shape[1]}; write one for this reward")
        further = self.known.spread(features).float()
        own = torch.zeros_like(further) if answer.spread is None else answer.spread.nan_to_num(0.0)
        return Scores(answer.values, answer.remarks, torch.hypot(own, further))
