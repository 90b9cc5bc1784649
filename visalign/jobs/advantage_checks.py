"""Whether the advantage rule of an online run goes with its rewards and with what learns from it."""

from visalign.config import OnlineConfig
from visalign.config.load import build_advantage, build_objective
from visalign.errors import UserError, nearest
from visalign.objectives import REGISTRIES
from visalign.objectives.balance import MOST


def check_advantage_rule(config: OnlineConfig, names: tuple[str, ...]) -> None:
    """Raise UserError for rewards that are not there, and for weights that cannot be found. names: of the rewards."""
    rule = build_advantage(config.advantage)
    for setting, name in rule.rewards_named():
        if name not in names:
            raise UserError(f"advantage.{setting} {name}: names no reward; the rewards are {', '.join(names)}"
                            f"{nearest(name, names)}")
    objective = build_objective(config.objective, loop="online")
    if rule.schedule is not None and objective.chooses:
        raise UserError(f"advantage.schedule: weighs the terms of a sample apart, and objective.name "
                        f"{config.objective['name']} takes samples as a whole; leave it out")
    if rule.finds_weights:
        _check_found_weights(config, rule, names)
    if rule.probes:
        _check_probes(config, rule)


def _check_found_weights(config: OnlineConfig, rule, names: tuple[str, ...]) -> None:
    said = f"advantage.combine {rule.combine}"
    if config.rollout.votes:
        raise UserError(f"{said}: weighs several rewards, and rollout.votes has none; leave it out")
    found = rule.found_of(names)
    for name, term in zip(names, config.reward.models, strict=True):
        if name in found and term.weight != 1:
            raise UserError(f"reward.models {name}: weight {term.weight:g} does not go with {said}, which finds the "
                            "weight itself; leave it out")


def _check_probes(config: OnlineConfig, rule) -> None:
    objective = build_objective(config.objective, loop="online")
    reason = objective.not_affine(config.train.updates_per_epoch, rule.clip)
    if reason:
        fitting = ", ".join(sorted(name for name, each in REGISTRIES["online"].items() if not each().not_affine(
            1, rule.clip)))
        raise UserError(f"advantage.combine {rule.combine}: adds up the gradients of single rewards, which objective."
                        f"name {config.objective['name']} does not allow, since {reason}; {fitting} always "
                        "allows it")
    if len(config.reward.models) > MOST:
        raise UserError(f"reward.models: {len(config.reward.models)} rewards, and advantage.combine {rule.combine} "
                        f"balances at most {MOST}")
