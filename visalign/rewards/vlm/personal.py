"""A judge for one person: a vision-language model sees what they preferred before, says what they look for, and marks.

    a chain   pairs of the user -> who they are as a viewer, for this prompt -> weighted criteria -> a mark in each
    score     mean over chains of sum_c weight_c mark_c / sum_c weight_c,   spread: the standard deviation over chains

Chains differ by the model's temperature, by which of a pair stands first, and by the order of the pairs.

P-GenRM: ICLR 2026, by a note of the paper.
Differs from the paper in: the model is not trained for it; what other users of a like mind would say is not asked; the
user's pairs are images. Settings: configs/rewards/personal.yaml.
"""

import statistics
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from visalign.errors import UserError
from visalign.media.samples import Sample
from visalign.rewards.base import Scores
from visalign.rewards.pairwise import Failure
from visalign.rewards.vlm.asking import AskingJudge
from visalign.rewards.vlm.forms import form_shown, object_in
from visalign.rewards.vlm.generic import images_named
from visalign.rewards.vlm.history import Preferred, read_history
from visalign.rewards.vlm.questions import Question, Reply
from visalign.storage.hashed_users import hashed_user
from visalign.validation.ranges import AtLeastTwo, Few, Temperature

MOST_CRITERIA, HIGHEST = 12, 10.0
LAST = ('Answer with JSON and nothing else after your thoughts: {"persona": "who this person is as a viewer", '
        '"criteria": [{"criterion": "...", "weight": N, "mark": N}, ...]}, two to five criteria, weights above 0, '
        f"marks from 0 (not at all) to {HIGHEST:g} (fully).")


@dataclass
class PersonalJudge(AskingJudge):
    """Mark from 0 to 10 for one person by any vision-language model that sees what they preferred before; its spread is
    that over several answers.

    history: a folder that `visalign reward fit-user` makes. user: whose taste; without one that of the sample's own
    annotator. dimension: the column that pairs are labelled in. examples: pairs shown, at most; those about the
    prompt that is judged are left out. chains: answers.
    """

    history: str = ""
    user: str | None = None
    dimension: str = "Overall"
    examples: Few = 4
    chains: AtLeastTwo = 4
    temperature: Temperature = 0.7
    logprobs: bool = False
    frames: Few = 4

    named_by = "history"
    score_range = (0.0, HIGHEST)

    def __post_init__(self):
        super().__post_init__()
        if not self.temperature:
            raise ValueError("temperature is 0, at which all chains would say the same; 0.7 is usual")
        if self.logprobs:
            raise ValueError("logprobs: a mark is worked out from several numbers of an answer; leave it out")
        if not self.dimension.strip():
            raise ValueError("dimension is empty; name what pairs are labelled in, such as alignment")
        self.dimensions = (self.dimension,)

    def check(self) -> None:
        if not self.history:
            raise UserError(f"reward {self.name}: history is missing; `visalign reward fit-user` makes such a folder "
                            "from a user's pairs")
        known = self.pairs
        if self.user is not None and hashed_user(self.user) not in known:
            raise UserError(f"reward {self.name}: user {self.user} is not among the {len(known)} of {self.history}; "
                            "`visalign reward fit-user` makes a folder with their pairs")
        super().check()

    @cached_property
    def pairs(self) -> dict[str, list[Preferred]]:
        """What each user preferred, by hashed name."""
        return read_history(Path(self.history).expanduser(), f"reward {self.name}: history")

    def shown(self, sample: Sample) -> list[Preferred] | Failure:
        """The pairs that are shown before a sample."""
        name = self.user if self.user is not None else sample.known.get("user")
        if name is None:
            return Failure("nobody's taste was named; give the reward a user, or the sample's annotation one")
        if hashed_user(name) not in self.pairs:
            return Failure(f"{self.history} holds no pairs of {hashed_user(name)}")
        others = [pair for pair in self.pairs[hashed_user(name)] if pair.prompt != sample.source_prompt]
        return others[-self.examples:] or Failure("the user's only pairs are about this prompt itself")

    def question(self, sample: Sample, pairs: list[Preferred], chain: int) -> Question:
        """One chain's."""
        lines, images = ["One person was shown pairs of images, or of videos as frames, and chose:"], []
        turn = chain // 2 % len(pairs)
        for number, pair in enumerate(pairs[turn:] + pairs[:turn], 1):
            first = (number + chain) % 2
            order = (pair.chosen, pair.rejected) if first else (pair.rejected, pair.chosen)
            images += [*order[0], *order[1]]
            lines.append(f"Pair {number}, {len(order[0])} and {len(order[1])} images, for the prompt «{pair.prompt}»: "
                         f"this person chose the {'first' if first else 'second'} of the two.")
        own = self.images(sample)
        lines += [f"After these comes {images_named(len(own))} that was made for this prompt:\n{sample.prompt}",
                  "Who is this person as a viewer, for this prompt? What do they look for, and how much does each "
                  "count for them? Mark what was made as this person would, not as you would.", LAST]
        return Question("\n".join(lines), (*images, *own), draw=chain)

    def read(self, answer: Reply) -> float:
        return weighted_mark(answer.text)

    def score_batch(self, samples: list[Sample]) -> Scores:
        shown = [self.shown(sample) for sample in samples]
        questions = [self.question(sample, pairs, chain) for sample, pairs in zip(samples, shown, strict=True)
                     if not isinstance(pairs, Failure) for chain in range(self.chains)]
        answers = iter(self.read_noted(questions, self.read))
        values, spreads, remarks = [], [], {}
        for i, pairs in enumerate(shown):
            read = [(pairs, None)] if isinstance(pairs, Failure) else [next(answers) for _ in range(self.chains)]
            value, spread, remark = over_chains([outcome for outcome, _ in read])
            values.append(value)
            spreads.append(spread)
            if remark := remark or next((note for _, note in read if note), None):
                remarks[i] = remark
        return Scores(torch.tensor(values)[:, None], remarks, torch.tensor(spreads)[:, None])


def over_chains(outcomes: list[float | Failure]) -> tuple[float, float, str | None]:
    """(mean, standard deviation, remark) of the chains that ended in a mark; NaN of none, and of the deviation of one.
    The remark counts those that did not."""
    marks = [outcome for outcome in outcomes if not isinstance(outcome, Failure)]
    failed = [outcome.reason for outcome in outcomes if isinstance(outcome, Failure)]
    nan = float("nan")
    counted = f"{len(failed)} of {len(outcomes)} answers not usable: " if len(outcomes) > 1 else ""
    remark = f"{counted}{failed[0]}" if failed else None
    return (statistics.mean(marks) if marks else nan, statistics.stdev(marks) if len(marks) > 1 else nan, remark)


def weighted_mark(text: str) -> float:
    """sum_c weight_c mark_c / sum_c weight_c of a chain's JSON. Raises ValueError, with its words, for any other."""
    criteria = object_in(text).get("criteria")
    if not isinstance(criteria, list) or not 1 <= len(criteria) <= MOST_CRITERIA:
        raise ValueError(f"the answer's JSON has no list of 1 to {MOST_CRITERIA} criteria: {form_shown(text)}")
    total = weights = 0.0
    for each in criteria:
        weight, mark = (_number(each, name) for name in ("weight", "mark"))
        if not 0 < weight < float("inf") or not 0 <= mark <= HIGHEST:
            raise ValueError(f"a criterion has the weight {weight:g} and the mark {mark:g}; weights are above 0, marks "
                             f"from 0 to {HIGHEST:g}")
        total, weights = total + weight * mark, weights + weight
    return total / weights


def _number(criterion: Any, name: str) -> float:
    value = criterion.get(name) if isinstance(criterion, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"a criterion of the answer has no number as its {name}")
    return float(value)
