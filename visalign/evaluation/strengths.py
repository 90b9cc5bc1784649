"""Which strength to give an aligned model after training: the reward it gains against the diversity it keeps.

    W(s) = W_base + s (W_aligned - W_base),    s = 0: the base, s = 1: as trained

Of the strengths whose loss of diversity lies within a budget, with its whole interval, the one that gains most reward
is chosen. They are looked at from the smallest on, and none beyond the first that leaves the budget counts: then the
error of one interval is that of all of them together, however many are tried (fixed-sequence testing, as in Learn then
Test, Angelopoulos et al. 2021, arXiv 2110.01052).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from visalign.errors import UserError
from visalign.evaluators.verdict import Verdict, best_point, percent
from visalign.validation.ranges import AdapterStrength, allows, intervals, range_in_words

MOST_STRENGTHS = 50
_DIGITS = 4


@dataclass(frozen=True)
class StrengthChoice:
    """strengths: of the run, by model, rising, the base with 0 first. reward: the optimised one. budget: the share of
    diversity that may be lost. best: the model to take, None where no strength is worth it. sentence: the choice in
    words. command: what writes that model, where one does."""

    run: str
    strengths: dict[str, float]
    reward: str
    budget: float
    best: str | None
    sentence: str
    command: str | None = None


def read_strengths(text: str) -> list[float]:
    """`START:STOP:COUNT` as evenly spaced numbers with 0, the base, before them. Raises UserError."""
    where = f"evaluate --strengths {text}"
    try:
        first, last, number = text.split(":")
        start, stop, count = float(first), float(last), int(number)
    except ValueError:
        raise UserError(f"{where}: expected START:STOP:COUNT, such as 0:1.5:7") from None
    if not start < stop or not (allows(AdapterStrength, start) and allows(AdapterStrength, stop)):
        raise UserError(f"{where}: START must be below STOP, and both "
                        f"{range_in_words(next(intervals(AdapterStrength)))}")
    if not 2 <= count <= MOST_STRENGTHS:
        raise UserError(f"{where}: COUNT must be at least 2 and at most {MOST_STRENGTHS}")
    found = [round(start + (stop - start) * i / (count - 1), _DIGITS) for i in range(count)]
    if len(set(found)) < count:
        raise UserError(f"{where}: strengths are told apart by {_DIGITS} decimals; name fewer, or others")
    return found if found[0] == 0 else [0.0, *found]


def strength_name(strength: float) -> str:
    """The model's name in results."""
    return f"strength {strength:g}"


def choose_strength(strengths: Mapping[str, float], verdicts: Mapping[str, Verdict], reward: str,
                    budget: float) -> str | None:
    """The model to take: see above; one that is hacked or collapsed, or gains nothing, is none. None: not any."""
    models = [model for model in sorted(strengths, key=lambda model: strengths[model]) if model in verdicts]
    outside = next((i for i, model in enumerate(models) if not _within(verdicts[model], budget)), len(models))
    points = [(each.rewards[reward].value, each.diversity.value, not each.bad and each.rewards[reward].value > 0)
              for each in (verdicts[model] for model in models[:outside]) if each.diversity is not None]
    if not any(acceptable for *_, acceptable in points):
        return None
    return models[best_point(points)]


def _within(verdict: Verdict, budget: float) -> bool:
    return verdict.diversity is not None and verdict.diversity.low > -budget


def choice_in_words(strengths: Mapping[str, float], verdicts: Mapping[str, Verdict], reward: str, budget: float,
                    best: str | None) -> str:
    """The choice in one sentence."""
    loss = f"the budget of a {100 * budget:g} % loss of diversity"
    if best is None:
        first = min(verdicts, key=lambda model: strengths[model])
        return (f"none of these strengths gains {reward} within {loss}; at the smallest, {strengths[first]:g}, "
                f"{_changes(verdicts[first], reward)}")
    unsure = "" if verdicts[best].rewards[reward].low > 0 else ", a gain that is not clear of 0"
    return (f"strength {strengths[best]:g} gains the most {reward} within {loss}: "
            f"{_changes(verdicts[best], reward)}{unsure}")


def _changes(verdict: Verdict, reward: str) -> str:
    gain = verdict.rewards[reward]
    diversity = "unknown" if verdict.diversity is None else percent(verdict.diversity)
    return (f"{reward} {gain.value:+.2f} standard deviations of the base [{gain.low:+.2f}, {gain.high:+.2f}], "
            f"diversity {diversity}")
