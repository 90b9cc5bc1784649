"""The first stage of Prompt-A-Video (arXiv 2412.15156): rewrites of each prompt, found by trying, rendering, scoring.

    evolve/round-0.jsonl   the users' prompts themselves     evolve/round-N.jsonl   what round N tried, with its scores
    evolve/llm-N.json      how many answers of round N held what they were asked for
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from visalign.config.adapter import AdaptConfig
from visalign.evaluators.verdict import front
from visalign.language.renders import RenderStore, Wanted, read_lines_of, render_seeds, write_lines
from visalign.language.rewrite_rules import rule_rewrites
from visalign.language.rewriting import Gate, as_rewrite, tagged_rewrites
from visalign.language.sampling import Answerer, sample_answers
from visalign.media.answers import holds_control_tokens
from visalign.sampling.seeds import second_seed
from visalign.storage.files import write_atomically, written

TRIES_SHOWN = 5
"""Rewrites of a prompt that the language model is shown, the best ones."""
TRIED = "evolve"


@dataclass(frozen=True)
class Attempt:
    """A rewrite of a prompt, by whom, in which round, its score by reward (a mean over seeds; NaN: not known), and the
    weighted sum of them. refused: why the gate does not let it through; it is not rendered then."""

    prompt: str
    rewrite: str
    by: str
    round: int
    scores: tuple[float, ...] = ()
    overall: float = float("nan")
    refused: str | None = None

    @property
    def known(self) -> bool:
        return self.overall == self.overall


@dataclass(frozen=True)
class Laboratory:
    """What tries rewrites: renders with their scores, the gate, and the run's settings."""

    config: AdaptConfig
    store: RenderStore
    gate: Gate

    def tried(self, attempts: Sequence[Attempt], label: str) -> list[Attempt]:
        """The same with scores, those that the gate refuses without; all rewrites of a prompt on the same seeds."""
        reasons = self.gate.refusals([(each.prompt, each.rewrite) for each in attempts])
        seeds = {each.prompt: render_seeds(self.config.seed, each.prompt, self.config.generator.seeds)
                 for each in attempts}
        wanted = [Wanted(each.prompt, each.rewrite, seed) for each, reason in zip(attempts, reasons, strict=True)
                  if reason is None for seed in seeds[each.prompt]]
        scores = self.store.score(wanted, label).view(-1, self.config.generator.seeds, len(self.store.rewards.names))
        means = iter(scores.mean(1))  # NaN where one of the seeds has no score: such a rewrite is not compared
        found = []
        for each, reason in zip(attempts, reasons, strict=True):
            mean = None if reason else next(means)
            found.append(Attempt(each.prompt, each.rewrite, each.by, each.round,
                                 () if mean is None else tuple(mean.tolist()),
                                 float("nan") if mean is None else weighted_score(mean, self.store), reason))
        return found


def weighted_score(scores: torch.Tensor, store: RenderStore) -> float:
    """Weighted sum over the rewards; one of weight 0 may be unknown."""
    used = store.rewards.weights > 0
    return float((scores[used] * store.rewards.weights[used]).sum())


def kept_front(pool: Sequence[Attempt], keep: int) -> list[Attempt]:
    """Of a prompt's rewrites with scores those that no other is better than in every reward, the best `keep` by the
    weighted sum."""
    known = [each for each in pool if each.known]
    kept = [known[i] for i in front([each.scores for each in known])]
    return sorted(kept, key=lambda each: -each.overall)[:keep]


def evolve(laboratory: Laboratory, prompts: Sequence[str], answerer: Answerer | None,
           folder: Path) -> dict[str, list[Attempt]]:
    """{prompt: pool}, every rewrite that was tried, the prompt itself first; rounds that are on disk are read."""
    settings, pools = laboratory.config.evolve, {prompt: [] for prompt in prompts}
    for number in range(settings.rounds + 1):
        file = folder / TRIED / f"round-{number}.jsonl"
        if not file.is_file():
            new = [Attempt(prompt, prompt, "user", 0) for prompt in prompts] if number == 0 else [
                *by_rules(laboratory, pools, number), *by_model(laboratory, pools, answerer, number, file.parent)]
            distinct = {(each.prompt, each.rewrite): each for each in reversed(new)}
            order = sorted(distinct.values(), key=lambda each: prompts.index(each.prompt))
            write_attempts(file, laboratory.tried(order, f"round {number} of {settings.rounds}"))
        for each in read_attempts(file):
            pools[each.prompt].append(each)
    return pools


def by_rules(laboratory: Laboratory, pools: dict[str, list[Attempt]], number: int) -> list[Attempt]:
    """The first `per_round` rewrites of each prompt by rule, from what is kept of its pool, that pass the gate."""
    settings, found = laboratory.config.evolve, []
    if not settings.rules:
        return found
    for prompt, pool in pools.items():
        known = {each.rewrite for each in pool}
        parents = kept_front(pool, settings.keep) or pool[:1]
        told = dict.fromkeys(text for parent in parents for text in rule_rewrites(parent.rewrite))
        fresh = [text for text in told if text not in known]
        passed = [text for text, reason in zip(fresh, laboratory.gate.refusals([(prompt, text) for text in fresh]),
                                               strict=True) if reason is None]
        found += [Attempt(prompt, text, "rules", number) for text in passed[:settings.per_round]]
    return found


def by_model(laboratory: Laboratory, pools: dict[str, list[Attempt]], answerer: Answerer | None, number: int,
             folder: Path) -> list[Attempt]:
    """`per_round` rewrites of each prompt by the language model, which sees the best of what was tried. An answer that
    holds another number of them is asked for once more, and then left out; both are counted."""
    settings, seed = laboratory.config.evolve, laboratory.config.seed + 31 * number
    if answerer is None:
        return []
    open_ = [prompt for prompt in pools if not holds_control_tokens(prompt)]
    answers, right, found = 0, 0, []
    for attempt in range(2):
        if not open_:
            break
        things = f"{laboratory.store.generator.modality}s"
        talks = [conversation(prompt, pools[prompt], settings.per_round, things) for prompt in open_]
        drawn = sample_answers(answerer, talks, 1, settings, seed=second_seed(seed) if attempt else seed,
                               label=f"rewrites of round {number}")
        told = {prompt: tagged_rewrites(str(each.answer)) for prompt, each in zip(open_, drawn, strict=True)}
        answers += len(open_)
        open_ = [prompt for prompt in open_ if len(told[prompt]) != settings.per_round]
        right += len(told) - len(open_)
        found += [Attempt(prompt, as_rewrite(text), "llm", number) for prompt, texts in told.items()
                  if len(texts) == settings.per_round for text in texts]
    write_atomically(folder / f"llm-{number}.json", json.dumps(
        {"answers": answers, "in_format": right, "prompts_skipped": len(open_)}).encode())
    known = {(each.prompt, each.rewrite) for pool in pools.values() for each in pool}
    return [each for each in found if (each.prompt, each.rewrite) not in known]


ASKED = ("You improve prompts for a generator of {things}. You see a prompt, rewrites of it and their scores; more is "
         "better. Write {count} new rewrites that show the same thing, each as <PROMPT>rewrite</PROMPT>.")
_EXAMPLE = (("I would like to see a lighthouse", 0.31), ("lighthouse by the sea", 1.12))
_EXAMPLE_ANSWERS = ("a lighthouse", "lighthouse", "white lighthouse", "lighthouse at night", "tall lighthouse")


def conversation(prompt: str, pool: Sequence[Attempt], count: int, things: str = "images") -> list[dict[str, str]]:
    """What the language model is asked: the task, one example with its answer, then the prompt and its tries."""
    tries = sorted((each for each in pool if each.known), key=lambda each: -each.overall)[:TRIES_SHOWN]
    shown = [_EXAMPLE_ANSWERS[i % len(_EXAMPLE_ANSWERS)] for i in range(count)]
    return [{"role": "system", "content": ASKED.format(count=count, things=things)},
            {"role": "user", "content": _asked(_EXAMPLE[0][0], _EXAMPLE)},
            {"role": "assistant", "content": "\n".join(f"<PROMPT>{text}</PROMPT>" for text in shown)},
            {"role": "user", "content": _asked(prompt, [(each.rewrite, each.overall) for each in tries])}]


def _asked(prompt: str, tries: Sequence[tuple[str, float]]) -> str:
    return "\n".join([f"Prompt: {prompt}", *(f"{score:.2f}: {text}" for text, score in tries)])


def parse_rate(folder: Path) -> tuple[int, int] | None:
    """(answers in the right format, all answers) over all rounds; None where the model was not asked."""
    rounds = [written(file) for file in sorted((folder / TRIED).glob("llm-*.json"))]
    return (sum(each["in_format"] for each in rounds), sum(each["answers"] for each in rounds)) if rounds else None


def write_attempts(file: Path, attempts: Sequence[Attempt]) -> None:
    """JSON has no NaN: an unknown score is null."""
    rows = [asdict(each) | {"scores": [_null(score) for score in each.scores], "overall": _null(each.overall)}
            for each in attempts]
    write_lines(file, rows)


def read_attempts(file: Path) -> list[Attempt]:
    return [Attempt(**row | {"scores": tuple(map(_number, row["scores"])), "overall": _number(row["overall"])})
            for row in read_lines_of(file)]


def _null(value: float) -> float | None:
    return value if value == value else None


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
