"""A language model asked for points: self-rewarding (Yuan et al. 2024, arXiv 2401.10020) where it is the policy itself.

The last whole number of the reply counts, and the mean of several readings is the score; an answer none of whose
readings holds a number is NaN, and how many were readable is in the remark of each that lacked some.
"""

import re
from dataclasses import dataclass, field

import torch
from torch import Tensor

from visalign.media.samples import Sample
from visalign.rewards.base import Scores
from visalign.rewards.text.likelihood import TextModelReward
from visalign.validation.ranges import AnswerTokens, BatchSize, Few, Seed, Temperature

QUESTION = ("Here is a question and an answer to it.\n\nQuestion: {prompt}\n\nAnswer: {answer}\n\nGive the answer "
            "0 to 5 points: 0 if it is useless, 5 if it could not be better. End with the number of points.")
_NUMBER = re.compile(r"(?<![\d.,])\d+(?!\d|[.,]\d)")


def points_in(reply: str, most: int = 5) -> int | None:
    """The last whole number of a reply, None where there is none from 0 to `most`."""
    found = [int(number) for number in _NUMBER.findall(reply)]
    return found[-1] if found and found[-1] <= most else None


@dataclass
class Points(TextModelReward):
    """Points from 0 to 5 that a language model gives when it is asked, the mean over `readings` of them."""

    source: str = "smollm2"
    readings: Few = 3
    max_tokens: AnswerTokens = 48
    temperature: Temperature = 0.7
    seed: Seed = 0
    batch_size: BatchSize = field(default=16, kw_only=True)

    score_range = (0.0, 5.0)

    def sources(self) -> tuple[str, ...]:
        return (self.source,)

    def score_batch(self, samples: list[Sample]) -> Tensor | Scores:
        asked = [QUESTION.format(prompt=each.prompt, answer=each.answer) for each in samples]
        read = [[points_in(reply) for reply in self._replies(asked, k)] for k in range(self.readings)]
        values, remarks = [], {}
        for i, given in enumerate(zip(*read, strict=True)):
            known = [points for points in given if points is not None]
            values.append(sum(known) / len(known) if known else float("nan"))
            if len(known) < self.readings:
                remarks[i] = f"{len(known)} of {self.readings} readings hold a number from 0 to 5"
        return Scores(torch.tensor(values)[:, None], remarks)

    def _replies(self, questions: list[str], reading: int) -> list[str]:
        model = self.network.held[0]
        given = model.tokenizer.apply_chat_template(
            [[{"role": "user", "content": question}] for question in questions], add_generation_prompt=True,
            return_dict=True, return_tensors="pt", padding=True,
            tokenizer_kwargs={"padding_side": "left"}).to(self.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed + reading)
            drawn = model.model.generate(**given, max_new_tokens=self.max_tokens, do_sample=self.temperature > 0,
                                         temperature=self.temperature or None, top_p=None, top_k=None)
        return model.tokenizer.batch_decode(drawn[:, given["input_ids"].shape[1]:], skip_special_tokens=True)
