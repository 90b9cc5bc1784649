"""Judges that are asked in words: any OpenAI-compatible endpoint, or a local transformers model."""

from visalign.rewards.vlm.edits import VlmEdit, VlmEditComparison
from visalign.rewards.vlm.generic import VlmComparison, VlmJudge
from visalign.rewards.vlm.personal import PersonalJudge
from visalign.rewards.vlm.texts import LlmComparison, LlmJudge
from visalign.rewards.vlm.unified import UnifiedReward, UnifiedRewardFlex, UnifiedRewardPairs

__all__ = ["LlmComparison", "LlmJudge", "PersonalJudge", "UnifiedReward", "UnifiedRewardFlex", "UnifiedRewardPairs",
           "VlmComparison", "VlmEdit", "VlmEditComparison", "VlmJudge"]
