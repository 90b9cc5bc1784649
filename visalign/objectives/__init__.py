"""Losses as pure functions of tensors. To add one, see docs/extending.md."""

from visalign.objectives.backprop import DRaFT
from visalign.objectives.base import Objective, Outcome, PairErrors
from visalign.objectives.dpo import DiffusionDPO, FlowDPO
from visalign.objectives.forward import AWM, RAFT, DiffusionNFT
from visalign.objectives.policy import D3PO, GRPO, FlowDPPO, GRPOGuard
from visalign.objectives.regression import SFT, FlowRWR
from visalign.objectives.reward_model import RewardModelLoss

OBJECTIVES: dict[str, type[Objective]] = {
    "diffusion_dpo": DiffusionDPO,
    "flow_dpo": FlowDPO,
    "flow_rwr": FlowRWR,
    "sft": SFT,
}
REWARD_OBJECTIVES = {"preference": RewardModelLoss}
ONLINE_OBJECTIVES = {
    "grpo": GRPO,
    "grpo_guard": GRPOGuard,
    "flow_dppo": FlowDPPO,
    "d3po": D3PO,
    "nft": DiffusionNFT,
    "awm": AWM,
    "raft": RAFT,
    "draft": DRaFT,
}
REGISTRIES = {"offline": OBJECTIVES, "online": ONLINE_OBJECTIVES, "reward": REWARD_OBJECTIVES}
"""By the loop that uses them; a configuration says which loop it is for."""

__all__ = ["OBJECTIVES", "ONLINE_OBJECTIVES", "REGISTRIES", "REWARD_OBJECTIVES", "Objective", "Outcome", "PairErrors"]
