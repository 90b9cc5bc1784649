"""`visalign reward transport`: the map that carries captions to where real videos are, on a table or folder of them.

Features are computed once. A quarter of the captions is held out, and what is told was measured on it: how often a
sample fits its own caption better than another sample does, by the plain cosine and by the mapped one.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from visalign.errors import UserError
from visalign.evaluators import mean_with_interval
from visalign.evaluators.statistics import Estimate
from visalign.jobs.reward_direction import embed_samples, with_features
from visalign.rewards.clip import FRAMES
from visalign.rewards.sinkhorn import barycentric, ridge_map, transport_plan
from visalign.rewards.transport import video_features
from visalign.sampling.seeds import rng_for
from visalign.storage.weights import write_tensors

LEAST_CAPTIONS, HELD_OUT = 16, 0.25


@dataclass(frozen=True)
class Transport:
    """What was written. plain, mapped: the share of other held-out samples that fit a caption worse than its own."""

    samples: int
    left_out: int
    used: int
    plain: Estimate
    mapped: Estimate


def transport_reward(spec, source: str, out: Path, *, epsilon: float = 0.05, ridge: float = 0.1, most: int = 4096,
                     seed: int = 0, device: str = "cpu") -> Transport:
    """Write the map of a CLIP reward for the samples at `source` to the .safetensors file `out`.

    epsilon: of the plan, in units of the mean cost. ridge: of the map, in units of the texts' variance. most: samples
    that the plan is made of. Raises UserError for a reward without features, and for too few samples.
    """
    reward = with_features(spec, out, device)
    found, prompts, left_out = embed_samples(reward, source, video_features, FRAMES)
    captions = list(dict.fromkeys(prompts))
    if len(captions) < LEAST_CAPTIONS:
        raise UserError(f"input {source}: has samples of {len(captions)} captions; at least {LEAST_CAPTIONS} are "
                        "needed, since a quarter of them is held out")
    texts = reward.prompt_features(prompts)[0]
    order = torch.randperm(len(captions), generator=rng_for(seed, "held out")).tolist()
    unseen = {captions[i] for i in order[:max(2, round(HELD_OUT * len(captions)))]}
    held = torch.tensor([i for i, prompt in enumerate(prompts) if prompt in unseen])
    used = torch.tensor([i for i, prompt in enumerate(prompts) if prompt not in unseen][:most], dtype=torch.int64)
    cost = torch.cdist(texts[used].double(), found[used].double()).square()
    plan = transport_plan(cost, epsilon * cost.mean().item())
    matrix, shift = ridge_map(texts[used], barycentric(plan, found[used]), ridge)
    mapped = F.normalize(texts[held] @ matrix.float() + shift.float(), dim=-1)
    told = Transport(len(prompts), left_out, len(used), better_than_others(found[held], texts[held]),
                     better_than_others(found[held], mapped))
    write_tensors(out, {"matrix": matrix.float(), "shift": shift.float()}, {
        "reward": str(spec), "samples": source, "seed": str(seed), "epsilon": str(epsilon), "ridge": str(ridge)})
    return told


def better_than_others(samples: Tensor, texts: Tensor) -> Estimate:
    """For each text [n, d] the share of the other samples [n, d] whose cosine with it is below its own sample's; ties
    count half."""
    cosines = (texts @ samples.T).numpy()
    own = cosines.diagonal()[:, None]
    shares = ((own > cosines) + 0.5 * (own == cosines) - 0.5 * np.eye(len(own))).sum(1) / (len(own) - 1)
    return mean_with_interval(shares)
