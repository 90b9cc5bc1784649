"""Whether an epoch divides into sampling batches, groups and updates."""

from visalign.config import OnlineConfig
from visalign.config.load import build_advantage, build_objective
from visalign.errors import UserError


def check_arithmetic(config: OnlineConfig, world: int) -> None:
    """Raise UserError naming the numbers to change when an epoch does not divide into batches and updates."""
    rollout, train = config.rollout, config.train
    rule, objective = build_advantage(config.advantage), build_objective(config.objective, loop="online")
    size, together = rollout.prompts_per_epoch * rollout.group_size, rollout.batch_size * world
    product = (f"rollout.prompts_per_epoch {rollout.prompts_per_epoch} x rollout.group_size {rollout.group_size} = "
               f"{size} samples")
    if size % together:
        raise UserError(f"{product} are not a multiple of rollout.batch_size {rollout.batch_size} x {world} processes "
                        f"= {together}; change one of these numbers")
    if size // together < train.updates_per_epoch or (size // together) % train.updates_per_epoch:
        raise UserError(f"{product} make {size // together} sampling batches of {together}, which cannot be divided "
                        f"among train.updates_per_epoch {train.updates_per_epoch}; change one of these numbers")
    for name, number in (("group_size", rollout.group_size), ("batch_size", rollout.batch_size)):
        if number % rollout.leaves:
            raise UserError(f"rollout.{name} {number}: must be a multiple of {rollout.leaves}, the samples of one tree "
                            f"that divides {len(rollout.split_steps)} times (rollout.branches.steps)")
    unit = objective.unit_size(rollout.group_size)
    whole = unit > 1 or bool(rule.unlikeliness)
    if whole and rollout.batch_size % rollout.group_size:
        raise UserError(f"rollout.batch_size {rollout.batch_size} must be a multiple of rollout.group_size "
                        f"{rollout.group_size}: this method needs each group in one process")
    if unit > train.batch_size:
        raise UserError(f"train.batch_size {train.batch_size} must be at least {unit}, the samples that this "
                        "objective compares")
    if rollout.group_size < objective.least_group:
        raise UserError(f"rollout.group_size {rollout.group_size}: {config.objective['name']} chooses from at least "
                        f"{objective.least_group} samples of a prompt with these settings of objective")
    if rule.rarity and rollout.group_size < 3:
        raise UserError(f"rollout.group_size {rollout.group_size}: must be at least 3 with advantage.rarity, since the "
                        "kinds of two samples are equally rare")
    if rule.kinds >= rollout.group_size:
        raise UserError(f"advantage.kinds {rule.kinds}: must be below rollout.group_size {rollout.group_size}, or "
                        "every sample is of a kind of its own")
    if objective.centred and (rule.baseline not in ("mean", "leave_one_out") or rule.history):
        given = f"history {rule.history}" if rule.history else f"baseline {rule.baseline}"
        raise UserError(f"advantage.{given}: objective.name {config.objective['name']} needs advantages that add up to "
                        "0 over a group; use baseline mean or leave_one_out, without history")
    early = objective.early_steps
    if early and rollout.window and rollout.window.first >= early:
        raise UserError(f"objective.kl_steps {early}: rollout.window.first {rollout.window.first} leaves the first "
                        f"{early} steps untrained, so kl early would hold nothing; start the window before, or use "
                        "another objective.kl")
    alone = rollout.group_size == 1 and rule.baseline != "none" and not rule.history
    if alone and not objective.through_reward and objective.ranks_samples:
        raise UserError("rollout.group_size 1: one sample of a prompt has nothing to be compared with, so every "
                        "advantage is 0; use at least 2, advantage.baseline none, or advantage.history")
    if rule.baseline == "median" and rollout.group_size % 2 == 0:
        raise UserError(f"rollout.group_size {rollout.group_size}: must be odd with advantage.baseline median (MC-GRPO "
                        "samples one more than it trains on)")
