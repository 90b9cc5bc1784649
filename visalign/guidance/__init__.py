"""Rewards on noisy latents, and sampling that follows their gradient."""

from visalign.guidance.network import LatentReward, load_guide, save_guide
from visalign.guidance.reward import GuideReward
from visalign.guidance.sampling import Guided, Guiding

__all__ = ["GuideReward", "Guided", "Guiding", "LatentReward", "load_guide", "save_guide"]
