"""Where a reward stops being useful: the values of what was optimised at the peak of a reward that was not.

Over the checkpoints of a run, `--gold` names the reward that tells real gains. At the distance from the base at which
its fitted curve is highest, all others are read off their own curves together: the thresholds with which
`advantage.combine: constrained` holds them there (Moskovitz et al. 2023, arXiv 2310.04373, on rewards found jointly).
"""

import math

import numpy as np

from visalign.evaluation.compare import Results
from visalign.evaluators.overoptimisation import past_peak


def usefulness_points(results: Results, gold: str) -> tuple[float, dict[str, float]] | None:
    """The distance of the peak of `gold`, and the mean that each other reward has there; None where the run did not
    come as far, or is too short to tell."""
    curve = results.curve
    if curve is None or gold not in curve.fits:
        return None
    best = {name: min(fits.values(), key=lambda each: each.error) for name, fits in curve.fits.items()}
    peak = best[gold].peak
    farthest = max(curve.distance)
    if peak is None or peak > farthest or past_peak(best[gold], farthest) == "no":
        return None
    start = {name: float(np.nanmean(results.measured[results.base].measured.values[f"reward/{name}"]))
             for name in best}
    return peak, {name: start[name] + float(fit.at(np.array([peak]))[0]) for name, fit in best.items() if name != gold}


def usefulness_in_words(results: Results, gold: str) -> str:
    """The thresholds as they are typed, or why there are none."""
    found = usefulness_points(results, gold)
    if found is None:
        return (f"{gold} has no peak among these checkpoints, so they say nothing of thresholds: train longer, or keep "
                "more checkpoints")
    peak, values = found
    fit = min(results.curve.fits[gold].values(), key=lambda each: each.error)
    within = "" if not math.isfinite(fit.peak_high) else f" [{fit.peak_low:.3g}, {fit.peak_high:.3g}]"
    typed = ", ".join(f"{name}: {value:.4g}" for name, value in values.items())
    return (f"{gold} is highest at a distance of {peak:.3g}{within}; to hold the others where they are there: "
            f"advantage.combine=constrained 'advantage.thresholds={{{typed}}}'")
