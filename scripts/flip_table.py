"""How well does a reward order clean pairs when some of its labels were flipped? A table, by loss and share of flips.

    python scripts/flip_table.py                 6 seeds, two minutes on one core

Pairs of items with 16 normal features; the better one has more of a fixed non-linear score, by which 10,000 further
pairs are labelled. Two heads of the unified reward learn from 1,000 pairs of which a share was flipped, in 200 steps
of 64.
Accuracy is that of the heads' mean, averaged over seeds, with the 95 % interval of the difference to Bradley-Terry on
the same pairs (Student's, over seeds). `known` losses are told the share; `peers` leaves it out of each batch.
"""

import argparse
import math

import numpy as np
import scipy.stats as st
import torch
from torch import Tensor

from visalign.objectives.label_noise import FlipRate
from visalign.objectives.reward_model import Comparison, RewardModelLoss
from visalign.rewards.joint.heads import Heads

SHARES = (0.0, 0.1, 0.2, 0.3, 0.4)
PAIRS, HELD_OUT, FEATURES, STEPS, BATCH, LR = 1000, 10_000, 16, 200, 64, 3e-3
LOSSES = {
    "Bradley-Terry": lambda share: {},
    "label_smoothing, known": lambda share: {"label_smoothing": share},
    "flip_rate, known": lambda share: {"flip_rate": share},
    "forward_rate, known": lambda share: {"forward_rate": share},
    "forward_rate: learn": lambda share: {"forward_rate": "learn"},
    "peer_filter, known": lambda share: {"peer_filter": share},
}


def score(x: Tensor) -> Tensor:
    """What is truly better, [N]."""
    return x[:, 0] + 0.7 * x[:, 1] * x[:, 2] + 0.7 * x[:, 3].abs()


def pairs(count: int, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Features of both sides [N, F] and who is better, [N]."""
    a, b = torch.randn(2, count, FEATURES, generator=rng)
    return a, b, (score(a) > score(b)).float()


def trained(seed: int, share: float, settings: dict) -> tuple[float, float]:
    """Accuracy on clean pairs after learning from flipped ones, and the share that was learnt (NaN: none)."""
    rng = torch.Generator().manual_seed(seed)
    (a, b, better), held_out = pairs(PAIRS, rng), pairs(HELD_OUT, rng)
    labels = torch.where(torch.rand(PAIRS, generator=rng) < share, 1 - better, better)
    torch.manual_seed(seed)
    heads, objective, nothing = Heads(FEATURES, 1, 2, 32), RewardModelLoss(**settings), torch.full((BATCH, 1), math.nan)
    optimizer = torch.optim.Adam(heads.parameters(), LR)
    flips = FlipRate(PAIRS) if objective.noise.learns else None
    for step in range(STEPS):
        rows = torch.randint(PAIRS, (BATCH,), generator=rng)
        loss = objective(Comparison(
            heads(a[rows, None]), heads(b[rows, None]), labels[rows, None], torch.ones(BATCH), nothing, nothing,
            flip_logit=flips.logit if flips else None, done=step / STEPS)).loss
        if flips:
            flips.follow(flips.slope(loss))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        a, b, better = held_out
        right = (heads(a[:, None]).mean(1) > heads(b[:, None]).mean(1))[:, 0].float() == better
    return right.float().mean().item(), flips.rate if flips else math.nan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=6)
    seeds = range(parser.parse_args().seeds)
    torch.set_num_threads(1)
    print("| loss |" + "".join(f" {share:.0%} |" for share in SHARES) + "\n|---|" + "---|" * len(SHARES))
    plain: dict[float, np.ndarray] = {}
    for name, settings in LOSSES.items():
        cells, learnt = [], []
        for share in SHARES:
            found = np.array([trained(seed, share, settings(share)) for seed in seeds])
            gain = found[:, 0] - plain.setdefault(share, found[:, 0])
            half = st.t.ppf(0.975, len(seeds) - 1) * gain.std(ddof=1) / len(seeds) ** 0.5
            apart = f" [{gain.mean() - half:+.3f}, {gain.mean() + half:+.3f}]" if name != "Bradley-Terry" else ""
            cells.append(f" {found[:, 0].mean():.3f}{apart} |")
            learnt.append(f"{found[:, 1].mean():.2f}")
        print(f"| {name} |" + "".join(cells), flush=True)
        if "nan" not in learnt:
            print(f"(learnt shares: {', '.join(learnt)})", flush=True)


if __name__ == "__main__":
    main()
