"""Which step of an answer earned its reward: VSRM's step rewards as advantages of tokens.

    S_i = share of the tries, drawn after the prompt and steps 1..i of an answer, whose reward reaches the threshold
    d_i = S_i - S_{i-1},   G_i = sum_{j >= i} discount^(j - i) d_j
    A_t = A of the whole answer + weight (G_i - mean of G over all steps of the group)      for every token t of step i

With discount 1, G_i = S_last - S_{i-1}: what the answer came to over what was to be expected before step i. The mean is
one number a group, so it changes no order; it keeps tokens of an all-round good batch from all becoming likelier.
VSRM (arXiv 2508.10293) by its abstract alone. Recipe: configs/language/vsrm.yaml.

Decided here, where the abstract is silent: an answer that ended by itself is its own only try after its last step, so
that S_last is what it got; equal beginnings are tried once, S_0 therefore once a prompt; an answer of which some S is
unknown, since all its tries lack a score, has no credit and does not enter the mean.
"""

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from visalign.config.language_rollout import StepCreditSettings
from visalign.language.scored_answers import AnswerScorer
from visalign.language.trainer import StepNotes
from visalign.media.words import sentence_ends
from visalign.objectives.answer_steps import (
    centred_in_group,
    counted_success,
    rewards_to_go,
    spread_over_tokens,
    step_rewards,
)
from visalign.objectives.group_figures import group_mean

BYTES = 4
"""Of a character, at most."""

DrawMore = Callable[[list[list[int]], int], list[list[int]]]
"""At most so many tokens after each row of tokens, drawn from the policy."""


@dataclass(frozen=True)
class DrawnAnswers:
    """Answers of one process, those of a group one after the other. asked: the prompts in words; prompts: as tokens;
    begun: the beginnings that were drawn before (rollout.branch), [] where there are none; answers: what followed."""

    asked: list[str]
    prompts: list[list[int]]
    begun: list[list[int]]
    answers: list[list[int]]


class Prefix(NamedTuple):
    """An answer so far; ended: it is whole and ended by itself, so that there is nothing to try."""

    asked: str
    prompt: tuple[int, ...]
    said: tuple[int, ...]
    ended: bool


class CreditedAnswers(NamedTuple):
    """tokens: what is added to the advantages, float32 [n, T]. steps: text, success and change of every answer's steps,
    [] where they are unknown."""

    tokens: Tensor
    steps: list[list[dict]]


class StepCredit:
    """scorer: of the one reward that says what succeeds. notes: where the numbers for the log go."""

    def __init__(self, settings: StepCreditSettings, scorer: AnswerScorer, tokenizer, notes: StepNotes):
        self.settings, self.scorer, self.tokenizer, self.notes = settings, scorer, tokenizer, notes
        self.forced = tokenizer(settings.forced, add_special_tokens=False)["input_ids"] if settings.forced else []

    def of(self, drawn: DrawnAnswers, draw: DrawMore, width: int) -> CreditedAnswers:
        """The credit of a batch's tokens, padded to `width`. All processes must call this."""
        ends = [step_ends(self.tokenizer, answer, self.settings) for answer in drawn.answers]
        success = self.success(drawn, ends, draw)
        changes = step_rewards(success)
        groups = torch.arange(len(ends)) // self.scorer.group_size
        values = centred_in_group(rewards_to_go(changes, self.settings.discount), groups)
        credit = spread_over_tokens(self.settings.weight * values.nan_to_num(0.0), step_of_tokens(ends, width))
        self._note(success, changes)
        return CreditedAnswers(credit.float(), [
            [] if rates[0].isnan() else self._shown(answer, stops, rates.tolist())
            for answer, stops, rates in zip(drawn.answers, ends, success, strict=True)])

    def success(self, drawn: DrawnAnswers, ends: Sequence[Sequence[int]], draw: DrawMore) -> Tensor:
        """S before the first step and after each, float64 [n, K + 1]; NaN for steps that an answer lacks, and for all
        steps of one that is not known."""
        places: dict[Prefix, int] = {}
        rows = [[places.setdefault(prefix, len(places)) for prefix in self._prefixes(drawn, i, stops)]
                for i, stops in enumerate(ends)]
        rates = self.rates(list(places), draw)
        found = torch.full((len(rows), max(map(len, rows))), torch.nan, dtype=torch.float64)
        for i, row in enumerate(rows):
            if not rates[row].isnan().any():
                found[i, :len(row)] = rates[row]
        return found

    def _prefixes(self, drawn: DrawnAnswers, i: int, stops: Sequence[int]) -> list[Prefix]:
        answer, begun = drawn.answers[i], drawn.begun[i]
        ended = answer[-1] in self.scorer.end
        return [Prefix(drawn.asked[i], tuple(drawn.prompts[i]), (*begun, *answer[:stop]),
                       ended and stop == len(answer)) for stop in (0, *stops)]

    def rates(self, prefixes: Sequence[Prefix], draw: DrawMore) -> Tensor:
        """S of each beginning, float64 [n], NaN where no try has a score. Raises UserError where too many have none."""
        tried = [(place, prefix) for place, prefix in enumerate(prefixes)
                 for _ in range(1 if prefix.ended else self.settings.tries)]
        more = iter(draw([[*prefix.prompt, *prefix.said, *self.forced] for _, prefix in tried if not prefix.ended],
                         self.settings.max_tokens))
        finished = [[*prefix.said] if prefix.ended else [*prefix.said, *self.forced, *next(more)]
                    for _, prefix in tried]
        texts = self.tokenizer.batch_decode(finished, skip_special_tokens=True)
        rewards = self.scorer.totals([[{"role": "user", "content": prefix.asked}] for _, prefix in tried],
                                     [[{"role": "assistant", "content": text}] for text in texts], finished)
        self.scorer.scored()  # which checks how many of all processes lack a score
        drawn = self.scorer.processes.gather([sum(not prefix.ended for _, prefix in tried)])
        self.notes.figures["step_credit/tries"] = sum(drawn)
        owner = torch.tensor([place for place, _ in tried])
        counted = counted_success(torch.tensor(rewards, dtype=torch.float32), self.settings.threshold).double()
        found = torch.empty(len(prefixes), dtype=torch.float64)
        found[owner] = group_mean(counted, owner)
        return found

    def _note(self, success: Tensor, changes: Tensor) -> None:
        known, steps = ~success[:, 0].isnan(), ~changes.isnan()
        self.notes.keep({"step_credit/unknown": (~known).double()})
        if not known.any():
            return
        count, before = steps.sum(1)[known], success[known, 0]
        after = success[known].gather(1, count[:, None])[:, 0]
        self.notes.keep({
            "step_credit/steps": count, "step_credit/before": before, "step_credit/after": after,
            "step_credit/telescoping_error": (changes[known].nansum(1) - (after - before)).abs(),
            "step_credit/change": changes[steps].abs(), "step_credit/raised": (changes[steps] > 0).double()})

    def _shown(self, answer: list[int], stops: Sequence[int], rates: Sequence[float]) -> list[dict]:
        texts = [self.tokenizer.decode(answer[:stop], skip_special_tokens=True) for stop in (0, *stops)]
        return [{"text": texts[k + 1][len(texts[k]):], "success": round(rates[k + 1], 6),
                 "change": round(rates[k + 1] - rates[k], 6)} for k in range(len(stops))]


def cuts_of(text: str, settings: StepCreditSettings) -> list[int]:
    """Characters before which a new step begins, at most max_steps - 1; no step is white space alone."""
    if settings.ends == "sentence":
        places = sentence_ends(text)
    else:
        places = [match.start() for match in before_words(settings.connectives).finditer(text)]
    begins, ends = len(text) - len(text.lstrip()), len(text.rstrip())
    places = sorted({place for place in places if begins < place < ends})
    steps, most = len(places) + 1, settings.max_steps
    return places if steps <= most else [places[i * steps // most - 1] for i in range(1, most)]


def before_words(words: Sequence[str]) -> re.Pattern:
    """One or several of these words in a row, as whole words in any case, with the white space before them."""
    any_of = "|".join(re.escape(word.strip()) for word in sorted(words, key=len, reverse=True))
    one = rf"(?<!\w)(?:{any_of})(?!\w)"
    return re.compile(rf"\s*{one}(?:[\s,]+{one})*", re.IGNORECASE)


def step_ends(tokenizer, tokens: Sequence[int], settings: StepCreditSettings) -> list[int]:
    """After how many tokens each step of an answer ends, [K], the last one after all of them.

    A token is of the step in which its first character stands. Half of a multi-byte character settles no text, so a
    character's tokens stay together; the token that ends the turn is of the last step.
    """
    text = tokenizer.decode(tokens, skip_special_tokens=True)
    ends = [tokens_up_to(tokenizer, tokens, text[:cut]) for cut in cuts_of(text, settings)]
    return list(dict.fromkeys([*ends, len(tokens)]))


def tokens_up_to(tokenizer, tokens: Sequence[int], beginning: str) -> int:
    """The fewest tokens whose text has this beginning, which all of them have."""
    def settled(count: int) -> bool:
        return tokenizer.decode(tokens[:count], skip_special_tokens=True).startswith(beginning)

    end = bisect_left(range(len(tokens)), True, key=settled)
    # where tokens are single bytes, half of a character after the beginning may spoil all of its bytes again
    while earlier := [count for count in range(max(0, end - BYTES), end) if settled(count)]:
        end = earlier[0]
    return end


def step_of_tokens(ends: Sequence[Sequence[int]], width: int) -> Tensor:
    """The step of each token, int64 [n, width], -1 after an answer's end."""
    found = torch.full((len(ends), width), -1, dtype=torch.int64)
    for row, stops in zip(found, ends, strict=True):
        for number, (start, stop) in enumerate(zip((0, *stops), stops, strict=False)):
            row[start:stop] = number
    return found
