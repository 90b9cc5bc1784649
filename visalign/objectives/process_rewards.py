"""From what a latent reward says of the states of a sampling run to advantages of its steps.

    before   R(x_j)                what the state was worth that a step set out from
    after    R(x_{j+1})            what it led to
    gain     R(x_{j+1}) - R(x_j)   what it added
    dense    R(x0_hat(x_{j+1})) - R(x0_hat(x_j)),  x0_hat the clean sample that is predicted at a state

A_j = (r_j - mean) / (std + eps), over the same step of the samples of a prompt, std with ddof 0, clipped.

Euphonium (Zhong et al. 2026, arXiv 2602.04928), whose code is `before`; a state is decided by the steps that led to it
and not by the one that leaves it, so `gain` is the default here. Gains are potential-based shaping (Ng et al. 1999)
with the potential R: those of consecutive steps add up to R(end) - R(start), so a sample cannot earn by detours.
`dense` is that of DenseGRPO (arXiv 2601.20218).
Differs from the papers in: DenseGRPO decodes x0_hat, from an ODE's solution, and asks a reward of pixels; here x0_hat
is predicted in one step and a latent reward is asked. Steps of which R was not asked take no part; the code counts them
as 0.
Recipe: configs/online/euphonium.yaml.
"""

import torch
from torch import Tensor


def process_rewards(values: Tensor, process: str) -> Tensor:
    """Of R before and after each step, [..., 2], the reward of the step, [...]."""
    before, after = values.unbind(-1)
    return {"before": before, "after": after}.get(process, after - before)


def process_advantages(rewards: Tensor, steps: Tensor, groups: Tensor, eps: float, clip: float) -> Tensor:
    """Of rewards [n, K] of the steps [n, K] of samples in groups [n], float64 [n, K]; 0 for a reward that is NaN or the
    same in its whole group."""
    group = torch.unique(groups, return_inverse=True)[1][:, None].expand_as(steps)
    index = (group * (int(steps.max()) + 1) + steps).flatten() if steps.numel() else steps.flatten()
    found = torch.zeros(steps.shape, dtype=torch.float64)
    flat = rewards.double().flatten()
    for place in index.unique().tolist():
        where = (index == place) & ~flat.isnan()
        known = flat[where]
        if len(known) > 1 and known.max() - known.min() > 1e-6 * known.abs().max():
            advantages = (known - known.mean()) / (known.std(correction=0) + eps)
            found.view(-1)[where] = advantages.clamp(-clip, clip)
    return found
