"""The unified reward: one trainable network for images and videos, with named dimensions and an uncertainty."""

from visalign.rewards.joint.pairs import JointPairs
from visalign.rewards.joint.reward import JointReward

__all__ = ["JointPairs", "JointReward"]
