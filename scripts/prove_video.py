"""Do the methods learn on videos? Held-out motion and alignment before and after, for each recipe and seed, on
tiny-wan.

    python scripts/prove_video.py --out proof-video                      every recipe of configs/video for tiny-wan
    python scripts/prove_video.py --out proof-video --recipes nft,flow_dpo --seeds 2
    python scripts/prove_video.py --out proof-video --table              table and plot of the finished runs

Each run is `visalign train RECIPE`; its own report is in the run's folder. Intervals are bootstraps over held-out
prompts of the mean change over seeds. Most recipes optimise `prompt_motion` and tiny-clip; none optimises tiny-reward.
Diversity is the Vendi score less 1, of looks and motion together; motion diversity is the mean distance of where and
when pixels change. Finished runs are not repeated.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from visalign.config.load import load_config
from visalign.evaluators import mean_with_interval
from visalign.evaluators.statistics import Estimate, relative_change
from visalign.jobs.train import train
from visalign.storage.run_folder import read_metrics

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "video"
RECIPES = ("flow_grpo", "dance_grpo", "grpo_guard", "nft", "flow_dpo", "flow_rwr", "sft")
COLUMNS = {"prompt_motion": "motion of the prompt", "tiny-clip": "alignment", "tiny-reward": "tiny-reward (held out)"}


def run(recipe: str, seed: int, out: Path, overrides: list[str]) -> None:
    """Train one recipe, or continue it."""
    folder = out / f"{recipe}-{seed}"
    config = load_config(CONFIGS / f"{recipe}.yaml", (
        f"train.seed={seed}", "train.device=cpu", "output.trackers=[]", f"output.folder={folder}",
        "output.keep_checkpoints=1", *overrides))
    train(config, resume=(folder / "config.yaml").exists())


def done(out: Path, recipe: str) -> list[Path]:
    return [file.parent for file in sorted(out.glob(f"{recipe}-[0-9]*/report.html"))]


def measured(folder: Path) -> tuple[dict, dict, float]:
    """Per-prompt values before and after, and the seconds it took."""
    rows = [row for row in read_metrics(folder) if row["kind"] == "held_out"]
    return rows[0]["values"], rows[-1]["values"], rows[-1]["seconds_so_far"]


def changes(runs: list[Path]) -> dict[str, Estimate]:
    """Of each metric, the mean over seeds of the change, with its interval over prompts."""
    sides = [measured(folder)[:2] for folder in runs]

    def mean(metric: str, side: int) -> np.ndarray:
        return np.mean([pair[side][metric] for pair in sides], 0)

    names = [f"reward/{name}" for name in COLUMNS] + ["diversity/motion"]
    found = {name: mean_with_interval(mean(name, 1) - mean(name, 0)) for name in names}
    found["diversity/extra"] = relative_change(mean("diversity/extra", 0), mean("diversity/extra", 1))
    return found


def table(out: Path) -> str:
    lines = ["| recipe | seeds | " + " | ".join(COLUMNS.values()) + " | diversity | motion diversity | seconds |",
             "|---" * (len(COLUMNS) + 5) + "|"]
    for recipe in RECIPES:
        runs = done(out, recipe)
        if not runs:
            continue
        found = changes(runs)
        cells = [brief(found[f"reward/{name}"]) for name in COLUMNS]
        diversity = found["diversity/extra"].scaled(100)
        cells.append(f"{diversity.value:+.0f} % [{diversity.low:+.0f}, {diversity.high:+.0f}]")
        cells.append(brief(found["diversity/motion"]))
        seconds = np.mean([measured(folder)[2] for folder in runs])
        lines.append(f"| {recipe} | {len(runs)} | {' | '.join(cells)} | {seconds:.0f} |")
    return "\n".join(lines)


def brief(estimate: Estimate) -> str:
    text = f"{estimate.value:+.3f} [{estimate.low:+.3f}, {estimate.high:+.3f}]"
    return f"**{text}**" if estimate.clear_of_zero else text


def draw(out: Path, file: Path) -> None:
    """Changes with intervals, one row a recipe."""
    from matplotlib.figure import Figure

    recipes = [recipe for recipe in RECIPES if done(out, recipe)]
    found = {recipe: changes(done(out, recipe)) for recipe in recipes}
    reward_sets = {**{f"reward/{name}": title for name, title in COLUMNS.items()},
                   "diversity/extra": "diversity, share",
              "diversity/motion": "motion diversity"}
    figure = Figure(figsize=(12, 0.9 + 0.32 * len(recipes)), layout="constrained")
    axes = figure.subplots(1, len(reward_sets), sharey=True)
    for axis, (metric, title) in zip(axes, reward_sets.items(), strict=True):
        for y, recipe in enumerate(reversed(recipes)):
            each = found[recipe][metric]
            colour = "#2f7d5b" if each.low > 0 else "#b4521e" if each.high < 0 else "#777777"
            axis.plot([each.low, each.high], [y, y], color=colour, linewidth=2)
            axis.plot([each.value], [y], "o", color=colour, markersize=5)
        axis.axvline(0, color="#999999", linewidth=0.8)
        axis.set_title(title, fontsize=9)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks(range(len(recipes)), [recipe.replace("_", "-") for recipe in reversed(recipes)])
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--recipes", default=",".join(RECIPES))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change every recipe")
    parser.add_argument("--table", action="store_true", help="only print and draw finished runs")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if not args.table:
        for seed in range(args.seeds):
            for recipe in args.recipes.split(","):
                folder = args.out / f"{recipe}-{seed}"
                if folder not in done(args.out, recipe):
                    run(recipe, seed, args.out, args.set)
                print(json.dumps({"run": str(folder), **{name: brief(each) for name, each in
                                                         changes([folder]).items()}}), flush=True)
    print(table(args.out))
    draw(args.out, args.out / "video.png")


if __name__ == "__main__":
    main()
