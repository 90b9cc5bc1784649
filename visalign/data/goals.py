"""Reward-augmented data: each pair twice, asked for the score of either side. Zhang et al. 2024 (arXiv 2410.08067).

A pair whose sides score r_w and r_l becomes two: asked for r_w the order stays, asked for r_l it turns, since the
rejected side is then what was asked for. The model is used, and measured, with the highest goal.
"""

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, NamedTuple

from visalign.config.goals import GoalSettings
from visalign.errors import UserError, notice


class GoalRow(NamedTuple):
    """A pair as it is learnt, what asks for the score of its chosen side, and whether its sides changed places."""

    pair: Any
    asking: str
    turned: bool


def check_has_rewards(pair: Any, advice: str = "") -> None:
    """Raise UserError, with an advice at its end, for a pair without rewards, or of one side alone."""
    if any(getattr(pair, name, "") is None for name in ("rejected", "rejected_key")):
        raise UserError(f"data.goals: {pair.where} has no rejected side, which would be asked for by its own score")
    if pair.chosen_reward is None or pair.rejected_reward is None:
        raise UserError(f"data.goals: {pair.where} has no chosen_reward and rejected_reward, which become goals"
                        f"{advice}")


def goal_rows(pairs: Sequence[Any], settings: GoalSettings, sides: str, advice: str = "") -> list[GoalRow]:
    """2 n rows of n pairs whose sides score differently, the others left out and counted; the lowest and highest
    rewards of the set become the ends of the scale. pairs: dataclasses with chosen_reward, rejected_reward and where,
    and all else that they know of a side as chosen... or rejected... sides: what is compared, in a word.

    Raises UserError for pairs without rewards, with the advice, or that all score the same.
    """
    for pair in pairs:
        check_has_rewards(pair, advice)
    kept = [pair for pair in pairs if pair.chosen_reward != pair.rejected_reward]
    if not kept:
        raise UserError(f"data.goals: both {sides} score the same in all {len(pairs)} pairs")
    if len(kept) < len(pairs):
        notice(f"data.goals: {len(pairs) - len(kept)} of {len(pairs)} pairs, whose {sides} score the same, are left "
               "out")
    rewards = [reward for pair in kept for reward in (pair.chosen_reward, pair.rejected_reward)]
    least, most = min(rewards), max(rewards)

    def asking(reward: float) -> str:
        return settings.asking(settings.goal_of(reward, least, most))

    return [row for pair in kept for row in (GoalRow(pair, asking(pair.chosen_reward), False),
                                             GoalRow(turned(pair), asking(pair.rejected_reward), True))]


def turned(pair: Any) -> Any:
    """The pair, a dataclass, with chosen and rejected in each other's place, and all that is known of either."""
    chosen = [each.name for each in fields(pair) if each.name.startswith("chosen")]
    rejected = [name.replace("chosen", "rejected", 1) for name in chosen]
    return replace(pair, **{name: getattr(pair, other) for name, other in zip(
        [*chosen, *rejected], [*rejected, *chosen], strict=True)})
