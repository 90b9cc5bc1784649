"""Settings of rounds of a language model, and of what is searched for pairs: trees of steps, prompts that it
fails."""

from typing import Annotated, Any, Literal

from annotated_types import Interval
from pydantic import model_validator

from visalign.config.common import RewardSpec, Settings
from visalign.config.optim import OptimSettings
from visalign.validation.ranges import AnswerTokens, AtLeastTwo, Few, Positive, RewardValue, Share, Steps, Weight

Levels = Annotated[int, Interval(ge=1, le=100)]


class TreeSettings(Settings):
    """Pairs of steps in place of pairs of answers: a search tree for each prompt (MCTS-DPO, arXiv 2405.00451).

    simulations: how often each tree is descended. width: steps that are drawn where a descent ends, each with the
    rest of an answer behind it. depth: steps at which the tree ends; the rest of an answer is drawn, not searched.
    step: what a step is: a `sentence` (or line), or so many tokens and the rest of the word. exploration: c of
    UCT, with values scaled to 0..1 within a tree; 0 follows the best step so far. min_visits: completions that the
    value of a step must rest on to be in a pair. self_reward: a reward of the answer so far, up to and with the
    step, which is added self_weight times to data.feedback.reward of the completed answer, as {kind: points,
    source: "{current}"}.
    """

    simulations: Few = 16
    width: AtLeastTwo = 4
    depth: Levels = 4
    step: AnswerTokens | Literal["sentence"] = "sentence"
    exploration: Weight = 1.0
    min_visits: Few = 1
    self_reward: RewardSpec | None = None
    self_weight: Positive = 1.0

    @model_validator(mode="after")
    def _said(self):
        if self.self_weight != 1.0 and self.self_reward is None:
            raise ValueError("data.feedback.tree.self_weight: weighs data.feedback.tree.self_reward, which is not "
                             "set")
        return self


class SuccessSettings(Settings):
    """How often the model succeeds at each prompt, and what is learnt of that (iRFT, arXiv 2501.09766).

    samples: answers to each prompt. least: data.feedback.reward of a success, or more. below: prompts of which a
    smaller share of the answers succeeds are deficient. learn: `deficient` makes pairs for those prompts alone;
    `solved` makes none, and keeps the best successful answer of each prompt for `sft`, in the order of the share,
    easy ones first.
    """

    samples: AtLeastTwo = 8
    least: RewardValue
    below: Share = 0.5
    learn: Literal["deficient", "solved"] = "deficient"


class WarmUpSettings(Settings):
    """Imitation of the model's own successes before the first round, easy prompts first; needs
    data.feedback.success.

    steps: of that run. optim: of that run (null: the recipe's).
    """

    steps: Steps = 50
    optim: OptimSettings | None = None


class RoundSettings(Settings):
    """For `visalign lm rounds`: answers, rewards, pairs and training again and again, each time from the model
    before.

    count: how many rounds at most. reference: what the policy is compared with, the `previous` round's model or
    the `base`. stop: whether to end when the reward no longer rises over the round before, clear of 0 by an interval
    that counts how many rounds there may be. warm_up: imitate the model's own successes first, before round 1. Rewards
    of the recipe may name {current}, {previous} and {base}: the models of this round, the one before it, and the first,
    as in {kind: density_ratio, strong: "{current}", weak: "{base}"}.
    """

    count: Few = 3
    reference: Literal["previous", "base"] = "previous"
    stop: bool = True
    warm_up: WarmUpSettings | None = None


def check_search(feedback: Any) -> None:
    """Raise ValueError for settings of data.feedback that say nothing, or nothing sensible, beside a search."""
    solved = feedback.success is not None and feedback.success.learn == "solved"
    if solved and feedback.tree:
        raise ValueError("data.feedback.tree: makes pairs, and data.feedback.success.learn solved makes none; leave "
                         "one of them out")
    if not (feedback.tree or solved):
        return
    by = "data.feedback.tree" if feedback.tree else "data.feedback.success.learn solved"
    if feedback.second_reward is not None:
        other = " (a second opinion of steps is data.feedback.tree.self_reward)" if feedback.tree else ""
        raise ValueError(f"data.feedback.second_reward: gives pairs of whole answers the chance that both rewards "
                         f"rank a prompt's answers alike, and {by} ranks none; leave one of them out{other}")
    for name in ("samples_per_prompt", "pairs_per_prompt", *["min_gap", "uncertainty"] * solved):
        if getattr(feedback, name) != type(feedback).model_fields[name].default:
            raise ValueError(f"data.feedback.{name}: is of pairs of whole answers, and {by} makes none; leave it "
                             "out")
    if feedback.tree and feedback.temperature == 0:
        raise ValueError("data.feedback.temperature 0: every draw would be the same step, and a tree needs "
                         "different ones; 1 draws from the model as it is")
