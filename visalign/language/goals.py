"""Goals of answers (data/goals.py) in the system's turn."""

from collections.abc import Sequence
from dataclasses import replace

from visalign.config import LanguageSettings
from visalign.config.language import TextGoalSettings
from visalign.data.goals import check_has_rewards, goal_rows
from visalign.data.text_pairs import TextPair
from visalign.errors import UserError

_OTHER = {"chosen": "rejected", "rejected": "chosen"}


def with_goals(pairs: Sequence[TextPair], goals: TextGoalSettings) -> list[TextPair]:
    """2 n pairs of n whose answers score differently, each with a system's turn that asks for its chosen one's score.

    Raises UserError as `goal_rows`, and for pairs that have a system's turn already.
    """
    for pair in pairs:
        check_has_rewards(pair)
        if pair.messages[0]["role"] == "system":
            raise UserError(f"data.goals: {pair.where} has a turn of the system already, where the goal would stand")
    rows = goal_rows(pairs, goals, "answers")
    return [replace(_numbers_turned(pair) if turned else pair,
                    messages=({"role": "system", "content": asking}, *pair.messages))
            for pair, asking, turned in rows]


def _numbers_turned(pair: TextPair) -> TextPair:
    """The pair with what its columns say of either answer in each other's place, as its answers already are."""
    def other(name: str) -> str:
        side, dot, rest = name.partition(".")
        return f"{_OTHER[side]}.{rest}" if dot and side in _OTHER else name

    return replace(pair, numbers={other(name): value for name, value in pair.numbers.items()},
                   unfinished=frozenset(_OTHER[side] for side in pair.unfinished))


def system_in_use(config: LanguageSettings) -> str | None:
    """The text of the system's turn with which a run's model is measured and used: the highest goal, or
    `model.system`."""
    goals = getattr(getattr(config, "data", None), "goals", None)
    return goals.highest if goals else config.model.system
