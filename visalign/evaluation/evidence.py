"""`evaluate --plan`, `compare --plan`: the prompts, seeds and votes that would show an effect.

What was just measured is the pilot: it tells how far changes differ between prompts, and between seeds of a prompt. An
effect is in standard deviations of the base's single generations, as in verdicts.
"""

import numpy as np
import scipy

from visalign.errors import UserError
from visalign.evaluation.compare import Results
from visalign.evaluators.power import MOST_PROMPTS, Spread, detectable, prompts_needed, spread_of, votes_needed

SEEDS_PLANNED = (1, 2, 4, 8)


def check_plan(effect: float | None, sources: int, seeds: int | None) -> None:
    """Raise UserError where a plan could not be made of what is about to be measured. seeds: None where files decide.
    """
    if effect is None:
        return
    if sources < 2:
        raise UserError("--plan: plans how to tell a model from its base, and there is one model; name a run, or use "
                        "`visalign compare`")
    if seeds == 1:
        raise UserError("--plan: with --samples-per-prompt 1 seeds cannot be told from prompts; give at least 2")


def evidence_in_words(results: Results, effect: float) -> list[str]:
    """A sentence for each model and reward."""
    found = []
    for model in results.verdicts:
        for reward, after in results.measured[model].rewards.items():
            before = results.measured[results.base]
            said = _of_reward((after.double() - before.rewards[reward].double()).numpy(),
                              before.measured.spread[f"reward/{reward}"], effect)
            found.append(f"plan, {model}, {reward}: {said}")
    return found


def _of_reward(differences: np.ndarray, unit: float, effect: float) -> str:
    """differences [P, K]; a prompt with a sample that could not be scored is left out. unit: of effects."""
    known = differences[np.isfinite(differences).all(1)]
    try:
        spread = spread_of(known).scaled(1 / unit if unit > 0 else 1.0)
    except ValueError as error:
        return str(error)
    prompts, seeds = known.shape
    seen, alone = detectable(spread, prompts, seeds), detectable(spread, prompts * seeds, 1)
    return (f"{prompts} prompts x {seeds} seeds show a change of {seen:.2f} standard deviations in four of five cases, "
            f"and as many samples of a prompt each {alone:.2f}; {effect:g} takes {_prompts(spread, effect)}, or "
            f"{_votes(spread, effect)} decided votes of people who prefer as it does")


def _prompts(spread: Spread, effect: float) -> str:
    counts = [(prompts_needed(spread, effect, seeds), seeds) for seeds in SEEDS_PLANNED]
    told = [f"{count:,} prompts x {seeds}" if count else f"more than {MOST_PROMPTS:,} prompts x {seeds}"
            for count, seeds in counts]
    return ", ".join(told[:-1]) + f" or {told[-1]}"


def _votes(spread: Spread, effect: float) -> str:
    """A vote compares two samples of one prompt and seed: it goes to the better one, by what differences show."""
    share = scipy.stats.norm.cdf(effect / max(spread.variance(1), 1e-12) ** 0.5)
    return f"{votes_needed(min(share, 0.999)):,}"
