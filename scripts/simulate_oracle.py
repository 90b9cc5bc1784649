"""How often does an interval of a mean label hold, and whose? Simulated studies with a reward that saturates.

    python scripts/simulate_oracle.py --out oracle        1,000 studies of each kind; table and plot (minutes)

A study has 100 prompts x 4 samples. A sample's quality is normal, of its prompt and its own; the reward is its tanh
with noise, so that high up it hardly tells samples apart; the oracle says yes with a probability that rises on.
Labelled is a random part of the samples measured (`same`), or of those of a model that is worse by 0.2 (`worse`).
Or votes (`votes`) are given between samples of a model that is better by 0.2 and the base's of the same prompt, whose
differences of quality say who wins; the level is the share won. The model was trained on the reward, which gives it 0.3
more for nothing. Intervals of 95 %:

    calibrated          visalign/evaluators/calibration.py: prompts and labels count
    curve for certain   the same mean, with the interval over prompts alone
    the reward's own    the mean score, moved into [0, 1], as if it were the label; the share of larger scores
    labels alone        the mean of the labels or votes, with the interval over their prompts
"""

import argparse
import json
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from prove_plots import BLUE, GREY, ORANGE, tidy

from visalign.evaluators.calibration import (
    InvertedReward,
    OutsideLabels,
    RewardCalibration,
    part_of_mean,
    t_interval,
)

PROMPTS, SAMPLES, LABELS = 100, 4, (25, 50, 100, 200)
BETTER = {"same": 0.0, "worse": 0.2, "votes": 0.2}
"""By how much the model measured is better: than the one labelled, or than the base."""
BONUS = 0.3
"""What the reward gives the model that votes are about, in vain."""
INTERVALS = ("calibrated", "curve for certain", "the reward's own", "labels alone")
SHIFTS = (-0.6, -0.3, 0.0, 0.3, 0.6)
"""Of the five models whose ranking is looked at."""


def draw_samples(rng: np.random.Generator, shift: float, of_prompt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Quality and scores in about [-1, 1] of a model's samples, [prompts, samples]; of_prompt [prompts, 1]."""
    quality = shift + 0.6 * of_prompt + 0.8 * rng.normal(size=(PROMPTS, SAMPLES))
    return quality, np.tanh(1.5 * quality + 1) + 0.15 * rng.normal(size=quality.shape)


def yes(rng: np.random.Generator, quality: np.ndarray) -> np.ndarray:
    """What the oracle says, 1 or 0."""
    return (rng.random(quality.shape) < 1 / (1 + np.exp(-2 * quality))).astype(float)


def labelled_samples(rng: np.random.Generator, shift: float) -> tuple[np.ndarray, np.ndarray]:
    """Scores and labels of a model's samples, [prompts x samples]."""
    quality, scores = draw_samples(rng, shift, rng.normal(size=(PROMPTS, 1)))
    return scores.ravel(), yes(rng, quality).ravel()


def true_mean(shift: float, deviation: float = 1.0) -> float:
    """E sigmoid(2 (shift + deviation z)), z standard normal; of a sample 0.6^2 + 0.8^2 = 1."""
    z = np.linspace(-8, 8, 20001)
    weight = np.exp(-z ** 2 / 2)
    return float((weight / (1 + np.exp(-2 * (shift + deviation * z)))).sum() / weight.sum())


def truth_of(kind: str) -> float:
    """What the intervals are to hold; the difference of two samples of a prompt has the variance 2 x 0.8^2."""
    return true_mean(BETTER[kind], 0.8 * 2 ** 0.5 if kind == "votes" else 1.0)


def study(seed: int, labels: int, kind: str) -> dict[str, list[float]] | None:
    """The four intervals of one study, as value, low and high; None where no level is claimed."""
    rng, prompts = np.random.default_rng(seed), np.repeat(np.arange(PROMPTS), SAMPLES)
    if kind == "votes":
        of_prompt = rng.normal(size=(PROMPTS, 1))
        (quality, scores), (base, base_scores) = (draw_samples(rng, shift, of_prompt) for shift in (BETTER[kind], 0.0))
        scores, said = (scores + BONUS - base_scores).ravel(), yes(rng, quality - base).ravel()
        own = (scores > 0).astype(float)
    else:
        scores, said = labelled_samples(rng, BETTER[kind])
        own = (scores + 1) / 2
    known, labelled, theirs = scores, said, prompts
    if kind == "worse":
        (known, labelled), theirs = labelled_samples(rng, 0.0), prompts + PROMPTS
    rows = rng.choice(len(known), labels, replace=False)
    try:
        found = RewardCalibration(known[rows], labelled[rows], theirs[rows]).mean(scores, prompts)
    except (OutsideLabels, InvertedReward):
        return None
    told = (found.estimate, t_interval(found.estimate.value, [(found.sampling ** 2, PROMPTS - 1.0)]),
            t_interval(float(own.mean()), [part_of_mean(own, prompts)]),
            t_interval(float(labelled[rows].mean()), [part_of_mean(labelled[rows], theirs[rows])]))
    return {name: list(each) for name, each in zip(INTERVALS, told, strict=True)}


def coverage(studies: int, labels: int, kind: str) -> dict:
    """Of the studies that claim a level, how often each interval holds the true mean, and how wide it is."""
    truth, found = truth_of(kind), [study(seed, labels, kind) for seed in range(studies)]
    kept = [each for each in found if each]
    return {"labelled": kind, "labels": labels, "claimed": len(kept), "studies": studies, "intervals": {
        name: {"held": float(np.mean([each[name][1] <= truth <= each[name][2] for each in kept])),
               "width": float(np.mean([each[name][2] - each[name][1] for each in kept]))}
        for name in INTERVALS} if kept else {}}


def ranked(studies: int, labels: int) -> float:
    """Of five models' pairs, the share that few labels among them all order as all labels do."""
    right = []
    for seed in range(studies):
        rng = np.random.default_rng(seed)
        drawn = [labelled_samples(rng, shift) for shift in SHIFTS]
        prompts = np.repeat(np.arange(PROMPTS), SAMPLES)
        rows = [rng.choice(len(prompts), labels // len(SHIFTS), replace=False) for _ in SHIFTS]
        pooled = (np.concatenate([each[part][row] for each, row in zip(drawn, rows, strict=True)]) for part in (0, 1))
        known = RewardCalibration(*pooled, np.concatenate([prompts[row] for row in rows]))
        means = [float(known.curve(scores[:, None]).mean()) for scores, _ in drawn]
        every = [float(said.mean()) for _, said in drawn]
        right += [(means[i] < means[j]) == (every[i] < every[j]) for i in range(len(means)) for j in range(i)]
    return float(np.mean(right))


def simulate(studies: int) -> list[dict]:
    rows = [coverage(studies, labels, kind) for kind in BETTER for labels in LABELS]
    order = {labels: ranked(studies, labels) for labels in LABELS}
    return [row | {"ranked": order[row["labels"]]} for row in rows]


def table(rows: list[dict]) -> str:
    lines = [f"| labelled | labels | level claimed, % | {' | '.join(INTERVALS)} | pairs of five models in order, % |",
             "|" + "---|" * (4 + len(INTERVALS))]
    for row in rows:
        held = [f"{100 * each['held']:.0f} % ({each['width']:.2f})" for each in row["intervals"].values()]
        lines.append(f"| {row['labelled']} | {row['labels']} | {100 * row['claimed'] / row['studies']:.0f} | "
                     f"{' | '.join(held)} | {100 * row['ranked']:.0f} |")
    return "\n".join(lines)


def draw(rows: list[dict], out: Path) -> None:
    """oracle.png: how often each interval holds, by the number of labels."""
    figure = Figure(figsize=(10.4, 3.0), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    styles = {"calibrated": (BLUE, "o-"), "curve for certain": (ORANGE, "s-"), "the reward's own": (GREY, "^-"),
              "labels alone": (BLUE, "o:")}
    titles = {"same": "labels of the samples measured", "worse": "labels of a worse model's samples",
              "votes": "votes against the base"}
    for axis, labelled in zip(axes, BETTER, strict=True):
        mine = [row for row in rows if row["labelled"] == labelled and row["intervals"]]
        axis.axhline(95, color=GREY, linewidth=0.8, linestyle="--")
        for name, (colour, style) in styles.items():
            axis.plot([row["labels"] for row in mine], [100 * row["intervals"][name]["held"] for row in mine], style,
                      color=colour, label=name, markersize=5)
        axis.set_xscale("log", base=2)
        axis.set_xticks(LABELS, LABELS)
        axis.set_ylim(-3, 103)
        tidy(axis, titles[labelled], "votes" if labelled == "votes" else "labels",
             "intervals that hold, %" if labelled == "same" else "")
    axes[0].legend(frameon=False, fontsize=8, loc="center right", bbox_to_anchor=(1.0, 0.28))
    figure.savefig(out / "oracle.png", dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--studies", type=int, default=1000)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rows = simulate(args.studies)
    (args.out / "oracle.json").write_text(json.dumps(rows, indent=1))
    print(table(rows))
    draw(rows, args.out)


if __name__ == "__main__":
    main()
