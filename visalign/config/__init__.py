"""Every setting of a run: typed, documented, validated before a model is loaded (load.py reads the YAML)."""

from visalign.config.buckets import BucketSettings
from visalign.config.common import (
           EvaluationSettings,
           GuardSettings,
           HeldLora,
           LoraSettings,
           ModelSettings,
           OptimSettings,
           OutputSettings,
           RewardSpec,
           Settings,
)
from visalign.config.guide import GuideConfig, GuideHeadSettings
from visalign.config.language import (
           LanguageConfig,
           LanguageEvaluationSettings,
           LanguageModelSettings,
           LanguageOnlineConfig,
           LanguageRewardSettings,
           LanguageRolloutSettings,
           LanguageSettings,
           LanguageTrainSettings,
           TextDataSettings,
           TextFeedbackSettings,
)
from visalign.config.offline import DataSettings, FeedbackSettings, OfflineConfig, TrainSettings
from visalign.config.online import (
           OnlineConfig,
           OnlineOutputSettings,
           OnlineTrainSettings,
           RewardSettings,
           RewardTerm,
           RolloutSettings,
           WindowSettings,
)
from visalign.config.reward import AnnotationDataSettings, JointSettings, RewardConfig, RewardTrainSettings
from visalign.config.sources import CaptionSettings, SourceSettings

__all__ = ["AnnotationDataSettings", "BucketSettings", "CaptionSettings", "DataSettings", "EvaluationSettings",
           "FeedbackSettings", "GuardSettings", "GuideConfig", "GuideHeadSettings", "HeldLora", "JointSettings",
           "LanguageConfig", "LanguageEvaluationSettings", "LanguageModelSettings", "LanguageOnlineConfig",
           "LanguageRewardSettings", "LanguageRolloutSettings", "LanguageSettings", "LanguageTrainSettings",
           "LoraSettings", "ModelSettings", "OfflineConfig", "OnlineConfig", "OnlineOutputSettings",
           "OnlineTrainSettings", "OptimSettings", "OutputSettings", "RewardConfig", "RewardSettings", "RewardSpec",
           "RewardTerm", "RewardTrainSettings", "RolloutSettings", "Settings", "SourceSettings", "TextDataSettings",
           "TextFeedbackSettings", "TrainSettings", "WindowSettings"]
