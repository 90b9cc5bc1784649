"""Losses as pure functions of tensors. To add one, see EXTENDING.md."""

from visalign.objectives.base import Objective, Outcome, PairErrors
from visalign.objectives.dpo import DiffusionDPO, FlowDPO
from visalign.objectives.judging import PreferenceJudging
from visalign.objectives.regression import SFT, FlowRWR

OBJECTIVES: dict[str, type[Objective]] = {
    "diffusion_dpo": DiffusionDPO,
    "flow_dpo": FlowDPO,
    "flow_rwr": FlowRWR,
    "sft": SFT,
}
REWARD_OBJECTIVES = {"preference": PreferenceJudging}
REGISTRIES = {"offline": OBJECTIVES, "reward": REWARD_OBJECTIVES}
"""By the loop that uses them; a configuration says which loop it is for."""

__all__ = ["OBJECTIVES", "REGISTRIES", "REWARD_OBJECTIVES", "Objective", "Outcome", "PairErrors"]
