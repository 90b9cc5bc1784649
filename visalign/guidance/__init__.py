"""Rewards that look at noisy latents, and sampling that follows their gradient."""

from visalign.guidance.judging import GuideJudge
from visalign.guidance.network import LatentReward, load_guide, save_guide
from visalign.guidance.sampling import Guided, Guiding

__all__ = ["GuideJudge", "Guided", "Guiding", "LatentReward", "load_guide", "save_guide"]
