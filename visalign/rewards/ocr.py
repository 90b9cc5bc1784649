"""Does the image show the text its prompt quotes? (the OCR reward of Flow-GRPO, Liu et al. 2025)."""

import importlib.util
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from visalign.errors import UserError
from visalign.media.samples import Sample
from visalign.rewards.base import RewardModel

QUOTED = re.compile(r'"([^"]+)"|“([^”]+)”|(?<!\w)\'([^\']+)\'(?!\w)')


def quoted_text(prompt: str) -> str | None:
    """The quoted text in the prompt, parts joined by a space; None where there is none."""
    parts = [next(filter(None, groups)) for groups in QUOTED.findall(prompt)]
    return " ".join(parts) or None


def text_score(found: str, target: str) -> float:
    """1 - min(Levenshtein(found, target), len(target)) / len(target), case and spaces ignored.

    A found text that contains the target scores 1.
    """
    from rapidfuzz.distance import Levenshtein

    found, target = ("".join(text.lower().split()) for text in (found, target))
    if target in found:
        return 1.0
    return 1 - min(Levenshtein.distance(found, target), len(target)) / len(target)


@dataclass
class OcrText(RewardModel):
    """How closely the text read in the image (RapidOCR) matches the text quoted in the prompt, in [0, 1]."""

    needs_prompt = True
    dimensions = ("text",)
    score_range = (0.0, 1.0)

    def check(self) -> None:
        for package in ("rapidocr", "rapidfuzz"):
            if importlib.util.find_spec(package) is None:
                raise UserError(f"reward {self.name} needs the package {package}: pip install 'visalign[ocr]'")

    def refusal(self, sample: Sample) -> str | None:
        return super().refusal(sample) or (
            None if quoted_text(sample.prompt) else "the prompt quotes no text that could be read")

    def held_bytes(self) -> int:
        return 0  # of the device: its networks are small and stay on the CPU

    def load(self) -> Any:
        import logging

        from rapidocr import RapidOCR

        logging.getLogger("RapidOCR").setLevel(logging.ERROR)
        return RapidOCR(params={"Global.log_level": "error"})

    def read(self, sample: Sample) -> str:
        """All text found, in reading order."""
        answer = self.network(np.asarray(sample.image.convert("RGB"))[:, :, ::-1])
        return " ".join(answer.txts or ())

    def read_in(self, sample: Sample) -> str:
        """What it reads, whether the prompt quotes a text or not."""
        found = self.read(sample) if sample.modality == "image" else ""
        return f'"{found}"' if found else "no text"

    def score_batch(self, samples: list[Sample]) -> Tensor:
        return torch.tensor([[text_score(self.read(sample), quoted_text(sample.prompt))] for sample in samples])
