"""Does a policy that is paid by the least served of two found groups leave the smaller one behind? Beside one reward
for all, and the mean of the groups'.

    python scripts/prove_groups.py --out groups                    three seeds (about half an hour on one core)
    python scripts/prove_groups.py --out groups --table            only finished runs

Planted voters: four people prefer the bright one of two drawings and one the dark one. A reward learns from their
votes, of all alike or by groups (model.groups), and a generator learns from the reward, in the same number of epochs. A
group wins where a sample of the trained model is more to its taste, by the planted rule, than the untrained model's of
the same prompt and seed: in half of the cases, if nothing were learnt. Intervals are a bootstrap over held-out prompts
of the mean over training seeds. Finished runs are not repeated.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from prove_rewards import settings_of as reward_settings
from prove_rewards import table_of
from reward_trials import REWARD_WORLDS
from shared_runs import SharedRuns

from visalign.config.load import parse_config
from visalign.data.prompts import read_prompts
from visalign.evaluators import diversity, mean_with_interval
from visalign.evaluators.statistics import relative_change
from visalign.generators import Generator, load_generator
from visalign.jobs.reward_train import train_reward
from visalign.jobs.training_setup import build_online
from visalign.media.pixels import luma, pixels_of
from visalign.rewards import load_reward
from visalign.sampling.feedback import make_samples
from visalign.storage.run_folder import RunFolder
from visalign.storage.yaml_files import read_mapping
from visalign.trainers.opening import open_accelerator

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
WORLD, EPOCHS, PER_PROMPT, PROMPTS = "minority", 8, 4, slice(0, 64)
WAYS = {"one reward for all": ("control", None), "mean of the groups": ("groups", "advantages"),
        "the least served group": ("groups", "worst")}
"""The reward's way to learn, and how its groups are combined."""


def reward_of(way: str, seed: int, out: Path) -> str:
    """The folder of a trained reward."""
    folder = out / f"reward-{way}-{seed}"
    if not (folder / "reward" / "reward.json").exists():
        world = REWARD_WORLDS[WORLD]
        sources, held_out = world.build(seed)
        files = [table_of(rows, out / f"train-{seed}-{number}.parquet") for number, rows in enumerate(sources)]
        learning = world.control if way == "control" else world.ways[way]
        model = learning.changes.get("model", {}) | {"members": 1}  # of several, groups are not the same
        learning = replace(learning, changes=learning.changes | {"model": model})
        train_reward(reward_settings(learning, world.steps, files, table_of(held_out, out / f"held-{seed}.parquet"),
                                     seed, folder))
    return str(folder / "reward")


def policy_settings(way: str, seed: int, out: Path):
    reward, combine = WAYS[way]
    source = reward_of(reward, seed, out)
    raw = read_mapping(CONFIGS / "online" / "worst_group.yaml", "recipe")
    raw["reward"]["models"] = ([{"kind": "joint", "name": f"group {k}", "source": source, "prototype": k}
                                for k in range(2)] if combine else [{"kind": "joint", "name": "all", "source": source}])
    raw["advantage"] = {"scale": "group_std"} | ({"combine": combine} if combine else {}) | (
        {"rate": raw["advantage"]["rate"]} if combine == "worst" else {})
    raw["train"] |= {"seed": seed, "device": "cpu", "epochs": EPOCHS}
    raw |= {"guard": {"action": "off"}, "eval": {"every": 0},
            "output": {"folder": str(out / f"{way}-{seed}"), "trackers": [], "checkpoint_every": 0}}
    return parse_config(raw)


def measured(generator: Generator) -> dict[str, list]:
    """Brightness of every sample and diversity, by prompt."""
    words = read_prompts("emoji:held_out", 10_000)[PROMPTS]
    samples = make_samples(generator, words, PER_PROMPT, steps=4, seed=1000, guidance_scale=1.0,
                           label="held-out prompts", quiet=True)
    pixels = torch.stack([torch.from_numpy(pixels_of(sample.image).transpose(2, 0, 1).copy()) for sample in samples])
    features = load_reward("tiny-clip").features([sample.image for sample in samples])
    return {"brightness": luma(pixels).flatten(1).mean(1).view(len(words), -1).tolist(),
            "diversity": diversity.distance(features.view(len(words), PER_PROMPT, -1)).tolist()}


def run(way: str, seed: int, out: Path) -> dict:
    config = policy_settings(way, seed, out)
    generator = load_generator(config.model, "cpu")
    trainer, _ = build_online(config, generator, RunFolder(config.output.folder, config), open_accelerator(config))
    trainer.fit()
    with trainer.state.averaged(), generator.measuring(), torch.no_grad():
        return {"way": way, "seed": seed, **measured(generator)}


def runs_of(out: Path) -> SharedRuns:
    return SharedRuns(out, lambda each: (each["way"], each["seed"]))


def table(out: Path) -> str:
    start = json.loads((out / "start.json").read_text())
    runs = runs_of(out).done()
    lines = ["| paid by | the four win, % | the one wins, % | diversity, % | seeds |", "|---|---|---|---|---|"]
    for way in WAYS:
        own = [run for run in runs if run["way"] == way]
        if not own:
            continue
        base = np.asarray(start["brightness"])
        bright = np.mean([(np.asarray(run["brightness"]) > base).mean(1) for run in own], 0)
        dark = np.mean([(np.asarray(run["brightness"]) < base).mean(1) for run in own], 0)
        kept = relative_change(start["diversity"], np.mean([run["diversity"] for run in own], 0))
        cells = [f"{100 * each.value:{sign}.1f} [{100 * each.low:{sign}.1f}, {100 * each.high:{sign}.1f}]"
                 for each, sign in ((mean_with_interval(bright), ""), (mean_with_interval(dark), ""), (kept, "+"))]
        lines.append(f"| {way} | {' | '.join(cells)} | {len(own)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--table", action="store_true", help="only print finished runs")
    args = parser.parse_args()
    if not args.table:
        torch.set_num_threads(1)
        args.out.mkdir(parents=True, exist_ok=True)
        if not (args.out / "start.json").exists():
            start = load_generator(policy_settings("one reward for all", 0, args.out).model, "cpu")
            (args.out / "start.json").write_text(json.dumps(measured(start)))
        keys = [(way, seed) for seed in range(args.seeds) for way in WAYS]
        runs_of(args.out).do(((f"{way} {seed}", (way, seed)) for way, seed in keys), lambda key: run(*key, args.out))
    print(table(args.out))


if __name__ == "__main__":
    main()
