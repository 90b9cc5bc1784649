"""Losses as pure functions of tensors. To add one, see EXTENDING.md."""

from visalign.objectives.base import Objective, Outcome, PairErrors
from visalign.objectives.dpo import DiffusionDPO, FlowDPO
from visalign.objectives.regression import SFT, FlowRWR

OBJECTIVES: dict[str, type[Objective]] = {
    "diffusion_dpo": DiffusionDPO,
    "flow_dpo": FlowDPO,
    "flow_rwr": FlowRWR,
    "sft": SFT,
}

__all__ = ["OBJECTIVES", "Objective", "Outcome", "PairErrors"]
