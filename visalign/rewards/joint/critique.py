"""A reward that writes what is right and wrong before it scores: the critique model of MM-RLHF.

    sequence   prompt, frames -> open, the critique, end -> one special token a dimension, whose states are the features
    learnt     the pairs, and beside them  weight * mean over critiques of -log P(critique)      (teacher forcing)
    used       the model writes its own critique, its likeliest words, and reads that

What annotators wrote is in the columns reason_a and reason_b; a side without one is read without a critique and skips
the second term.

MM-RLHF: Zhang et al. 2025, arXiv 2502.10391 (github.com/Kwai-YuanQi/MM-RLHF).
Differs from it in: reasons are taken as annotators wrote them, and not made longer by a language model first; the end
is the tokenizer's own token, which a pretrained model knows how to write, and the opening a token of its own.
Recipe: configs/reward_model/critique.yaml.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visalign.media.samples import Sample

OPEN = "<|critique|>"
REASON = "reason"
"""What a sample knows its critique by."""


def critique_places(ids: Tensor, opening: int, end: int) -> Tensor:
    """Which tokens [B, n] a critique's words and its end are: after the opening, up to the first end after it. None of
    a critique without words."""
    opened = (ids == opening).cumsum(1) > 0
    ended = ((ids == end) & opened).cumsum(1)
    inside = opened & (ids != opening) & ((ended == 0) | ((ended == 1) & (ids == end)))
    return inside & (inside.sum(1, keepdim=True) > 1)


def critique_loss(hidden: Tensor, ids: Tensor, places: Tensor, words: nn.Module) -> Tensor:
    """Mean over a critique's tokens of -log P, [B], NaN of none; hidden [B, n, d], words: what gives logits of it."""
    before, target = places[:, 1:], ids[:, 1:]
    logits = words(hidden[:, :-1][before]).float()
    cost = torch.zeros(target.shape, device=hidden.device)
    cost[before] = F.cross_entropy(logits, target[before], reduction="none")
    count = before.sum(1)
    return torch.where(count > 0, cost.sum(1) / count.clamp(min=1), torch.nan)


class Critic:
    """Writes critiques with a model that learns to. Not a module: the model's weights are its backbone's.

    whole: the model with its last layer, processor: its own, forbidden: tokens that no critique holds, most: tokens of
    one at most.
    """

    def __init__(self, whole: Any, processor: Any, opening: int, forbidden: list[int], most: int):
        self.whole, self.processor, self.opening, self.most = whole, processor, opening, most
        self.end: int = processor.tokenizer.eos_token_id
        self.forbidden = [opening, *forbidden]

    @torch.no_grad()
    def written(self, texts: list[str], images: list[Any]) -> list[str]:
        """The critiques that follow these texts, of which each ends with the opening, and images in order."""
        inputs = self.processor(text=texts, images=images, padding=True, padding_side="left", return_tensors="pt")
        device = next(self.whole.parameters()).device
        made = self.whole.generate(**{name: each.to(device) for name, each in inputs.items()}, do_sample=False,
                                   max_new_tokens=self.most, suppress_tokens=self.forbidden, eos_token_id=self.end,
                                   pad_token_id=self.end)
        return [without_tokens(text) for text in self.processor.tokenizer.batch_decode(
            made[:, inputs["input_ids"].shape[1]:], skip_special_tokens=True)]


def without_tokens(text: str) -> str:
    """Words that cannot be taken for tokens of a chat."""
    return text.replace("<|", "< |").strip()


def reason_of(sample: Sample) -> str:
    """What its annotator wrote of a sample, "" for nothing."""
    return without_tokens(str(sample.known.get(REASON) or ""))
