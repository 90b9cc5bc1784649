"""Reward models: what scores a sample. To add one, see docs/extending.md."""

from visalign.rewards.base import (
    FeatureExtractor,
    Reward,
    RewardModel,
    Scores,
    check_sources_given,
    finite_scores,
    scores_of,
)
from visalign.rewards.clip import ClipScore
from visalign.rewards.joint import JointReward
from visalign.rewards.registry import ALIASES, REWARDS, build_reward, check_reward, expand, load_reward
from visalign.rewards.video_rules import for_modality

__all__ = ["ALIASES", "REWARDS", "ClipScore", "FeatureExtractor", "JointReward", "RewardModel", "Reward", "Scores",
           "build_reward", "check_reward", "check_sources_given", "expand", "finite_scores", "for_modality",
           "load_reward", "scores_of"]
