"""Pairs of a language model's own answers: sampled, scored, and ranked within each prompt; or of another kind."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from visalign.config import TextFeedbackSettings
from visalign.data.pair_selection import Candidate, PairCounts, best_worst, keep, rank_consistency
from visalign.data.prompts import read_prompts
from visalign.data.text_pairs import TextPair
from visalign.errors import UserError, notice
from visalign.language.sampling import Answerer, sample_answers
from visalign.language.success import deficient_prompts, solved_answers, success_shares, tried_prompts, write_success
from visalign.language.tree_pairs import tree_pairs
from visalign.media.samples import Sample
from visalign.parallel.sharing import ALONE, Processes
from visalign.rewards import Reward, finite_scores
from visalign.storage.files import write_atomically
from visalign.storage.text_files import read_text

FEEDBACK = "pairs.jsonl"


def feedback_text_pairs(answerer: Answerer, settings: TextFeedbackSettings, rewards: Sequence[Reward], seed: int,
                        left_out: frozenset[str], processes: Processes = ALONE,
                        folder: Path | None = None) -> list[TextPair]:
    """Pairs of the model's own answers, or of their steps, or its successes to imitate. Prompts in `left_out` are not
    asked. How often the model succeeds, where that is asked for, is left in `folder`. Raises UserError when there is
    nothing to learn from."""
    prompts = [prompt for prompt in read_prompts(settings.prompts, settings.max_prompts) if prompt not in left_out]
    if not prompts:
        raise UserError(f"data.feedback.prompts {settings.prompts}: every prompt is held out for measuring")
    if settings.success:
        tried = tried_prompts(answerer, prompts, settings, settings.success.samples, rewards[0], seed, processes)
        if folder is not None and processes.is_first:
            write_success(success_shares(tried, settings.success), folder)
        if settings.imitates:
            return solved_answers(tried, settings.success)
        prompts = deficient_prompts(tried, settings.success)
    make = next((make for name, make in OTHER_PAIRS.items() if getattr(settings, name)), answer_pairs)
    return make(answerer, prompts, settings, rewards, seed, processes)


def answer_pairs(answerer: Answerer, prompts: Sequence[str], settings: TextFeedbackSettings, rewards: Sequence[Reward],
                 seed: int, processes: Processes) -> list[TextPair]:
    """Best against worst of each prompt's answers by the first reward; where there is a second, the pairs' chance is
    how far both rank alike. Raises UserError when no prompt has answers that the reward tells apart."""
    samples = sample_answers(answerer, prompts, settings.samples_per_prompt, settings, seed=seed,
                             label="answers for pairs", processes=processes)
    scores = processes.told_by_first(lambda: [finite_scores(reward, samples).tolist() for reward in rewards])
    pairs = rank_answers(samples, scores[0], settings.pairs_per_prompt, settings.min_gap)
    if not pairs:
        raise UserError(f"data.feedback: reward {rewards[0].name} tells no two answers to one prompt apart, so there "
                        "is no pair to learn from; take more samples_per_prompt, or a higher temperature")
    return with_consistency(pairs, samples, *scores) if len(scores) > 1 else pairs


OTHER_PAIRS: dict[str, Callable[..., list[TextPair]]] = {"tree": tree_pairs}
"""Of the settings that ask for pairs of another kind than of whole answers, what makes them."""


def with_consistency(pairs: list[TextPair], samples: list[Sample], first: list[float],
                     second: list[float]) -> list[TextPair]:
    """Pairs with the share of a prompt's pairs of answers that both rewards order alike as their chance, at least 1/2:
    what is below would teach the flipped label (CREAM, section 4)."""
    places: dict[str, list[int]] = {}
    for i, sample in enumerate(samples):
        places.setdefault(sample.prompt, []).append(i)
    alike = {prompt: rank_consistency([first[i] for i in of], [second[i] for i in of]) for prompt, of in places.items()}
    against = sum(chance < 0.5 for chance in alike.values())
    notice(f"data.feedback: both rewards rank answers alike with {fmean(alike.values()):.2f}; prompts where they "
           f"disagree more than they agree: {against} of {len(alike)}")
    return [replace(pair, chance=max(0.5, alike[pair.prompt])) for pair in pairs]


def rank_answers(samples: list[Sample], scores: list[float], pairs_per_prompt: int,
                 min_gap: float = 0.0) -> list[TextPair]:
    """Best against worst, second best against second worst, ... within each prompt; equal scores or equal answers make
    no pair."""
    groups: dict[str, list[Candidate]] = {}
    for i, sample in enumerate(samples):
        groups.setdefault(sample.prompt, []).append(Candidate(i, scores[i]))
    counts = PairCounts()
    return [TextPair(({"role": "user", "content": prompt},), str(samples[a.number].answer),
                     str(samples[b.number].answer), f"prompt '{prompt}'", a.score - b.score, 1.0, a.score, b.score,
                     unfinished=frozenset(name for name, each in (("chosen", a), ("rejected", b))
                                          if not samples[each.number].known.get("ended", True)))
            for prompt, candidates in groups.items()
            for a, b in keep(best_worst(candidates, pairs_per_prompt), counts, min_gap)
            if samples[a.number].answer != samples[b.number].answer]


def write_feedback(pairs: list[TextPair], folder: Path) -> None:
    """The pairs, so that a run that is continued learns from the same."""
    lines = [json.dumps({"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected,
                         "strength": pair.strength, "chance": pair.chance, "chosen_reward": pair.chosen_reward,
                         "rejected_reward": pair.rejected_reward, "unfinished": sorted(pair.unfinished),
                         "prefix": pair.prefix},
                        ensure_ascii=False) for pair in pairs]
    write_atomically(folder / FEEDBACK, ("\n".join(lines) + "\n").encode("utf-8", "backslashreplace"))


def read_feedback(folder: Path) -> list[TextPair]:
    """The pairs that an earlier session of the run has made; [] before that."""
    file = folder / FEEDBACK
    if not file.is_file():
        return []
    rows = [json.loads(line) for line in read_text(file, f"run {file}").splitlines()]
    return [TextPair(({"role": "user", "content": row["prompt"]},), row["chosen"], row["rejected"],
                     f"{file.name} row {i}", row["strength"], row["chance"], row["chosen_reward"],
                     row["rejected_reward"], unfinished=frozenset(row["unfinished"]), prefix=row.get("prefix", ""))
            for i, row in enumerate(rows, 1)]
