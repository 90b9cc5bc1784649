"""`visalign lm train --dry-run`: settings, data, sizes and memory, from a model's configuration without its weights."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from torch import Tensor

from visalign.config import LanguageConfig, LanguageOnlineConfig, LanguageSettings, TextFeedbackSettings
from visalign.config.language_rollout import LanguageRolloutSettings
from visalign.config.load import build_objective
from visalign.data.persuasion import read_disputed
from visalign.data.prompts import read_prompts
from visalign.data.text_pairs import TextPair
from visalign.jobs.cards import find_card
from visalign.jobs.language_memory import language_memory
from visalign.language.chat import encode_pair, length_of
from visalign.language.group_shape import prompts_to_answer
from visalign.language.preference import PairCollator
from visalign.language.run import check_language
from visalign.language.sketch import LanguageSketch, sketch_language
from visalign.language.vision import PAIRS_COUNTED, VisionCollator, vision_rows
from visalign.media.conversations import prompt_tokens, with_system
from visalign.storage.language_models import (
    LanguageModel,
    LanguageSource,
    load_processor,
    load_tokenizer,
    locate_language_model,
)
from visalign.storage.yaml_files import dump_yaml


class Learnt(NamedTuple):
    """What a pass learns from: lines that say so, and its largest batch as the network takes it."""

    lines: list[str]
    batch: dict[str, Tensor]


def describe_language_run(config: LanguageSettings, planned: float | None = None) -> str:
    """What a run would do and take, in words; of the model its configuration and its tokenizer or processor are read,
    and nothing else. Raises UserError for whatever a run would refuse before it loads the model.

    planned: GiB of a GPU that need not be here.
    """
    config, pairs = check_language(config, weights=False)
    found = locate_language_model(config.model.source, weights=False)
    sketch = sketch_language(found, config.model)
    train = config.train
    lines = [f"model             {found.described}", *sizes_in_words(sketch, config),
             f"objective         {config.objective['name']}",
             f"steps             {train.steps} of {rows_a_step(config)}"]
    measured = read_prompts(config.eval.prompts or (), config.eval.max_prompts)
    if isinstance(config, LanguageOnlineConfig):
        learnt = of_prompts(config, found, frozenset(measured))
    elif isinstance(config, LanguageConfig):
        kind = of_shown_pairs if config.model.vision else of_pairs
        made = of_persuasion if config.data.persuasion else of_feedback
        learnt = kind(config, found, pairs) if pairs else made(config, found)
    lines += [*learnt.lines, f"held-out prompts  {len(measured)}"]
    card = find_card(train.device, planned)
    return "\n".join([*lines, *language_memory(config, sketch, learnt.batch, card), "",
                      dump_yaml(config.model_dump(mode="json"))])


def sizes_in_words(sketch: LanguageSketch, config: LanguageSettings) -> list[str]:
    """Parameters, and which layers of which part have an adapter."""
    trained = f"trainable {sketch.trained / 1e6:,.3f} M ({config.model.tuning})"
    lines = [f"parameters        {sketch.base / 1e6:,.2f} M, {trained}"]
    if sketch.adapted:
        layers = ", ".join(f"{count} of {part}" for part, count in sketch.adapted.items())
        lines.append(f"adapted layers    {sum(sketch.adapted.values())}: {layers}")
    return lines


def of_pairs(config: LanguageConfig, found: LanguageSource, pairs: Sequence[TextPair]) -> Learnt:
    """Tokens of all pairs, and the longest ones as a batch."""
    train, tokenizer = config.train, load_tokenizer(found)
    revised = "revision" in build_objective(config.objective, loop=config.methods).needs
    rows = [encode_pair(tokenizer, pair, i, config.model.system, revised) for i, pair in enumerate(pairs)]
    lengths = [length_of(row) for row in rows]
    kept = [i for i in sorted(range(len(rows)), key=lambda i: -lengths[i]) if lengths[i] <= train.max_length]
    more = f"; {len(rows) - len(kept)} of {len(rows)} pairs are longer than train.max_length {train.max_length}"
    batch = PairCollator(tokenizer.pad_token_id, ())([rows[i] for i in rows_of_pass(kept, config)]) if kept else {}
    return Learnt([epochs_of(config, pairs), tokens_in_words(lengths) + more], batch)


def of_shown_pairs(config: LanguageConfig, found: LanguageSource, pairs: Sequence[TextPair]) -> Learnt:
    """The same of pairs with images, of which some are counted. Raises UserError for one that is too long."""
    processor = load_processor(found)
    model = LanguageModel(None, processor.tokenizer, found.described, processor)
    collate = VisionCollator(processor, (), config.train.max_length)
    with tempfile.TemporaryDirectory() as folder:  # of images that lie inside a table
        rows = vision_rows(model, pairs, config.model.system, Path(folder), config.train.max_length)
        counted = rows[::max(1, len(rows) // PAIRS_COUNTED)]
        lengths = [int(collate([row])["attention_mask"].sum(1).max()) for row in counted]
        longest = sorted(range(len(counted)), key=lambda i: -lengths[i])
        batch = collate([counted[i] for i in rows_of_pass(longest, config)])
    some = f" of {len(counted)} pairs" if len(counted) < len(rows) else ""
    return Learnt([epochs_of(config, pairs), tokens_in_words(lengths) + f"{some}, those of images included"], batch)


def epochs_of(config: LanguageConfig, pairs: Sequence[TextPair]) -> str:
    return f"pairs             {len(pairs)}, {config.train.steps * config.train.batch_size / len(pairs):.1f} epochs"


def tokens_in_words(lengths: Sequence[int]) -> str:
    return f"tokens            {fmean(lengths):.0f} on average, {max(lengths)} at most"


def rows_of_pass(longest: list[int], config: LanguageConfig) -> list[int]:
    """The first rows, as many as a pass takes, some of them again where there are fewer."""
    size = config.train.batch_size
    return (longest * size)[:size]


def of_feedback(config: LanguageConfig, found: LanguageSource) -> Learnt:
    """Pairs that are made first: at most of the longest prompt with answers of all tokens that they may have."""
    tokenizer, feedback, system = load_tokenizer(found), config.data.feedback, config.model.system
    asked = read_prompts(feedback.prompts, feedback.max_prompts)
    talks = [prompt_tokens(tokenizer, with_system([{"role": "user", "content": prompt}], system)) for prompt in asked]
    batch = whole_answers(talks, feedback.max_tokens, tokenizer.pad_token_id, config.train.batch_size,
                          ("chosen",) if feedback.imitates else ("chosen", "rejected"))
    return Learnt([f"pairs             {made_in_words(feedback, len(asked))}"], batch)


def made_in_words(feedback: TextFeedbackSettings, prompts: int) -> str:
    """What is made of the answers to so many prompts, at most."""
    if feedback.imitates:
        return f"none; at most {prompts} answers to imitate, of {feedback.success.samples} to each of {prompts} prompts"
    if feedback.tree:
        return (f"of steps, in trees of at most {feedback.tree.simulations * feedback.tree.width} answers to each of "
                f"{prompts} prompts")
    return (f"at most {prompts * feedback.pairs_per_prompt}, made of {feedback.samples_per_prompt} answers to each of "
            f"{prompts} prompts")


def of_persuasion(config: LanguageConfig, found: LanguageSource) -> Learnt:
    """Dialogues that are made first, with given first answers and the longest replies that they may have."""
    settings, tokenizer = config.data.persuasion, load_tokenizer(found)
    questions = read_disputed(settings, lambda error: None)
    talks = [prompt_tokens(tokenizer, with_system(list(each.messages), config.model.system))
             for question in questions for each in question.given_dialogues(settings)]
    batch = whole_answers(talks, settings.max_tokens, tokenizer.pad_token_id, config.train.batch_size)
    return Learnt([f"pairs             at most {len(talks)} of {len(questions)} questions, held-out ones among them"],
                  batch)


def whole_answers(prompts: Sequence[list[int]], most: int, filler: int, size: int,
                  sides: tuple[str, ...] = ("chosen", "rejected")) -> dict[str, Tensor]:
    """A batch of the longest prompt with answers of all tokens that they may have."""
    row = {"prompt_ids": max(prompts, key=len)} | {f"{side}_ids": [filler] * most for side in sides}
    return PairCollator(filler, ())([row] * size)


def of_prompts(config: LanguageOnlineConfig, found: LanguageSource, measured: frozenset[str]) -> Learnt:
    """How many prompts are answered, and the longest of them with whole answers as a batch."""
    tokenizer = load_tokenizer(found)
    talks = prompts_to_answer(config, tokenizer, measured)
    batch = whole_answers([prompt_tokens(tokenizer, talk) for talk in talks], config.rollout.max_tokens,
                          tokenizer.pad_token_id, config.train.batch_size, ("chosen",))
    return Learnt([f"prompts           {len(talks)} to answer", *tries_in_words(config.rollout)], batch)


def tries_in_words(rollout: LanguageRolloutSettings) -> list[str]:
    """A line on what credit for steps draws beside the answers; [] without it."""
    credit, prompts, answers = rollout.step_credit, rollout.prompts_per_step, rollout.answers_per_step
    if credit is None:
        return []
    return [f"tries             at most {credit.most_tries(prompts, answers)} a step, of {credit.max_tokens} tokens, "
            f"beside {answers} answers of {rollout.max_tokens}: {credit.tries} x ({prompts} prompts + {answers} "
            f"answers x {credit.max_steps} parts)"]


def rows_a_step(config: LanguageSettings) -> str:
    """What a step learns from, in words."""
    if isinstance(config, LanguageOnlineConfig):
        rollout = config.rollout
        return f"{rollout.answers_per_step} answers, {rollout.prompts_per_step} prompts x {rollout.group_size}"
    return f"{config.train.batch_size * config.train.gradient_accumulation} rows a process"
