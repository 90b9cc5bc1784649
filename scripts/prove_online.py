"""Do the online methods learn? Held-out rewards before and after, for each method, reward and seed, on tiny-sd3.

    python scripts/prove_online.py --out proof                    every method, 3 rewards, 3 seeds (hours on 2 cores);
                                                                  started several times, the processes share the runs
    python scripts/prove_online.py --out proof --methods groups,ratios --rewards colourfulness
    python scripts/prove_online.py --out proof --table            table and plots of the finished runs

Each run is a recipe of configs/online/ with the reward replaced, from the same start. Its reward, within-prompt
diversity and a reward it was not trained on are measured on the same held-out prompts and seeds as the untrained
model's. The interval of a row is a bootstrap over prompts of the mean change over seeds. Best-of-8 picks among 8
samples of the untrained model. Finished runs are not repeated.
"""

import argparse
import json
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import torch
from filelock import FileLock
from shared_runs import SharedRuns
from torch import Tensor

from visalign.config.load import parse_config
from visalign.data.prompts import read_prompts
from visalign.evaluators import (
    diversity,
    mean_with_interval,
)
from visalign.generators import load_generator
from visalign.jobs.training_setup import build_online
from visalign.media.samples import Sample
from visalign.rewards import finite_scores, load_reward
from visalign.sampling.feedback import make_samples
from visalign.storage.run_folder import RunFolder
from visalign.storage.yaml_files import parse_yaml, read_mapping
from visalign.trainers.opening import open_accelerator

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "online"
METHODS = {name: (name, {}) for name in ("flow_grpo", "flow_grpo_fast", "dance_grpo", "mix_grpo", "grpo_guard",
                                         "flow_dppo", "mc_grpo", "nft", "awm", "raft", "draft")}
ON_FLOW = {"sampler": "flow_sde", "noise_level": 0.7, "steps": 4, "clean_steps": 2, "train_fraction": 1.0,
           "train_choice": "first"}
METHODS |= {name: (name, {"rollout": ON_FLOW}) for name in ("ddpo", "d3po")}  # their recipes are for tiny-sdxl
"""Name: recipe, and what is changed in its sections."""


def group_variant(size: int, extra: int) -> dict:
    """48 x 2, 24 x 4 or 12 x 8 samples that are trained on; MC-GRPO draws one more of each prompt."""
    prompts = 96 // size
    return {"rollout": {"prompts_per_epoch": prompts, "group_size": size + extra,
                        "batch_size": prompts * (size + extra) // 2}, "train": {"batch_size": 48}}


GROUPS = {f"median of {size}+1": ("mc_grpo", group_variant(size, 1)) for size in (2, 4, 8)}
GROUPS |= {f"mean of {size}": ("flow_grpo", group_variant(size, 0) | {
    "objective": {"beta": 0.0}, "advantage": {"scale": "group_std"}}) for size in (2, 4, 8)}
EVERY_STEP = {"rollout": {"steps": 8, "clean_steps": 0, "train_fraction": 0.99, "prompts_per_epoch": 8,
                          "group_size": 8, "batch_size": 16}, "train": {"updates_per_epoch": 4, "batch_size": 16}}
RATIOS = {f"ratios of {name}": (name, EVERY_STEP) for name in ("flow_grpo", "grpo_guard")}
FAMILIES = {"all": METHODS, "groups": GROUPS, "ratios": RATIOS}
VARIANTS = METHODS | GROUPS | RATIOS
REWARDS_PROVED = {"tiny-reward": 8, "colourfulness": 4, "emoji_group": 8}
"""Epochs for each: a rule is learnt faster than a learned reward."""
EVAL = {"prompts": 64, "samples": 4, "steps": 4, "seed": 1000}


def prepare(out: Path) -> None:
    """The untrained model's samples scored by everything."""
    out.mkdir(parents=True, exist_ok=True)
    with FileLock(out / "base.lock"):
        if (out / "base.json").exists():
            return
        generator = load_generator(recipe("flow_grpo", "tiny-reward", 0, {}).model, "cpu")
        held = measured(generator)
        samples = make_samples(generator, read_prompts("emoji:held_out", EVAL["prompts"]), 8, steps=EVAL["steps"],
                               guidance_scale=1.0, seed=2000, label="best of 8")
        best = {reward: scores_of(reward, samples).view(-1, 8).amax(1).tolist() for reward in REWARDS_PROVED}
        (out / "base.json").write_text(json.dumps(held | {"best_of_8": best}))


def scores_of(reward: str, samples: list[Sample]) -> Tensor:
    return finite_scores(load_reward(reward), samples)


def measured(generator) -> dict:
    """Per-prompt means on held-out prompts and fixed seeds: every reward, tiny-clip, and diversity."""
    prompts = read_prompts("emoji:held_out", EVAL["prompts"])
    samples = make_samples(generator, prompts, EVAL["samples"], steps=EVAL["steps"], guidance_scale=1.0,
                           seed=EVAL["seed"], label="held-out samples", quiet=True)
    found = {reward: scores_of(reward, samples).view(len(prompts), -1).mean(1).tolist()
             for reward in (*REWARDS_PROVED, "tiny-clip")}
    features = load_reward("tiny-clip").features([s.image for s in samples])
    return found | {"diversity": diversity.distance(features.view(len(prompts), EVAL["samples"], -1)).tolist()}


def recipe(method: str, reward: str, seed: int, changes: dict, folder: str = "unused"):
    """The recipe of a method with another reward, seed and folder; `changes` go into its sections."""
    name, own = VARIANTS[method]
    raw = read_mapping(CONFIGS / f"{name}.yaml", "recipe")
    raw["model"]["source"] = "tiny-sd3"
    raw["reward"] = {"models": reward}
    raw["output"] = {"folder": folder, "trackers": [], "checkpoint_every": 0, "keep_checkpoints": 1}
    for section in own | changes:
        raw[section] = raw.get(section, {}) | own.get(section, {}) | changes.get(section, {})
    raw["train"] = {"epochs": REWARDS_PROVED[reward]} | changes.get("train", {}) | {
        name: value for name, value in raw["train"].items() if name != "epochs"} | {"seed": seed, "device": "cpu"}
    return parse_config(raw)


def run(method: str, reward: str, seed: int, changes: dict) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        config = recipe(method, reward, seed, changes, folder)
        accelerator = open_accelerator(config)
        generator = load_generator(config.model, "cpu")
        folder = RunFolder(folder, config)
        trainer, _ = build_online(config, generator, folder, accelerator)
        started = time.perf_counter()
        trainer.fit()
        seconds = time.perf_counter() - started
        rows = [row for row in folder.metrics() if row["kind"] == "train"]
        passes = dict(generator.passes)
        with trainer.state.averaged():
            held = measured(generator)
    curve = [row.get("reward") for row in rows]
    tables = [row["by_step"] for row in rows if "by_step" in row]
    return {"method": method, "reward": reward, "seed": seed, "updates": trainer.counts.updates, "passes": passes,
            "seconds": seconds, "curve": curve, "tables": tables, "held_out": held, "changes": changes,
            "epochs": config.train.epochs}


def jobs(args) -> list[tuple[str, str, int]]:
    return [(method, reward, seed) for seed in range(args.seeds) for reward in args.rewards.split(",")
            for family in args.methods.split(",") for method in FAMILIES.get(family, [family])]


def runs_of(out: Path) -> SharedRuns:
    return SharedRuns(out, lambda each: (each["method"], each["reward"], each["seed"]))


def summarise(out: Path) -> list[dict]:
    """One row per method and reward: changes over seeds, per prompt, with intervals."""
    base, groups = json.loads((out / "base.json").read_text()), defaultdict(list)
    for each in runs_of(out).done():
        groups[each["method"], each["reward"]].append(each)
    rows = []
    order = [*VARIANTS]
    for (method, reward), runs in sorted(groups.items(), key=lambda item: (item[0][1], order.index(item[0][0]))):
        def change(name: str, runs=runs):
            after = torch.tensor([each["held_out"][name] for each in runs], dtype=torch.float64).mean(0)
            return mean_with_interval((after - torch.tensor(base[name], dtype=torch.float64)).tolist())

        forward = sum(r["passes"].get("without gradient", 0) + 3 * r["passes"].get("with gradient", 0) for r in runs)
        each = [sum(run["held_out"][reward]) / len(base[reward]) - sum(base[reward]) / len(base[reward])
                for run in sorted(runs, key=lambda run: run["seed"])]
        rows.append({"method": method, "reward": reward, "each": each, "change": change(reward),
                     "before": sum(base[reward]) / len(base[reward]), "diversity": change("diversity"),
                     "tiny_clip": change("tiny-clip"), "updates": runs[0]["updates"],
                     "passes": forward / len(runs), "seconds": sum(r["seconds"] for r in runs) / len(runs)})
    return rows


def overview(out: Path) -> str:
    """One line per method: gain and change of diversity for each reward, and what the longest runs cost."""
    found = {(row["method"], row["reward"]): row for row in summarise(out)}
    lines = ["| method | " + " | ".join(f"{reward} | diversity" for reward in REWARDS_PROVED) + " | passes | seconds |",
             "|---" * (2 * len(REWARDS_PROVED) + 3) + "|"]
    for method in METHODS:
        cells = []
        for reward in REWARDS_PROVED:
            row = found.get((method, reward))
            seeds = "" if row is None or len(row["each"]) == 3 else f" ({len(row['each'])} seed)"
            cells += ["", ""] if row is None else [brief(row["change"]) + seeds, f"{row['diversity'].value:+.3f}"]
        cost = found.get((method, "tiny-reward"))
        ending = ["", ""] if cost is None else [f"{cost['passes'] / 1000:.1f} k", f"{cost['seconds']:.0f}"]
        lines.append(f"| {' | '.join([method, *cells, *ending])} |")
    return "\n".join(lines)


def table(out: Path) -> str:
    base = json.loads((out / "base.json").read_text())
    lines = ["| method | reward | before | change | each seed | diversity | tiny-clip | updates | passes "
             "| passes per unit | seconds |",
             "|---|---|---|---|---|---|---|---|---|---|---|"]
    for reward, values in base["best_of_8"].items():
        change = mean_with_interval([b - a for a, b in zip(base[reward], values, strict=True)])
        before = sum(base[reward]) / len(base[reward])
        lines.append(f"| best of 8 | {reward} | {before:.3f} | {brief(change)} | | | | 0 | | | |")
    for row in (row for row in summarise(out) if row["method"] in METHODS):
        each = ", ".join(f"{value:+.3g}" for value in row["each"])
        lines.append(f"| {row['method']} | {row['reward']} | {row['before']:.3f} | {brief(row['change'])} | {each} | "
                     f"{brief(row['diversity'])} | {brief(row['tiny_clip'])} | {row['updates']} | "
                     f"{row['passes'] / 1000:.1f} k | {per_unit(row)} | {row['seconds']:.0f} |")
    return "\n".join(lines)


def per_unit(row: dict) -> str:
    """Thousands of forward passes (one with gradient counts as three) for a gain of 1 in the reward."""
    return f"{row['passes'] / 1000 / row['change'].value:.3g} k" if row["change"].low > 0 else ""


def brief(estimate) -> str:
    text = f"{estimate.value:+.3f} [{estimate.low:+.3f}, {estimate.high:+.3f}]"
    return f"**{text}**" if estimate.clear_of_zero else text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--methods", default="all", help="names, or all, groups, ratios")
    parser.add_argument("--rewards", default=",".join(REWARDS_PROVED))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="change every recipe")
    parser.add_argument("--table", action="store_true", help="only print finished runs")
    args = parser.parse_args()
    if args.table:
        from prove_plots import draw

        print(f"{overview(args.out)}\n\n{table(args.out)}")
        draw(args.out, runs_of(args.out).done(), summarise(args.out))
        return
    torch.set_num_threads(args.threads)
    prepare(args.out)
    changes: dict = {}
    for each in args.set:
        key, _, value = each.partition("=")
        section, _, name = key.partition(".")
        changes.setdefault(section, {})[name] = parse_yaml(value, f"--set {each}")
    runs_of(args.out).do(((f"{method} {reward} {seed}", (method, reward, seed)) for method, reward, seed in jobs(args)),
                         lambda key: run(*key, changes))


if __name__ == "__main__":
    main()
