"""Answers of a language model: each with a seed of its own, so that it is the same whatever it is drawn together with.

A token is drawn by adding Gumbel noise to its log-probability and taking the largest (the same distribution), and
each answer's noise comes from its own seed: two models answer with common random numbers, and a batch can be resized.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from visalign.config.language_answers import AnswerSettings
from visalign.language.vision import processed, rendered
from visalign.media.answers import Answer
from visalign.media.conversations import Message, begun_tokens, prompt_tokens, turn_end, with_system
from visalign.media.samples import Sample
from visalign.media.source_images import source_images_of, words_of
from visalign.parallel.sharing import ALONE, Processes, doing
from visalign.sampling.seeds import place_seed


@dataclass(frozen=True)
class Answerer:
    """What answers: a model, its tokenizer, the text of the system's turn (None: the template's own), and the processor
    of a vision-language model."""

    model: Any
    tokenizer: Any
    system: str | None = None
    processor: Any = None


class GumbelChoice:
    """A logits processor that leaves one token: the one drawn at a temperature from the likeliest that hold `top_p`."""

    def __init__(self, seeds: Sequence[int], temperature: float, top_p: float):
        self.rngs = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.temperature, self.top_p = temperature, top_p

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self.temperature == 0:
            return scores
        scores = within_top(scores.float() / self.temperature, self.top_p)
        uniform = torch.stack([torch.rand(scores.shape[1], generator=rng) for rng in self.rngs])
        return scores - torch.log(-torch.log(uniform.clamp(1e-20, 1 - 1e-7))).to(scores.device)


def within_top(scores: Tensor, top_p: float) -> Tensor:
    """Scores [B, V] of the likeliest tokens that together hold at least the share `top_p`; the others are -inf."""
    if top_p >= 1:
        return scores
    ordered, places = scores.sort(descending=True)
    share = ordered.softmax(-1)
    outside = share.cumsum(-1) - share >= top_p  # what lies before a token already holds the share
    return scores.masked_fill(outside.scatter(1, places, outside), float("-inf"))


@contextlib.contextmanager
def drawing(model: Any) -> Iterator[None]:
    """A context without gradients, dropout and checkpointing, which leaves torch's own random numbers as they were."""
    trained, state = model.training, torch.get_rng_state()
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(trained)
        torch.set_rng_state(state)


def answers_of(answerer: Answerer, conversations: Sequence[Sequence[Message]], seeds: Sequence[int],
               settings: AnswerSettings, images: Sequence[Sequence[Image.Image]] = ()) -> list[tuple[str, bool]]:
    """One answer to each conversation (and its images) as text without control tokens, and whether it ended by itself.
    """
    tokenizer, model = answerer.tokenizer, answerer.model
    talks = [with_system(each, answerer.system) for each in conversations]
    if answerer.processor is not None:
        texts = [rendered(answerer.processor, talk, len(shown)) for talk, shown in zip(talks, images, strict=True)]
        given = {name: value.to(model.device) for name, value in processed(
            answerer.processor, texts, [list(shown) for shown in images], "left").items()}
    else:
        given = tokenizer.apply_chat_template(talks, add_generation_prompt=True, return_dict=True, return_tensors="pt",
                                              padding=True, tokenizer_kwargs={"padding_side": "left"}).to(model.device)
    tokens = drawn_tokens(answerer, given, seeds, settings, settings.max_tokens)
    ended = torch.isin(tokens, torch.tensor(ends_of(answerer), device=tokens.device)).any(1)
    return list(zip((storable(text).strip() for text in tokenizer.batch_decode(tokens, skip_special_tokens=True)),
                    ended.tolist(), strict=True))


def drawn_tokens(answerer: Answerer, given: Mapping[str, Any], seeds: Sequence[int], settings: AnswerSettings,
                 most: int) -> Tensor:
    """At most `most` tokens after each row of a batch that is padded on the left, int64 [B, T]."""
    from transformers import LogitsProcessorList

    choice = GumbelChoice(seeds, settings.temperature, settings.top_p)
    drawn = answerer.model.generate(
        **given, eos_token_id=ends_of(answerer), max_new_tokens=most, do_sample=False, num_beams=1, use_cache=True,
        temperature=None, top_p=None, top_k=None, repetition_penalty=None,
        logits_processor=LogitsProcessorList([choice]))
    return drawn[:, given["input_ids"].shape[1]:]


def continuations_of(answerer: Answerer, conversations: Sequence[Sequence[Message]], begun: Sequence[str],
                     seeds: Sequence[int], settings: AnswerSettings) -> list[tuple[str, bool]]:
    """What follows the beginning of an answer to each conversation, spaces before it included, and whether the answer
    ended by itself. settings.max_tokens counts the beginning as well; at least one token is drawn."""
    tokenizer, model = answerer.tokenizer, answerer.model
    talks = [with_system(each, answerer.system) for each in conversations]
    rows = [begun_tokens(tokenizer, talk, text) for talk, text in zip(talks, begun, strict=True)]
    spent = [max(0, len(row) - len(prompt_tokens(tokenizer, talk))) for row, talk in zip(rows, talks, strict=True)]
    left = [max(1, settings.max_tokens - each) for each in spent]
    given = tokenizer.pad({"input_ids": rows}, padding=True, padding_side="left", return_tensors="pt").to(model.device)
    drawn = drawn_tokens(answerer, given, seeds, settings, max(left)).tolist()
    ends, found = frozenset(ends_of(answerer)), []
    for row, tokens, most, size in zip(rows, drawn, left, spent, strict=True):
        tokens = tokens[:most]
        before, whole = (storable(tokenizer.decode(part, skip_special_tokens=True)) for part in (
            row[len(row) - size:], [*row[len(row) - size:], *tokens]))
        found.append((whole[len(before):], bool(ends.intersection(tokens))))
    return found


def ends_of(answerer: Answerer) -> list[int]:
    """Tokens at which an answer ends: of the template, the tokenizer and the model."""
    known = answerer.model.generation_config.eos_token_id
    found = [turn_end(answerer.processor or answerer.tokenizer), answerer.tokenizer.eos_token_id,
             *(known if isinstance(known, list) else [known])]
    return list(dict.fromkeys(end for end in found if end is not None))


def storable(text: str) -> str:
    """The text with a sign for what no table can hold: a NUL, half of a character."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")


def asked_with_images(prompt: str | Sequence[Message],
                      answerer: Answerer) -> tuple[Sequence[Message], tuple[Image.Image, ...]]:
    """A prompt as a conversation, and the images that it names (media/source_images.py)."""
    if not isinstance(prompt, str):
        return prompt, ()
    words = words_of(prompt) if answerer.processor is not None else prompt
    return ({"role": "user", "content": words},), source_images_of(prompt) if words != prompt else ()


def sample_answers(answerer: Answerer, prompts: Sequence[str | Sequence[Message]], per_prompt: int,
                   settings: AnswerSettings, *, seed: int, label: str, processes: Processes = ALONE,
                   quiet: bool = False) -> list[Sample]:
    """`per_prompt` answers to each prompt; the i-th of the j-th always has the same seed. Processes share batches."""
    total, size = len(prompts) * per_prompt, settings.batch_size
    found: list[tuple[int, Sample]] = []
    with tqdm(total=total, desc=label, unit="answer", disable=quiet or not processes.is_first) as progress:
        for start in range(processes.rank * size, total, processes.world * size):
            places = range(start, min(start + size, total))
            asked = [prompts[place // per_prompt] for place in places]
            seeds = [place_seed(seed, place) for place in places]
            talks, images = zip(*(asked_with_images(each, answerer) for each in asked), strict=True)
            with drawing(answerer.model):
                answered = answers_of(answerer, talks, seeds, settings, images)
            for place, given, talk, shown, number, (text, ended) in zip(
                    places, asked, talks, images, seeds, answered, strict=True):
                known = {"ended": ended} | ({"source_prompt": given} if shown else {})
                found.append((place, Sample(talk[-1]["content"], Answer(text), number, known, shown)))
            progress.update(min(total, start + size * processes.world) - progress.n)
            doing()
    return [sample for _, sample in sorted(processes.gather(found), key=lambda each: each[0])]
