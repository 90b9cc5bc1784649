"""Are close looks better on more seeds of the same prompts or on more prompts? Simulated from measured diversity.

    python scripts/simulate_close_looks.py --runs 10000          a table (a few minutes)

A guard as it comes: due looks at 32 prompts x 4 seeds, of which those that are beyond the budget by the mean and not
clearly are made again at four times as many samples, each such look waiting longer than the one before, by less where
it stayed unsure. The start is known as well as a close look. Harm, from the diversity that tiny-sd3 has
(simulate_looks.py):

    fades        the same share of diversity is lost by all prompts
    uneven       prompts lose it at different speed, log-normal with a deviation of 0.7
    drops out    some prompts lose all of it, the others nothing

A run without harm has lost exactly the budget of 15 % at every look. A harmed one is whole for a quarter of its looks,
and loses 2.5 % more at each one after that, so that 37 % are gone in the end.
"""

import argparse
import json
from dataclasses import dataclass

import numpy as np
import scipy.stats as st
from simulate_looks import BUDGET, START

from visalign.evaluators.verdict import repeated_look, unplanned_look
from visalign.trainers.guard import BETWEEN

PROMPTS, SETS, LOOKS, SPEED, SPREAD = 32, 4, 20, 0.025, 0.7
HARMS = ("fades", "uneven", "drops out")


@dataclass(frozen=True)
class Rule:
    """prompts, seeds: of the start and of close looks, in multiples of a due look's. close: whether there are any."""

    prompts: int
    seeds: int
    close: bool


RULES = {"due looks alone": Rule(1, SETS, False), "close looks on more seeds": Rule(1, SETS, True),
         "close looks on more prompts": Rule(SETS, 1, True)}


class Runs:
    """Simulated runs: which prompts each has, how each prompt loses, and what the start was measured as."""

    def __init__(self, measured: np.ndarray, rule: Rule, harm: str, runs: int, rng: np.random.Generator):
        self.measured, self.rule, self.harm, self.rng = measured, rule, harm, rng
        self.which = rng.integers(0, measured.shape[1], (runs, PROMPTS * rule.prompts))
        self.luck = rng.random(self.which.shape)
        self.speed = np.exp(rng.normal(0, SPREAD, self.which.shape) - SPREAD**2 / 2)
        self.start = self._seen(rule.seeds)

    def _seen(self, sets: int) -> np.ndarray:
        """Diversity of each prompt, the mean over sets of seeds."""
        shape = (sets, *self.which.shape)
        return self.measured[self.rng.integers(0, len(self.measured), shape), self.which].mean(0)

    def left(self, lost: float) -> np.ndarray:
        return {"fades": np.full_like(self.luck, 1 - lost), "drops out": (self.luck >= lost).astype(float),
                "uneven": np.clip(1 - lost * self.speed, 0, None)}[self.harm]

    def beyond(self, lost: float, close: bool) -> np.ndarray:
        """after - (1 - budget) before, of the prompts that a look has."""
        found = self._seen(self.rule.seeds if close else 1) * self.left(lost) - (1 - BUDGET) * self.start
        return found if close else found[:, :PROMPTS]


def clear(x: np.ndarray, error: float) -> np.ndarray:
    t = x.mean(-1) / (x.std(-1, ddof=1) / x.shape[-1] ** 0.5)
    return t < st.t.ppf(error / 2, x.shape[-1] - 1)


def alarms(runs: Runs, lost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first look that alarms, of each run, and how many were close; len(lost) where none does."""
    count, looks = len(runs.which), len(lost)
    first, close = np.full(count, looks), np.zeros(count, int)
    last, wait = np.zeros(count), np.zeros(count)
    for k, gone in enumerate(lost):
        seen, going = runs.beyond(gone, False), first == looks
        hit = clear(seen, repeated_look(looks, k + 1, looks * runs.rule.close).error)
        if runs.rule.close:
            again = going & ~hit & (seen.mean(-1) < 0) & (k - last >= wait)
            closely = runs.beyond(gone, True)
            hit |= again & clear(closely, unplanned_look(looks).error)
            close, last = close + again, np.where(again, k, last)
            wait += again * np.where(closely.mean(-1) < 0, BETWEEN, 1)
        first[going & hit] = k
    return first, close


def row(measured: np.ndarray, name: str, harm: str, count: int) -> str:
    rng, rule, at_once = np.random.default_rng(0), RULES[name], 250
    lost = np.clip((np.arange(1, LOOKS + 1) - LOOKS // 4) * SPEED, 0, 1)
    found = {kind: [alarms(Runs(measured, rule, harm, at_once, rng), each) for _ in range(count // at_once)]
             for kind, each in (("false", np.full(LOOKS, BUDGET)), ("true", lost))}
    false = sum(int((first < LOOKS).sum()) for first, _ in found["false"])
    low, high = st.binomtest(false, count).proportion_ci(method="wilson")
    first, close = (np.concatenate(each) for each in zip(*found["true"], strict=True))
    gone = 100 * np.append(lost, np.nan)[first]
    return (f"| {harm} | {name} | {100 * false / count:.1f} [{100 * low:.1f}, {100 * high:.1f}] | "
            f"{100 * np.isnan(gone).mean():.0f} | {np.nanmedian(gone):.0f} | {close.mean():.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    args = parser.parse_args()
    measured = np.array(json.loads(START.read_text())["extra"])
    print("| harm | rule | false alarms, % | missed, % | gone at the alarm, median, % | close looks |")
    print("|---|---|---|---|---|---|")
    for harm in HARMS:
        for name in RULES:
            print(row(measured, name, harm, args.runs), flush=True)


if __name__ == "__main__":
    main()
