"""Held-out prompts, on seeds not used before: what rewriting gained, over what, and what it cost."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from visalign.config.adapter import AdaptEvaluationSettings
from visalign.errors import UserError
from visalign.evaluators import diversity
from visalign.evaluators.statistics import Estimate, mean_with_interval, relative_change
from visalign.language.renders import RenderStore, Wanted, render_seeds
from visalign.language.rewriting import Gate, Rewritten, fallbacks
from visalign.media.words import words_in
from visalign.rewards import FeatureExtractor

RAW, BASE, OURS = "the user's prompt", "the base model's rewrite", "this rewriter"
IMITATED = "the rewriter after SFT alone"
WEIGHTED_SUM = "weighted sum"


@dataclass(frozen=True)
class HeldOutRenders:
    """texts {kind: P of them}, scores {kind: float64 [P, K, D]}, weights [D], names of the D rewards, and features
    {kind: [P, K, F]} where diversity is measured."""

    prompts: tuple[str, ...]
    texts: dict[str, list[Rewritten]]
    scores: dict[str, Tensor]
    weights: Tensor
    names: tuple[str, ...]
    features: dict[str, Tensor]

    @property
    def seeds(self) -> int:
        return self.scores[RAW].shape[1]

    def totals(self, kind: str) -> Tensor:
        """Weighted sums [P, K]."""
        used = self.weights > 0
        return (self.scores[kind][..., used] * self.weights[used]).sum(-1)

    def best(self, kind: str) -> Tensor:
        """The render of each prompt with the highest weighted sum, [P]; the first where none has a score."""
        return self.totals(kind).nan_to_num(nan=-torch.inf).argmax(1)

    def of_best(self, kind: str) -> Tensor:
        """Its scores, [P, D]."""
        return self.scores[kind][torch.arange(len(self.prompts)), self.best(kind)]


def render_held_out(prompts: Sequence[str], texts: dict[str, list[Rewritten]], store: RenderStore,
                    settings: AdaptEvaluationSettings, features: FeatureExtractor | None) -> HeldOutRenders:
    """Render every text of every prompt on the prompt's seeds. Raises UserError for features that are not finite."""
    scores, found, shape = {}, {}, (len(prompts), settings.samples_per_prompt)
    for kind, rewritten in texts.items():
        wanted = wanted_of(rewritten, settings)
        scores[kind] = store.score(wanted, f"held out: {kind}").view(*shape, -1)
        if features is not None:
            found[kind] = features.sample_features([store.sample(each) for each in wanted]).view(*shape, -1)
            if not found[kind].isfinite().all():
                raise UserError(f"eval.features {settings.features}: the features of a render are not finite")
    return HeldOutRenders(tuple(prompts), texts, scores, store.rewards.weights, store.rewards.names, found)


def wanted_of(rewritten: Sequence[Rewritten], settings: AdaptEvaluationSettings) -> list[Wanted]:
    """The renders of each prompt's text, prompt by prompt."""
    return [Wanted(each.prompt, each.used, seed) for each in rewritten
            for seed in render_seeds(settings.seed, each.prompt, settings.samples_per_prompt)]


def score_columns(held: HeldOutRenders, values: Tensor) -> dict[str, np.ndarray]:
    """{reward: [P]} of scores [P, K, D] (means over the seeds that have a score) or [P, D], with the weighted sum where
    several rewards have a weight."""
    per_prompt = torch.nanmean(values, 1) if values.ndim == 3 else values
    found = {name: per_prompt[:, i].numpy() for i, name in enumerate(held.names)}
    used = held.weights > 0
    if int(used.sum()) > 1:
        found = {WEIGHTED_SUM: (per_prompt[:, used] * held.weights[used]).sum(1).numpy()} | found
    return found


def gain_of(after: np.ndarray, before: np.ndarray) -> Estimate | None:
    """Mean of the differences over the prompts for which both are known, with its interval."""
    known = np.isfinite(after) & np.isfinite(before)
    return mean_with_interval(after[known] - before[known]) if known.any() else None


def verdict_on(gain: Estimate | None) -> str:
    """In one word: better, worse, or undecided where the interval holds 0."""
    if gain is None or not gain.clear_of_zero:
        return "unknown" if gain is None else "undecided"
    return "better" if gain.low > 0 else "worse"


def measures_of(held: HeldOutRenders, gate: Gate) -> dict[str, Any]:
    """All numbers as JSON: `rows` (a mean by reward of each way to get an image), `gains` of the rewriter over each
    other way, and of each kind of text words, similarity, diversity and fallbacks."""
    many = f"best of {held.seeds} seeds, {RAW}"
    raw, base, ours = (score_columns(held, held.scores[kind]) for kind in (RAW, BASE, OURS))
    best_raw, best_ours = (score_columns(held, held.of_best(kind)) for kind in (RAW, OURS))
    first = {kind: score_columns(held, held.scores[kind]) for kind in (IMITATED,) if kind in held.texts}
    ways = {RAW: raw, many: best_raw, BASE: base, **first, OURS: ours,
            f"best of {held.seeds} seeds, {OURS}": best_ours}
    compared = [(RAW, "same renders", ours, raw), (BASE, "same renders", ours, base),
                *((kind, "same renders", ours, columns) for kind, columns in first.items()),
                (many, f"equal renders: best of {held.seeds} on both sides", best_ours, best_raw),
                (many, f"which takes {held.seeds} times the renders", ours, best_raw)]
    rewards = list(raw)
    return {
        "prompts": len(held.prompts), "seeds": held.seeds, "rewards": rewards,
        "unscored": int(sum((~each.isfinite()).any(-1).sum() for each in held.scores.values())),
        "rows": {name: {reward: told(known_mean_of(column)) for reward, column in columns.items()}
                 for name, columns in ways.items()},
        "gains": [{"over": over, "renders": how, "rewards": {
            reward: {"gain": told(gain), "word": verdict_on(gain)}
            for reward in rewards for gain in [gain_of(after[reward], before[reward])]}}
            for over, how, after, before in compared],
        "texts": {kind: text_figures(held, kind, gate) for kind in held.texts}}


def known_mean_of(column: np.ndarray) -> Estimate | None:
    known = column[np.isfinite(column)]
    return mean_with_interval(known) if len(known) else None


def told(estimate: Estimate | None) -> list[float | None] | None:
    """As JSON, which has no infinity."""
    return None if estimate is None else [float(bound) if np.isfinite(bound) else None for bound in estimate]


def text_figures(held: HeldOutRenders, kind: str, gate: Gate) -> dict[str, Any]:
    """Of one kind of text: mean words, meaning kept (cosine with the user's prompt, of what was used), fallbacks by
    reason, and diversity within a prompt with its change against the user's prompts."""
    rewritten = held.texts[kind]
    similar = gate.similarities([(each.prompt, each.used) for each in rewritten])
    figures = {"words": told(mean_with_interval([len(words_in(each.used)) for each in rewritten])),
               "similarity": told(mean_with_interval(similar)), "fallbacks": fallbacks(rewritten),
               "fell_back": sum(each.refused is not None for each in rewritten)}
    if held.features:
        kinds = {name: diversity.per_prompt(held.features[name])["extra"].numpy() for name in (RAW, kind)}
        figures["diversity"] = told(mean_with_interval(kinds[kind]))
        figures["diversity_change"] = told(relative_change(kinds[RAW], kinds[kind]))
    return figures


def held_out_rows(held: HeldOutRenders) -> list[dict]:
    """One row a prompt and kind of text, as the run keeps them."""
    return [each._asdict() | {"kind": kind, "scores": {
        name: [None if value != value else value for value in held.scores[kind][i, :, d].tolist()]
        for d, name in enumerate(held.names)}} for kind, texts in held.texts.items() for i, each in enumerate(texts)]

