"""Judges of texts that are asked in words: any language model, behind an endpoint or on this machine.

An answer stands between marks of its own, so that what it says of marks and winners is read as part of it.
"""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace

from visalign.media.samples import Sample
from visalign.rewards.sizes import of_transformers
from visalign.rewards.vlm.asking import AskingJudge
from visalign.rewards.vlm.generic import SCORE, WINNER, VlmComparison, VlmJudge
from visalign.rewards.vlm.local import LocalAsker
from visalign.rewards.vlm.questions import Asker, Question
from visalign.storage.language_models import load_language_model, locate_language_model
from visalign.validation.ranges import Limit

TEXT_PRINCIPLES = {
    "helpfulness": "Does it do what the prompt asks for, wholly and to the point?",
    "correctness": "Is everything that it says true, and does nothing in it contradict the rest?",
}


class LocalTextAsker(LocalAsker):
    """As LocalAsker, of a language model without eyes."""

    def __init__(self, source: str, device: str, max_tokens: int, where: str):
        loaded = load_language_model(source, where=where)
        self.processor = SimpleNamespace(tokenizer=loaded.tokenizer)
        self.model, self.device, self.max_tokens = loaded.model.to(device), device, max_tokens
        ends = self.model.generation_config.eos_token_id
        self.ends = {loaded.tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])}

    def inputs_of(self, question: Question):
        turns = [{"role": "user", "content": question.asked(False)}]
        return self.processor.tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt",
                                                            return_dict=True)


@dataclass
class TextAskingJudge(AskingJudge):
    """Base of judges of texts. source: also `smollm2` or FILE.gguf. longest: characters of an answer that are shown to
    the model; longer ones are not scored."""

    longest: Limit = 20_000

    modalities = frozenset({"text"})

    def check(self) -> None:
        if self.url:
            super().check()
            return
        self.answers  # noqa: B018  opening the file is the check
        locate_language_model(self.source, f"reward {self.name}: source")

    def held_bytes(self) -> int | None:
        if self.url:
            return 0
        return of_transformers("AutoModelForCausalLM", self.source, None) if Path(self.source).is_dir() else None

    @cached_property
    def asker(self) -> Asker:
        if self.url:
            return AskingJudge.asker.func(self)
        return LocalTextAsker(self.source, self.device, self.max_tokens, f"reward {self.name}: source")

    def refusal(self, sample: Sample) -> str | None:
        refused = super().refusal(sample)
        if refused or len(sample.answer) <= self.longest:
            return refused
        return f"the answer has {len(sample.answer):,} characters, more than the {self.longest:,} of `longest`"

    @staticmethod
    def between_marks(sample: Sample, number: str = "") -> str:
        """The answer as the question shows it; the closing mark is not taken from inside it."""
        mark = f"answer{number}"
        return f"<{mark}>\n{sample.answer.replace(f'</{mark}', f'< /{mark}')}\n</{mark}>"


@dataclass
class LlmJudge(TextAskingJudge, VlmJudge):
    """Score of an answer from 1 to 5 per principle by any language model, the mean under its own digit probabilities.

    principles: question by dimension. rubric: what the digits mean.
    """

    principles: dict[str, str] = field(default_factory=lambda: dict(TEXT_PRINCIPLES))

    def question(self, sample: Sample, principle: str) -> Question:
        return Question(f"You judge an answer that was given to this prompt:\n{sample.prompt}\n\nThe answer:\n"
                        f"{self.between_marks(sample)}\n\n{principle}\nGive it a mark ({self.rubric}).", (), SCORE)


@dataclass
class LlmComparison(TextAskingJudge, VlmComparison):
    """Which of two answers is better, by any language model, asked in both orders: win rate within the prompt."""

    principle: str = " ".join(TEXT_PRINCIPLES.values())

    def question(self, first: Sample, second: Sample) -> Question:
        return Question(f"Two answers were given to this prompt:\n{first.prompt}\n\n"
                        f"{self.between_marks(first, '1')}\n{self.between_marks(second, '2')}\n\n{self.principle}\n"
                        "Which is better: 1, 2, or 0 if they are equally good?", (), WINNER)
