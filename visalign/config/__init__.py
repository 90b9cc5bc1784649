"""Every setting of a run: typed, documented, validated before a model is loaded (configfile.py reads the YAML)."""

from visalign.config.common import Evaluation, Guard, Lora, Model, Optim, Output, RewardSpec, Settings
from visalign.config.guide import GuideConfig, GuideHead
from visalign.config.offline import Config, Data, Feedback, Train
from visalign.config.online import Judging, OnlineConfig, OnlineOutput, OnlineTrain, RewardTerm, Rollout, Window
from visalign.config.reward import JointSettings, JudgementData, RewardConfig, RewardTrain

__all__ = ["Config", "Data", "Evaluation", "Feedback", "Guard", "GuideConfig", "GuideHead", "JointSettings",
           "JudgementData", "Judging", "Lora",
           "Model", "OnlineConfig", "OnlineOutput", "OnlineTrain", "Optim", "Output", "RewardConfig", "RewardSpec",
           "RewardTerm", "RewardTrain", "Rollout", "Settings", "Train", "Window"]
