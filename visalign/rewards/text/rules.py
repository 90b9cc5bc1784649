"""Rewards of texts that are measurements: without a network, exact, fast; the preferences that proofs plant.

An empty answer is scored as any other: it has no words, contains nothing and repeats nothing.
"""

import json
from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from visalign.media.samples import Sample
from visalign.media.words import repeated_share, tokens_of, whole_words, words_in
from visalign.rewards.base import RewardModel, Scores
from visalign.rewards.text.stopwords import STOPWORDS, language_share
from visalign.validation.ranges import Few, Seconds

LONGEST_PATTERN = 200
"""Characters of a pattern that a user gives."""
WORTH_OF_A_BRACE = 0.2
"""What an answer that opens a brace and is no JSON is worth."""


class TextRule(RewardModel):
    """A number measured on each answer."""

    modalities = frozenset({"text"})

    @abstractmethod
    def measure(self, sample: Sample) -> float:
        ...

    def score_batch(self, samples: list[Sample]) -> Tensor | Scores:
        return torch.tensor([[self.measure(sample)] for sample in samples], dtype=torch.float32)


@dataclass
class Brevity(TextRule):
    """Minus a tenth of the number of words: shorter answers are better."""

    score_range = (float("-inf"), 0.0)

    def measure(self, sample: Sample) -> float:
        return -len(words_in(sample.answer)) / 10


@dataclass
class WordRule(TextRule):
    """Base of rules about words or phrases, found as whole words in any case. words: one, or a list of them."""

    words: str | list[str] = ""

    named_by = "words"

    def __post_init__(self):
        super().__post_init__()
        given = [self.words] if isinstance(self.words, str) else self.words
        if not given or not all(each.strip() for each in given):
            raise ValueError(f"words is {self.words!r}; name at least one word or phrase, as in {self.name}:the")
        self._patterns = [whole_words(each) for each in given]


@dataclass
class Avoids(WordRule):
    """Minus how often the words occur: avoids:the is 0 for an answer without it, else -1 for each."""

    score_range = (float("-inf"), 0.0)

    def measure(self, sample: Sample) -> float:
        return -float(sum(len(pattern.findall(sample.answer)) for pattern in self._patterns))


@dataclass
class Contains(WordRule):
    """Share of the words that the answer holds, in [0, 1]: contains:Paris is 1 or 0."""

    score_range = (0.0, 1.0)

    def measure(self, sample: Sample) -> float:
        return sum(bool(pattern.search(sample.answer)) for pattern in self._patterns) / len(self._patterns)


@dataclass
class JsonValid(TextRule):
    """1 where the text from the first { to the last } is a JSON object; 0.2 for an opening brace alone, else 0."""

    score_range = (0.0, 1.0)

    def measure(self, sample: Sample) -> float:
        text = sample.answer
        start, end = text.find("{"), text.rfind("}")
        if start < 0:
            return 0.0
        try:
            json.loads(text[start:end + 1], parse_constant=_no_number)
        except (ValueError, RecursionError):
            return WORTH_OF_A_BRACE
        return 1.0


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


@dataclass
class RegexRule(TextRule):
    """1 where a regular expression is found in the answer, else 0; whole: it must match all of it.

    pattern: of at most 200 characters. An answer of more than `longest` characters, or one in which the search takes
    more than `seconds`, is not scored.
    """

    pattern: str = ""
    whole: bool = False
    longest: Few = 10_000
    seconds: Seconds = 0.5

    named_by = "pattern"
    score_range = (0.0, 1.0)

    def __post_init__(self):
        import regex  # unlike `re` it can be told to give up

        super().__post_init__()
        if not 0 < len(self.pattern) <= LONGEST_PATTERN:
            raise ValueError(f"pattern has {len(self.pattern)} characters; 1 to {LONGEST_PATTERN} are allowed")
        try:
            self._pattern = regex.compile(self.pattern)
        except regex.error as error:
            raise ValueError(f"pattern {self.pattern!r} is no regular expression ({error})") from None

    def refusal(self, sample: Sample) -> str | None:
        refused = super().refusal(sample)
        if refused or len(sample.answer) <= self.longest:
            return refused
        return f"the answer has {len(sample.answer):,} characters, more than the {self.longest:,} that are searched"

    def measure(self, sample: Sample) -> float:
        search = self._pattern.fullmatch if self.whole else self._pattern.search
        return float(search(sample.answer, timeout=self.seconds) is not None)

    def score_batch(self, samples: list[Sample]) -> Scores:
        values, remarks = [], {}
        for i, sample in enumerate(samples):
            try:
                values.append(self.measure(sample))
            except TimeoutError:
                values.append(float("nan"))
                remarks[i] = f"the search took more than {self.seconds:g} s"
        return Scores(torch.tensor(values)[:, None], remarks)


@dataclass
class Repetition(TextRule):
    """Share of three-word sequences that occurred before in the answer, in [0, 1); lower is better."""

    higher_is_better = False
    score_range = (0.0, 1.0)

    def measure(self, sample: Sample) -> float:
        return repeated_share(tokens_of(sample.answer))


@dataclass
class StopwordLanguage(TextRule):
    """Share of the answer's function words that are words of a language (language:en), in [0, 1].

    Function words are those of the languages that `code` may name. An answer without one is not scored.
    """

    code: Literal["de", "en", "es", "fr", "it", "nl", "pt"] = "en"

    named_by = "code"
    score_range = (0.0, 1.0)

    def refusal(self, sample: Sample) -> str | None:
        unknown = "the answer has no function word of " + ", ".join(sorted(STOPWORDS))
        return super().refusal(sample) or (unknown if language_share(sample.answer, self.code) is None else None)

    def measure(self, sample: Sample) -> float:
        return language_share(sample.answer, self.code)
