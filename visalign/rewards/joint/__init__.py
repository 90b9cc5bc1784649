"""The unified reward: one trainable network for pictures and clips, with named dimensions and an uncertainty."""

from visalign.rewards.joint.reward import JointReward

__all__ = ["JointReward"]
