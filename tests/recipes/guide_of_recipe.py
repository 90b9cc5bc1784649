"""The latent reward that a recipe's samples follow, untrained, for the tiny model that stands in for its own."""

from pathlib import Path

import torch

from tests.families import load_tiny
from visalign.config import GuideHeadSettings, ModelSettings
from visalign.guidance import LatentReward, save_guide


def guide_source(config, folder: Path, pipeline: Path, name: str) -> list[str]:
    """The override that names a guide of this folder, which is written; [] for a recipe without one."""
    guide = config.rollout.guide if config.loop == "online" else None
    if guide is None:
        return []
    torch.manual_seed(0)
    head = GuideHeadSettings(dimensions=tuple(guide.weights), blocks=(0,), width=16, attention_heads=2)
    save_guide(folder / "guide", LatentReward(load_tiny(pipeline, name), head), ModelSettings(source="tiny"), {})
    return [f"rollout.guide.source={folder / 'guide'}"]
