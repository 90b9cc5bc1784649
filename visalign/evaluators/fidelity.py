"""Fidelity and coverage of generations against reference images, from features of both.

real [N, D] and fake [M, D] are rows of features. k-nearest-neighbour measures give a share per sample, so their
intervals are bootstraps over prompts; distances of distributions have intervals from a jackknife that leaves out a
twentieth of the prompts at a time.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from visalign.evaluators.reward_accuracy import clustered_mean
from visalign.evaluators.statistics import Estimate, TooFew, mean_with_interval

LEAST_FOR_FID = 2000
CMMD_SIGMA, CMMD_SCALE = 10.0, 1000.0
_ROWS = 512


def precision_recall(real: Tensor, fake: Tensor, prompts: list, k: int = 3) -> dict[str, Estimate]:
    """Improved precision and recall (Kynkäänniemi et al. 2019): shares of fake within the real manifold and back.

    A manifold is the union of balls around its samples that reach to their k-th nearest neighbour. prompts: of the
    fake samples; the real ones are independent of each other. Raises TooFew for k samples or fewer.
    """
    precise, recalled = balls_around(fake, real, _radii(real, k)), balls_around(real, fake, _radii(fake, k))
    return {"precision": clustered_mean((precise > 0).astype(float), _groups(prompts)),
            "recall": clustered_mean((recalled > 0).astype(float), np.arange(len(real)))}


def density_coverage(real: Tensor, fake: Tensor, prompts: list, k: int = 5) -> dict[str, Estimate]:
    """Density and coverage (Naeem et al. 2020): real balls a fake sample lies in, over k; real balls that are hit."""
    radii = _radii(real, k)
    hits = balls_around(fake, real, radii) / k
    per_prompt = _per_group(hits, _groups(prompts))
    covered = (_nearest(real, fake) <= _rim(radii).numpy()).astype(float)
    return {"density": mean_with_interval(per_prompt), "coverage": clustered_mean(covered, np.arange(len(real)))}


def _nearest(points: Tensor, others: Tensor) -> np.ndarray:
    others = others.double()
    return np.concatenate([torch.cdist(part, others).amin(1).numpy() for part in points.double().split(_ROWS)])


def _groups(prompts: list) -> np.ndarray:
    return np.unique(np.asarray(prompts), return_inverse=True)[1]


def _per_group(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    return np.bincount(groups, values) / np.bincount(groups)


def _radii(points: Tensor, k: int) -> Tensor:
    """Distance of each point to its k-th nearest other, [N]."""
    if len(points) <= k:
        raise TooFew(f"{k} nearest neighbours need at least {k + 1} samples on either side, there are {len(points)}")
    points = points.double()
    # the smallest distance is that to itself
    return torch.cat([torch.cdist(part, points).kthvalue(k + 1, 1).values for part in points.split(_ROWS)])


def balls_around(points: Tensor, centres: Tensor, radii: Tensor) -> np.ndarray:
    """In how many balls around `centres` each point lies, float64 [n]."""
    centres, limit = centres.double(), _rim(radii)
    return np.concatenate([(torch.cdist(part, centres) <= limit).sum(1).numpy()
                           for part in points.double().split(_ROWS)]).astype(float)


def _rim(radii: Tensor) -> Tensor:
    """A point on a ball's surface is in it, though distances of equal points are not exactly equal."""
    return radii * (1 + 1e-9) + 1e-6


class _Given(nn.Module):
    """Precomputed features, where torchmetrics expects a network."""

    def __init__(self, size: int):
        super().__init__()
        self.num_features = size

    def forward(self, features: Tensor) -> Tensor:
        return features


def fid(real: Tensor, fake: Tensor, prompts: list) -> Estimate:
    """Frechet distance of Gaussians fitted to the features (Heusel et al. 2017).

    Raises TooFew for fewer than 2,000 samples on a side: its bias would be larger than most differences.
    """
    if min(len(real), len(fake)) < LEAST_FOR_FID:
        raise TooFew(f"FID needs at least {LEAST_FOR_FID:,} samples on either side, there are {len(real)} and "
                     f"{len(fake)}")

    def distance(rows: np.ndarray) -> float:
        from torchmetrics.image.fid import FrechetInceptionDistance

        metric = FrechetInceptionDistance(feature=_Given(real.shape[1])).set_dtype(torch.float64)
        metric.update(real.double(), real=True)
        metric.update(fake[rows].double(), real=False)
        return float(metric.compute())

    return jackknife(distance, _groups(prompts))


def kid(real: Tensor, fake: Tensor, prompts: list, subset: int = 1000) -> Estimate:
    """Unbiased squared MMD with the cubic polynomial kernel (Binkowski et al. 2018); 10 subsets where there are many.

    Raises TooFew for fewer than 10 samples on a side.
    """
    if min(len(real), len(fake)) < 10:
        raise TooFew(f"KID needs at least 10 samples on either side, there are {len(real)} and {len(fake)}")

    def distance(rows: np.ndarray) -> float:
        from torchmetrics.image.kid import KernelInceptionDistance

        size = min(len(real), len(rows), subset)
        metric = KernelInceptionDistance(feature=_Given(real.shape[1]), subset_size=size,
                                         subsets=1 if max(len(real), len(rows)) <= subset else 10)
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            metric.update(real.double(), real=True)
            metric.update(fake[rows].double(), real=False)
            return float(metric.compute()[0])

    return jackknife(distance, _groups(prompts))


def cmmd(real: Tensor, fake: Tensor, prompts: list, sigma: float = CMMD_SIGMA) -> Estimate:
    """Squared MMD with a Gaussian kernel on unit features, times 1000 (CMMD, Jayasumana et al. 2024).

    The biased estimate, as published; meant for features of CLIP ViT-L/14 at 336 pixels.
    """
    real, fake = (torch.nn.functional.normalize(points.double(), dim=-1) for points in (real, fake))
    groups = _groups(prompts)
    count = int(groups.max()) + 1
    indicator = torch.nn.functional.one_hot(torch.from_numpy(groups), count).double()
    own = _kernel_sum(real, real, sigma).sum() / len(real) ** 2
    cross = (indicator.T @ _kernel_sum(fake, real, sigma)).numpy()
    between = torch.zeros(count, count, dtype=torch.float64)
    for start in range(0, len(fake), _ROWS):
        kernel = _kernel(fake[start:start + _ROWS], fake, sigma)
        between += indicator[start:start + _ROWS].T @ kernel @ indicator
    sizes = np.bincount(groups)

    def of_groups(kept: np.ndarray) -> float:
        n = sizes[kept].sum()
        inner = between.numpy()[np.ix_(kept, kept)].sum() / n**2
        return CMMD_SCALE * float(own + inner - 2 * cross[kept].sum() / (n * len(real)))

    return _jackknife_groups(of_groups, count)


def _kernel(a: Tensor, b: Tensor, sigma: float) -> Tensor:
    return torch.exp(-torch.cdist(a, b).square() / (2 * sigma**2))


def _kernel_sum(a: Tensor, b: Tensor, sigma: float) -> Tensor:
    """Sum over b for each row of a, [len(a)]."""
    return torch.cat([_kernel(part, b, sigma).sum(1) for part in a.split(_ROWS)])


def jackknife(statistic: Callable[[np.ndarray], float], groups: np.ndarray) -> Estimate:
    """`statistic(rows)` of all rows, with a normal interval from leaving out a twentieth of the groups at a time."""
    return _jackknife_groups(lambda kept: statistic(np.flatnonzero(np.isin(groups, kept))), int(groups.max()) + 1)


def _jackknife_groups(statistic: Callable[[np.ndarray], float], count: int, parts: int = 20) -> Estimate:
    value = statistic(np.arange(count))
    if count < 2:
        return Estimate(value, float("-inf"), float("inf"))
    parts = min(parts, count)
    part = np.random.default_rng(0).permutation(count) % parts
    without = np.array([statistic(np.flatnonzero(part != j)) for j in range(parts)])
    error = float(np.sqrt((parts - 1) / parts * np.square(without - without.mean()).sum()))
    return Estimate(value, value - 1.96 * error, value + 1.96 * error)
