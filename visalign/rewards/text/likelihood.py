"""Rewards by the log-probabilities of language models: of an answer, of what a user would say next.

    density_ratio   r = lp_strong(y | x) - lp_weak(y | x), contrast density ratio, Xu et al. 2024 (arXiv 2411.02481);
                    of images and videos see evaluation/density_ratio.py
    follow_up       r = mean log p(f | x, y) over kind follow-ups less the mean over complaints, per token

lp is the sum over the answer's tokens, the one that ends the turn included, or their mean with `per: token`: a sum
favours long answers wherever the ratio is positive.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from visalign.media.conversations import Message, answer_tokens, prompt_tokens, turn_end, up_to_end
from visalign.media.samples import Sample
from visalign.rewards.base import RewardModel
from visalign.storage.language_models import LanguageModel, load_language_model, locate_language_model
from visalign.validation.ranges import BatchSize

SATISFIED = ("That is exactly what I asked for.", "Thank you, this helps.")
DISSATISFIED = ("That is not what I asked for.", "This is wrong, please try again.")


def talk_log_probs(model: LanguageModel, talks: Sequence[Sequence[Message]],
                   answers: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Sums of the log-probabilities of answers to conversations, float32 [N], and their numbers of tokens, [N]."""
    rows = []
    for talk, answer in zip(talks, answers, strict=True):
        prompt = prompt_tokens(model.tokenizer, talk)
        tokens, shared = answer_tokens(model.tokenizer, talk, prompt, answer)
        rows.append((prompt[:shared], up_to_end(tokens, turn_end(model.tokenizer))))
    return rows_log_probs(model, rows)


def answer_log_probs(model: LanguageModel, prompts: Sequence[str], answers: Sequence[str],
                     batch_size: int = 16) -> tuple[Tensor, Tensor]:
    """The same of answers to prompts of one turn, in batches."""
    parts = [talk_log_probs(model, [({"role": "user", "content": prompt},) for prompt in prompts[i:i + batch_size]],
                            answers[i:i + batch_size]) for i in range(0, len(prompts), batch_size)]
    sums, tokens = zip(*parts, strict=True)
    return torch.cat(sums), torch.cat(tokens)


class _Models(torch.nn.Module):
    """Language models as one module, and by place with their tokenizers."""

    def __init__(self, models: Sequence[LanguageModel]):
        super().__init__()
        self.held = list(models)
        self.networks = torch.nn.ModuleList(each.model.requires_grad_(False) for each in models)


class TextModelReward(RewardModel):
    """Scores answers by the likelihoods of language models, which `sources` names."""

    modalities = frozenset({"text"})
    needs_prompt = True

    @abstractmethod
    def sources(self) -> tuple[str, ...]:
        """The models whose likelihoods are read, each as a language model's source."""

    def check(self) -> None:
        for source in self.sources():
            locate_language_model(source, f"reward {self.name}")

    def load(self) -> _Models:
        return _Models([load_language_model(source, where=f"reward {self.name}") for source in self.sources()])


@dataclass
class DensityRatio(TextModelReward):
    """How much likelier an answer is to an aligned language model than to the one before, as a run and its base."""

    strong: str
    weak: str
    per: Literal["sequence", "token"] = "token"
    named_by = "strong"
    batch_size: BatchSize = field(default=16, kw_only=True)

    def sources(self) -> tuple[str, ...]:
        return self.strong, self.weak

    def score_batch(self, samples: list[Sample]) -> Tensor:
        prompts, answers = [each.prompt for each in samples], [str(each.answer) for each in samples]
        found = [answer_log_probs(model, prompts, answers, self.batch_size) for model in self.network.held]
        ratio = found[0][0] - found[1][0]
        return (ratio / found[0][1].clamp(min=1) if self.per == "token" else ratio)[:, None]


@dataclass
class FollowUp(TextModelReward):
    """How much likelier, per token, a language model finds that the user is content than that they complain."""

    source: str = "smollm2"
    positive: tuple[str, ...] = SATISFIED
    negative: tuple[str, ...] = DISSATISFIED
    batch_size: BatchSize = field(default=16, kw_only=True)

    def __post_init__(self):
        super().__post_init__()
        if not self.positive or not self.negative:
            raise ValueError("positive and negative must each hold at least one follow-up")

    def sources(self) -> tuple[str, ...]:
        return (self.source,)

    def score_batch(self, samples: list[Sample]) -> Tensor:
        means = [torch.stack([self._said(samples, text) for text in texts]).mean(0)
                 for texts in (self.positive, self.negative)]
        return (means[0] - means[1])[:, None]

    def _said(self, samples: list[Sample], text: str) -> Tensor:
        """Mean log-probability of the tokens of a next turn of the user, [N]."""
        model = self.network.held[0]
        talks = [({"role": "user", "content": each.prompt}, {"role": "assistant", "content": str(each.answer)})
                 for each in samples]
        sums, tokens = user_log_probs(model, talks, text)
        return sums / tokens


def user_log_probs(model: LanguageModel, talks: Sequence[Sequence[Message]], text: str) -> tuple[Tensor, Tensor]:
    """Of a next turn of the user after each conversation: sums [N], and numbers of tokens [N], which the tokens by
    which the template opens the turn do not enter."""
    def with_turn(said: str) -> list[list[int]]:
        return [model.tokenizer.apply_chat_template([*talk, {"role": "user", "content": said}],
                                                    return_dict=True)["input_ids"] for talk in talks]

    empty, whole, rows = with_turn(""), with_turn(text), []
    for before, after in zip(empty, whole, strict=True):
        shared = next(i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b)
        rows.append((after[:shared], up_to_end(after[shared:], turn_end(model.tokenizer))))
    return rows_log_probs(model, rows)


def rows_log_probs(model: LanguageModel, rows: Sequence[tuple[list[int], list[int]]]) -> tuple[Tensor, Tensor]:
    """Of (tokens before, tokens that count): sums of log-probabilities, float32 [N], and numbers of tokens, [N]."""
    longest = max(len(before) + len(tokens) for before, tokens in rows)
    device, fill = model.model.device, model.tokenizer.pad_token_id

    def padded(parts) -> Tensor:
        return torch.tensor([[*part, *[0] * (longest - len(part))] for part in parts], device=device)

    ids = padded([[*before, *tokens] for before, tokens in rows])
    seen = padded([[1] * (len(before) + len(tokens)) for before, tokens in rows])
    mask = padded([[0] * len(before) + [1] * len(tokens) for before, tokens in rows])[:, 1:]
    ids = torch.where(seen.bool(), ids, fill)
    with torch.no_grad():
        logits = model.model(input_ids=ids, attention_mask=seen, use_cache=False).logits[:, :-1].float()
    picked = logits.gather(-1, ids[:, 1:, None])[..., 0] - logits.logsumexp(-1)
    return (picked * mask).sum(1).cpu(), mask.sum(1).cpu()
