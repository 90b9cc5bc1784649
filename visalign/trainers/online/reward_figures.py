"""Rewards and advantages of a batch of the policy's own samples as numbers for the log."""

from torch import Tensor, stack

from visalign.objectives.advantages import Advantages
from visalign.objectives.group_figures import weighted, without_partly_scored
from visalign.trainers.online.scoring import RewardSet

TOP_SHARES = (100, 50, 25, 10)


def reward_figures(rewards: Tensor, groups: Tensor, reward_set: RewardSet) -> dict[str, float]:
    """Of rewards [n, K], NaN where unscored, in groups [n]: each reward, their weighted sum, the sum of the best shares
    of each group, and its spread within a group. Samples that lack a reward which others of their group have are left
    out of the sums."""
    row: dict[str, float] = {}
    for name, column in zip(reward_set.names, rewards.unbind(1), strict=False):
        known = column[~column.isnan()]
        if not len(known):
            continue
        for label, value in (("mean", known.mean()), ("std", known.std(correction=0)), ("min", known.min()),
                             ("max", known.max())):
            row[f"reward/{name}/{label}"] = value.item()
    total = weighted(without_partly_scored(rewards.double(), groups.unique(return_inverse=True)[1]), reward_set.weights)
    scored = ~total.isnan()
    if not scored.any():
        return row
    total, groups = total[scored], groups[scored]
    row["reward"] = total.mean().item()
    row |= {f"reward_top_{share}": top_mean(total, groups, share) for share in TOP_SHARES}
    stds = stack([total[groups == g].std(correction=0) for g in groups.unique()])
    row["group_std"] = stds.mean().item()
    return row


def advantage_figures(advantages: Advantages, rewards: Tensor) -> dict[str, float]:
    """Of the advantages of rewards [n, K]: groups of equal rewards, samples without any reward, size, share clipped;
    and kinds of samples a group where they are told apart."""
    known = advantages.advantages[~advantages.advantages.isnan()]
    kinds = {} if advantages.kinds is None else {"kinds": advantages.kinds}
    return kinds | {"zero_std_ratio": advantages.zero_std, "unscored": int(rewards.isnan().all(1).sum()),
            "advantage_abs": known.abs().mean().item(), "advantage_clipped": advantages.clipped.double().mean().item()}


def top_mean(values: Tensor, groups: Tensor, share: int) -> float:
    """Mean reward of the best `share` per cent of each group."""
    means = []
    for g in groups.unique():
        ordered = values[groups == g].sort(descending=True).values
        means.append(ordered[:max(1, round(len(ordered) * share / 100))].mean())
    return stack(means).mean().item()
