"""`visalign reward debias`: fit a bias model on generations of the base model."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
from tqdm import tqdm

from visalign.data.generations import find_generations
from visalign.errors import UserError
from visalign.rewards import load_reward
from visalign.rewards.bias import BiasModel, fit_bias, nuisance
from visalign.storage.files import write_atomically

DEBIAS_BATCH = 64


def debias(spec, source: str, out: Path, device: str = "cpu") -> BiasModel:
    """Score `source`, fit the bias, write it as JSON to `out`. Raises UserError for fewer samples than a fit needs."""
    reward = load_reward(spec, device)
    if len(reward.dimensions) != 1:
        raise UserError(f"reward {reward.name}: has the dimensions {', '.join(reward.dimensions)}; pick one with a "
                        "direction")
    sign = 1 if reward.higher_is_better else -1
    entries, rewards, features = find_generations(source), [], []
    for start in tqdm(range(0, len(entries), DEBIAS_BATCH), desc="scoring", unit="batch"):
        samples = [entry.sample(4) for entry in entries[start:start + DEBIAS_BATCH]]
        rewards += (sign * reward.score(samples).values[:, 0]).tolist()
        features += [nuisance(sample) for sample in samples]
    model = fit_bias(np.array(rewards), np.array(features))
    write_atomically(out, (json.dumps({"reward": str(spec), "bias": asdict(model)}, indent=2) + "\n").encode())
    return model
