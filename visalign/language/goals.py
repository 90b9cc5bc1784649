"""Reward-augmented data: each pair twice, asked for the score of either answer. Zhang et al. 2024 (arXiv 2410.08067).

A pair whose answers score r_w and r_l becomes two: asked for r_w the order stays, asked for r_l it turns, since the
rejected answer is then what was asked for. The model is used, and measured, with the highest goal.
"""

from collections.abc import Sequence
from dataclasses import replace

from visalign.config import LanguageSettings, TextDataSettings
from visalign.config.language import GoalSettings
from visalign.data.text_pairs import TextPair
from visalign.errors import UserError, notice


def goal_text(settings: GoalSettings, goal: float) -> str:
    """The system's turn that asks for a score."""
    return settings.template.format(goal=f"{goal:.1f}".removesuffix(".0"), best=f"{settings.scale[1]:g}")


def with_goals(pairs: Sequence[TextPair], data: TextDataSettings) -> list[TextPair]:
    """2 n pairs of n whose answers score differently, the others left out and counted; the lowest and highest rewards
    of the set become the ends of `scale`.

    Raises UserError for pairs without rewards, that have a system's turn already, or that all score the same.
    """
    settings = data.goals
    for pair in pairs:
        if pair.chosen_reward is None or pair.rejected_reward is None:
            raise UserError(f"data.goals: {pair.where} has no chosen_reward and rejected_reward, which become goals")
        if pair.messages[0]["role"] == "system":
            raise UserError(f"data.goals: {pair.where} has a turn of the system already, where the goal would stand")
    kept = [pair for pair in pairs if pair.chosen_reward != pair.rejected_reward]
    if not kept:
        raise UserError(f"data.goals: both answers score the same in all {len(pairs)} pairs")
    if len(kept) < len(pairs):
        notice(f"data.goals: {len(pairs) - len(kept)} of {len(pairs)} pairs, whose answers score the same, are left "
               "out")
    rewards = [reward for pair in kept for reward in (pair.chosen_reward, pair.rejected_reward)]
    (low, high), (least, most) = settings.scale, (min(rewards), max(rewards))

    def asked(pair: TextPair, reward: float) -> tuple[dict[str, str], ...]:
        goal = low + (high - low) * (reward - least) / (most - least)
        return ({"role": "system", "content": goal_text(settings, goal)}, *pair.messages)

    return [each for pair in kept for each in (
        replace(pair, messages=asked(pair, pair.chosen_reward)),
        replace(pair, messages=asked(pair, pair.rejected_reward), chosen=pair.rejected, rejected=pair.chosen,
                chosen_reward=pair.rejected_reward, rejected_reward=pair.chosen_reward))]


def system_in_use(config: LanguageSettings) -> str | None:
    """The text of the system's turn with which a run's model is measured and used: the highest goal, or
    `model.system`."""
    goals = getattr(getattr(config, "data", None), "goals", None)
    return goal_text(goals, goals.scale[1]) if goals else config.model.system
