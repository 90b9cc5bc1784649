"""Text in images, as OneIG-Bench (Chang et al. 2025) measures it: is what the prompt quotes written there?

ED is the mean edit distance between what is read and what is quoted, CR the share of images where it is 0, WAC the
share of quoted words that are read; the score is 1 - min(most, ED) (1 - CR) (1 - WAC) / most, with 100 for most.

Differs from the published script in: the text is read by `ocr` (theirs is read by Qwen2.5-VL), and letters' case and
spacing do not count.
"""

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from visalign.data.suites import SuitePrompt
from visalign.errors import UserError
from visalign.evaluation.suites.base import SuiteFigure, SuiteScorer
from visalign.evaluators.statistics import over_prompts
from visalign.media.samples import Sample
from visalign.rewards.ocr import OcrText, quoted_text
from visalign.validation.ranges import Few


class TextRead(NamedTuple):
    """Of one image: edit distance, and how many words of how many were read."""

    distance: int
    words: int
    of: int


@dataclass
class ShownText(SuiteScorer):
    """most: the edit distance at which nothing is left of the score; OneIG takes 100 for English, 50 for Chinese."""

    most: Few = 100

    def check(self, items: list[SuitePrompt]) -> None:
        self.ocr.check()
        for item in items:
            if quoted_text(item.prompt) is None:
                raise UserError(f"bench text: the prompt '{item.prompt[:60]}' quotes no text that could be read")

    @cached_property
    def ocr(self) -> OcrText:
        return OcrText(device=self.device, name="ocr")

    def score(self, item: SuitePrompt, sample: Sample) -> TextRead:
        return text_read(self.ocr.read(sample), quoted_text(item.prompt) or "")

    def figures(self, items: list[SuitePrompt], scored: list[list[TextRead]]) -> list[SuiteFigure]:
        sums = np.array([[len(images), sum(each.distance for each in images),
                          sum(each.distance == 0 for each in images), sum(each.words for each in images),
                          sum(each.of for each in images)] for images in scored], float)

        def parts(rows: np.ndarray) -> tuple[float, float, float]:
            count, distance, whole, words, of = sums[rows].sum(0)
            return distance / count, whole / count, words / of

        def total(rows: np.ndarray) -> float:
            distance, whole, words = parts(rows)
            return 1 - min(self.most, distance) * (1 - whole) * (1 - words) / self.most

        count = int(sums[:, 0].sum())
        names = ("edit distance (ED)", "complete (CR)", "words (WAC)")
        return [*(SuiteFigure(name, over_prompts(lambda rows, k=k: parts(rows)[k], len(sums)), count)
                  for k, name in enumerate(names)),
                SuiteFigure("text score", over_prompts(total, len(sums)), count, True)]


def text_read(found: str, quoted: str) -> TextRead:
    """Of what was found in an image and what its prompt quotes."""
    from rapidfuzz.distance import Levenshtein

    words, wanted = found.lower().split(), quoted.lower().split()
    return TextRead(Levenshtein.distance(" ".join(words), " ".join(wanted)),
                    (Counter(words) & Counter(wanted)).total(), len(wanted))
