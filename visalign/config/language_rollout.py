"""Settings of the answers that an online run of a language model learns from."""

from typing import Literal

from pydantic import model_validator

from visalign.config.common import Settings, Text
from visalign.config.language_answers import AnswerSettings
from visalign.validation.ranges import AnswerTokens, AtLeastTwo, Few, Fraction, Limit, Portion, Positive, RewardValue


class BranchSettings(Settings):
    """All answers of a group continue one beginning, so that they differ only in what follows (SLATE).

    prefix: tokens of the beginning, or `sentence`: its first one. rollout.max_tokens counts what follows.
    """

    prefix: AnswerTokens | Literal["sentence"] = "sentence"


CONNECTIVES = ("so", "therefore", "thus", "hence", "then", "but", "however", "wait", "alternatively", "because")
"""Words at which a step of an answer begins, as a model that reasons in English writes them."""


class StepCreditSettings(Settings):
    """Credit for the steps of an answer (VSRM, arXiv 2508.10293): what each changed in how often answers succeed.

    of: the reward that says whether an answer succeeds, one of reward.models by its name (its weight there may be 0).
    threshold: what the reward must reach; null: its mean is taken in place of a share of successes.
    tries: how often the policy finishes the answer after each step, and before the first one, which all answers to a
    prompt share. forced: text put after a step before the policy goes on, such as " The answer is" (with its space).
    max_tokens: of what the policy adds. ends: steps end before `connectives`, words in any case, or with a `sentence`
    or line. max_steps: of an answer; more are joined with their neighbours, evenly.
    discount: of what later steps change, when a step is credited with it: 1 counts all of it, 0 none. weight: of the
    credit beside the advantage of the whole answer.
    """

    of: Text
    threshold: RewardValue | None = None
    tries: Few = 4
    forced: Text | None = None
    max_tokens: AnswerTokens = 32
    ends: Literal["connective", "sentence"] = "connective"
    connectives: tuple[Text, ...] = CONNECTIVES
    max_steps: AtLeastTwo = 8
    discount: Portion = 1.0
    weight: Positive = 1.0

    @model_validator(mode="after")
    def _read(self):
        if self.ends == "sentence" and self.connectives != CONNECTIVES:
            raise ValueError("rollout.step_credit.connectives: says nothing with rollout.step_credit.ends sentence; "
                             "leave it out")
        if not self.connectives:
            raise ValueError("rollout.step_credit.connectives: name at least one word, or set "
                             "rollout.step_credit.ends sentence")
        return self

    def most_tries(self, prompts: int, answers: int) -> int:
        """Continuations that are drawn at most for so many prompts and their answers."""
        return self.tries * (prompts + answers * self.max_steps)


class LanguageRolloutSettings(AnswerSettings):
    """The model's own answers: prompts_per_step x group_size of them for each update.

    prompts: a text file, a table or `topics:train`. holdout: share of them that is measured on where eval.prompts names
    no others. patience: how many batches in a row may have nothing to learn, since all answers to a prompt are worth
    the same, before the run stops. branch: draw the beginning of an answer first, which all answers of its group share.
    step_credit: credit each step of an answer with what it changed. vllm: draw them with vLLM, on a GPU.
    """

    prompts: Text
    max_prompts: Limit | None = None
    holdout: Fraction = 0.1
    prompts_per_step: Few = 8
    group_size: AtLeastTwo = 8
    patience: Few = 10
    branch: BranchSettings | None = None
    step_credit: StepCreditSettings | None = None
    vllm: bool = False

    @property
    def answers_per_step(self) -> int:
        """Answers that are drawn together, of all processes."""
        return self.prompts_per_step * self.group_size

    @model_validator(mode="after")
    def _differ(self):
        if self.temperature == 0:
            raise ValueError("rollout.temperature 0: all answers to a prompt would be the same, with nothing to learn "
                             "from; 1 draws from the model as it is")
        if self.branch and self.vllm:
            raise ValueError("rollout.branch: goes with answers that transformers draws, not rollout.vllm")
        if self.step_credit and self.vllm:
            raise ValueError("rollout.step_credit: goes with answers that transformers draws, not rollout.vllm")
        return self
