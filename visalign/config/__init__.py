"""Every setting of a run: typed, documented, validated before a model is loaded (load.py reads the YAML)."""

from visalign.config.buckets import BucketSettings
from visalign.config.common import (
    EvaluationSettings,
    GuardSettings,
    HeldLora,
    LoraSettings,
    ModelSettings,
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
from visalign.config.offline import (
    DataSettings,
    FeedbackSettings,
    OfflineConfig,
    OwnSettings,
    TrainSettings,
    UserSettings,
)
from visalign.config.online import (
    OnlineConfig,
    OnlineOutputSettings,
    OnlineTrainSettings,
    RewardSettings,
    RewardTerm,
    RolloutSettings,
    WindowSettings,
)
from visalign.config.optim import OptimSettings
from visalign.config.reward import AnnotationDataSettings, JointSettings, RewardConfig, RewardTrainSettings
from visalign.config.sources import CaptionSettings, SourceSettings
from visalign.config.subject import SubjectSettings

__all__ = ["AnnotationDataSettings", "BucketSettings", "CaptionSettings", "DataSettings", "EvaluationSettings",
           "FeedbackSettings", "GuardSettings", "GuideConfig", "GuideHeadSettings", "HeldLora", "JointSettings",
           "LanguageConfig", "LanguageEvaluationSettings", "LanguageModelSettings", "LanguageOnlineConfig",
           "LanguageRewardSettings", "LanguageRolloutSettings", "LanguageSettings", "LanguageTrainSettings",
           "LoraSettings", "ModelSettings", "OfflineConfig", "OnlineConfig", "OnlineOutputSettings",
           "OnlineTrainSettings", "OptimSettings", "OutputSettings", "OwnSettings", "RewardConfig", "RewardSettings",
           "RewardSpec", "RewardTerm", "RewardTrainSettings", "RolloutSettings", "Settings", "SourceSettings",
           "SubjectSettings", "TextDataSettings", "TextFeedbackSettings", "TrainSettings", "UserSettings",
           "WindowSettings"]
