"""How often does a guard that looks again and again err, and how late is it? Simulated from measured diversity.

    python scripts/simulate_looks.py --out looks --measure        sample tiny-sd3 on ten sets of seeds (half an hour)
    python scripts/simulate_looks.py --out looks                  10,000 runs of each kind; table and plot (minutes)

A simulated look takes each prompt's Vendi score less 1 from a set of seeds of the untrained model, times what is left
of it: the same share for all prompts (`fades`), or nothing for some and everything for the others (`drops out`).
A run without harm has lost exactly the budget of 15 % at every look, where a false alarm is likeliest. Rules:

    one look            a 95 % interval at every look, as if it were the only one
    even, late          5 % over all looks, spent alike or as O'Brien and Fleming do (visalign/evaluators/looks.py)
    even, a third       as even, of what diversity has where held-out rewards and style share it: the guard's rule
    even, added up      as even, and the means over the last 2 and 4 looks are tested as well, each at a third
    even, by betting    as even, with bets on bounded differences in place of Student's interval (Waudby-Smith and
                        Ramdas 2023, arXiv 2010.09686): no assumption but the bounds
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.stats as st
from matplotlib.figure import Figure
from prove_plots import BLUE, GREY, ORANGE, tidy

from visalign.evaluators.looks import ERROR, error_of_look
from visalign.evaluators.verdict import KINDS_OF_EVIDENCE

BUDGET, SETS, PROMPTS, SEEDS = 0.15, 10, 96, 4
AT_ONCE = 250
START = Path(__file__).resolve().parents[1] / "docs" / "measured" / "guard" / "start.json"


def measure(out: Path) -> None:
    """Vendi scores less 1 of held-out prompts, by set of seeds."""
    from visalign.config import ModelSettings
    from visalign.data.prompts import read_prompts
    from visalign.evaluators import diversity
    from visalign.generators import load_generator
    from visalign.rewards import load_reward
    from visalign.sampling.feedback import make_samples

    generator, clip = load_generator(ModelSettings(source="tiny-sd3", prompt_tokens=8), "cpu"), load_reward("tiny-clip")
    prompts, found = read_prompts("emoji:held_out", PROMPTS), []
    for number in range(SETS):
        samples = make_samples(generator, prompts, SEEDS, steps=4, guidance_scale=1.0, seed=9000 + number,
                               label=f"seeds {number + 1} of {SETS}")
        features = clip.features([sample.image for sample in samples]).view(len(prompts), SEEDS, -1)
        found.append([float(f"{each:.4g}") for each in diversity.per_prompt(features)["extra"]])
    (out / "start.json").write_text(json.dumps({"prompts": prompts, "extra": found}))


class World:
    """Runs of `looks` looks at `prompts` prompts, from measured diversity [sets, prompts]."""

    def __init__(self, measured: np.ndarray, prompts: int, start_sets: int, seed: int = 0):
        self.measured, self.prompts, self.start_sets = measured, prompts, start_sets
        self.rng = np.random.default_rng(seed)

    def draw(self, runs: int, lost: np.ndarray, drops_out: bool) -> np.ndarray:
        """after - (1 - budget) before, [runs, looks, prompts]; lost [looks]: the share of diversity that is gone."""
        sets, known = self.measured.shape
        which = self.rng.integers(0, known, (runs, self.prompts))
        start = np.mean([self._values(which) for _ in range(self.start_sets)], 0)
        after = np.stack([self._values(which) for _ in lost], 1)
        if drops_out:
            left = (self.rng.random((runs, 1, self.prompts)) >= lost[None, :, None]).astype(np.float64)
        else:
            left = 1 - lost[None, :, None]
        return after * left - (1 - BUDGET) * start[:, None, :]

    def _values(self, which: np.ndarray) -> np.ndarray:
        return self.measured[self.rng.integers(0, len(self.measured), which.shape), which]


def t_of(x: np.ndarray) -> np.ndarray:
    """Student's t of the mean over prompts, [runs, looks]."""
    return x.mean(-1) / (x.std(-1, ddof=1) / x.shape[-1] ** 0.5)


def errors(looks: int, shape: str) -> np.ndarray:
    """What each look may spend on one side."""
    return np.array([error_of_look(k, looks, shape=shape) / 2 for k in range(1, looks + 1)])


def below(x: np.ndarray, error: np.ndarray | float) -> np.ndarray:
    return t_of(x) < st.t.ppf(error, x.shape[-1] - 1)


def added_up(x: np.ndarray) -> np.ndarray:
    error, found = errors(x.shape[1], "even") / 3, np.zeros(x.shape[:2], bool)
    total = np.cumsum(np.concatenate([np.zeros_like(x[:, :1]), x], 1), 1)
    for window in (1, 2, 4):
        found[:, window - 1:] |= below((total[:, window:] - total[:, :-window]) / window, error[window - 1:])
    return found


def by_betting(x: np.ndarray) -> np.ndarray:
    """Whether the wealth of bets on a mean below 0 reaches 1 / error; each bet knows the prompts before it."""
    most, wealth = float(SEEDS - 1), np.zeros(x.shape[:2])
    total, squares = np.zeros(x.shape[:2]), np.full(x.shape[:2], 0.25)
    for count in range(x.shape[-1]):
        value, mean = x[:, :, count], total / (count + 1)
        bet = np.clip(-mean / (squares / (count + 1)), 0, 0.5 / most)
        wealth += np.log1p(-bet * value)
        total, squares = total + value, squares + value**2
    return wealth >= -np.log(errors(x.shape[1], "even"))


RULES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "one look": lambda x: below(x, ERROR / 2),
    "even": lambda x: below(x, errors(x.shape[1], "even")),
    "even, a third": lambda x: below(x, errors(x.shape[1], "even") / KINDS_OF_EVIDENCE),
    "late": lambda x: below(x, errors(x.shape[1], "late")),
    "even, added up": added_up,
    "even, by betting": by_betting,
}
HARMS = {"fades": False, "drops out": True}


def alarms(world: World, rule: str, runs: int, lost: np.ndarray, drops_out: bool) -> np.ndarray:
    """The first look that alarms, of each run; len(lost) where none does."""
    found = []
    for _ in range(runs // AT_ONCE):
        hit = RULES[rule](world.draw(AT_ONCE, lost, drops_out))
        found.append(np.where(hit.any(1), hit.argmax(1), len(lost)))
    return np.concatenate(found)


def drifts(looks: int, over: int) -> np.ndarray:
    """Nothing is lost for a quarter of the looks; then all of it, evenly, within `over` looks."""
    return np.clip((np.arange(1, looks + 1) - looks // 4) / over, 0, 1)


def needed(world: World, runs: int, lost: np.ndarray, drops_out: bool) -> int:
    """The first look at which a single interval, that knew when to look, would see the harm in half of the runs."""
    seen = below(world.draw(runs, lost, drops_out), ERROR / 2).mean(0)
    return int((seen >= 0.5).argmax())


def simulate(measured: np.ndarray, runs: int) -> list[dict]:
    rows = []
    for start_sets in (1, 4):
        for name, drops_out in HARMS.items():
            for looks, over in ((20, 40), (100, 100)):
                for rule in RULES:
                    world = World(measured, 64, start_sets)
                    false = (alarms(world, rule, runs, np.full(looks, BUDGET), drops_out) < looks).mean()
                    lost = drifts(looks, over)
                    first, passed = alarms(world, rule, max(AT_ONCE, runs // 10), lost, drops_out), int(
                        (lost > BUDGET).argmax())
                    gone = np.append(lost, np.nan)[first]
                    known = needed(world, AT_ONCE, lost, drops_out)
                    rows.append({"start_sets": start_sets, "harm": name, "looks": looks, "over": over, "rule": rule,
                                 "false": float(false), "runs": runs, "gone": gone.tolist(),
                                 "missed": float(np.isnan(gone).mean()),
                                 "delay": float(np.median(first) - passed), "known": float(known - passed)})
                    print(rows[-1] | {"gone": float(np.nanmedian(gone))}, flush=True)
    return rows


def table(rows: list[dict]) -> str:
    lines = ["| start | harm | looks | rule | false alarms, % | gone at the alarm, median and 95 %, % | missed, % "
             "| delay, looks | one look that knew when |", "|" + "---|" * 9]
    for row in rows:
        count = round(row["false"] * row["runs"])
        low, high = st.binomtest(count, row["runs"]).proportion_ci(method="wilson")
        gone = np.array(row["gone"])
        reach = "" if np.isnan(gone).all() else f"{100 * np.nanmedian(gone):.0f}, {100 * np.nanquantile(gone, .95):.0f}"
        lines.append(f"| {row['start_sets']} x 4 seeds | {row['harm']} | {row['looks']} | {row['rule']} | "
                     f"{100 * row['false']:.1f} [{100 * low:.1f}, {100 * high:.1f}] | {reach} | "
                     f"{100 * row['missed']:.0f} | {row['delay']:.0f} | {row['known']:.0f} |")
    return "\n".join(lines)


def draw(rows: list[dict], out: Path) -> None:
    """looks.png: of each rule in runs of 100 looks, how often it errs, and what is gone when it stops a run."""
    figure = Figure(figsize=(8.4, 3.0), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    rules = list(reversed(RULES))
    figures = [(axes[0], lambda row: 100 * row["false"], 100 * ERROR, "healthy runs stopped, % (dashed: 5)"),
               (axes[1], lambda row: 100 * float(np.nanmedian(row["gone"])), 100 * BUDGET,
                "diversity gone at the alarm, % (dashed: budget)")]
    for axis, of, mark, words in figures:
        for row in (row for row in rows if row["looks"] == 100):
            finer, fades = row["start_sets"] > 1, row["harm"] == "fades"
            colour = BLUE if finer else ORANGE
            axis.plot(of(row), rules.index(row["rule"]) + (0.14 if finer else -0.14), "o", color=colour, markersize=6,
                      markerfacecolor=colour if fades else "white")
        axis.axvline(mark, color=GREY, linewidth=0.8, linestyle="--")
        axis.set_yticks(range(len(rules)), rules)
        axis.set_ylim(-0.6, len(rules) - 0.4)
        tidy(axis, words, "")
    for colour, face, label in ((ORANGE, ORANGE, "start on 4 seeds, fades"), (ORANGE, "white", "drops out"),
                                (BLUE, BLUE, "start on 16 seeds, fades"), (BLUE, "white", "drops out")):
        axes[0].plot([], [], "o", color=colour, markerfacecolor=face, label=label)
    axes[0].legend(frameon=False, fontsize=8, loc="center right")
    figure.savefig(out / "looks.png", dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--measure", action="store_true", help="sample first, and stop then")
    parser.add_argument("--start", type=Path, default=START, help="what --measure wrote (default: the kept one)")
    parser.add_argument("--runs", type=int, default=10_000)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.measure:
        measure(args.out)
        return
    rows = simulate(np.array(json.loads(args.start.read_text())["extra"]), args.runs)
    (args.out / "looks.json").write_text(json.dumps([row | {"gone": None} for row in rows]))
    print(table(rows))
    draw(rows, args.out)


if __name__ == "__main__":
    main()
