"""What can be known of samples that grow as trees before a model is loaded."""

from dataclasses import fields

from visalign.config import OnlineConfig
from visalign.config.load import build_advantage, build_objective
from visalign.errors import UserError

FITTING = ("clip", "eps", "drop_zero", "process")
"""Settings of advantages that those of edges have too."""


def check_branching(config: OnlineConfig) -> None:
    """Raise UserError when the recipe's method cannot learn from the edges of a tree."""
    if config.rollout.branches is None:
        return
    rule, name = build_advantage(config.advantage), config.objective["name"]
    if not build_objective(config.objective, loop="online").credits_steps:
        raise UserError(f"rollout.branches: gives each sampling step an advantage of its own, and objective.name "
                        f"{name} takes none; use grpo, grpo_guard or flow_dppo, or leave branches out")
    for field in fields(rule):
        if field.name not in FITTING and getattr(rule, field.name) != field.default:
            raise UserError(f"advantage.{field.name} {getattr(rule, field.name)}: with rollout.branches rewards are "
                            "added and standardised by depth of the tree; leave it out")
