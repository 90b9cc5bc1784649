"""What staleness costs: held-out reward after the same epochs, drawn with weights 0, 1, 2 epochs old, on tiny-sd3.

    python scripts/bench/stale_rollouts.py --out stale             three seeds of each, twenty minutes on a quiet core
    python scripts/bench/stale_rollouts.py --out stale --seeds 0   one seed; several of these may run side by side
    python scripts/bench/stale_rollouts.py --out stale --table     the table of the finished runs

Each run is configs/online/flow_grpo.yaml with 48 samples an epoch and a rule as its reward. Its samples are drawn by a
worker in this process: who draws a batch changes no bit of it, only how old the weights are does. Rewards are measured
on the same held-out prompts and seeds before and after; intervals are a bootstrap over prompts of the mean change over
seeds.
"""

import argparse
import contextlib
import json
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from prove_online import brief, recipe, scores_of  # noqa: E402

from visalign.data.prompts import read_prompts  # noqa: E402
from visalign.evaluators import diversity, mean_with_interval  # noqa: E402
from visalign.generators import load_generator  # noqa: E402
from visalign.jobs.training_setup import build_online  # noqa: E402
from visalign.rewards import load_reward  # noqa: E402
from visalign.sampling.feedback import make_samples  # noqa: E402
from visalign.storage.run_folder import RunFolder  # noqa: E402
from visalign.trainers.online.ahead.source import RolloutsAhead  # noqa: E402
from visalign.trainers.online.ahead.worker import RolloutWorker  # noqa: E402
from visalign.trainers.online.sources import SOURCES  # noqa: E402
from visalign.trainers.opening import open_accelerator  # noqa: E402

REWARD, METHOD, PROMPTS, SAMPLES = "colourfulness", "flow_grpo", 64, 2
SHAPE = {"prompts_per_epoch": 4, "group_size": 12, "batch_size": 24}


def measured(generator) -> dict[str, list[float]]:
    """Per-prompt means on held-out prompts and fixed seeds."""
    samples = make_samples(generator, read_prompts("emoji:held_out", PROMPTS), SAMPLES, steps=4, guidance_scale=1.0,
                           seed=1000, label="held-out samples", quiet=True)
    features = load_reward("tiny-clip").features([sample.image for sample in samples])
    return {REWARD: scores_of(REWARD, samples).view(-1, SAMPLES).mean(1).tolist(),
            "diversity": diversity.distance(features.view(-1, SAMPLES, features.shape[-1])).tolist()}


class OneHere:
    """A pool of one worker, in this process."""

    open = contextlib.nullcontext

    def __init__(self, config):
        self.worker = RolloutWorker(config, ".", torch.get_num_threads())
        self.asked, self.weights = [], {}

    def start(self, number):
        self.asked.append((number, self.worker.prepare))

    def publish(self, version, weights):
        self.weights.setdefault(version, weights)

    def forget(self, before):
        self.weights = {version: each for version, each in self.weights.items() if version >= before}

    def send(self, number, request, version):
        content = self.weights[version]
        self.asked.append((number, lambda: self.worker.sample(request, version, lambda: content)))

    def hear(self, seconds):
        asked, self.asked = self.asked, []
        return [(number, work()) for number, work in asked]


def run(staleness: int, clip: float, seed: int, epochs: int) -> dict:
    SOURCES["ray"] = lambda parts: RolloutsAhead(parts, OneHere(parts.config))
    ahead = {"engine": "ray", "staleness": staleness, "ray": {"actors": 1, "replacements": 0}}
    with tempfile.TemporaryDirectory() as folder:
        config = recipe(METHOD, REWARD, seed, {"rollout": SHAPE | ahead, "train": {"epochs": epochs},
                                               "objective": {"clip": clip}}, folder)
        generator, folder = load_generator(config.model, "cpu"), RunFolder(folder, config)
        trainer, _ = build_online(config, generator, folder, open_accelerator(config))
        trainer.fit()
        rows = [row for row in folder.metrics() if row["kind"] == "train"]
        found = measured(generator)
    return {"staleness": staleness, "clip": clip, "seed": seed, "epochs": epochs, "held_out": found,
            "curve": [row["reward"] for row in rows], "clipped": [row["clipped_above"] + row["clipped_below"]
                                                                  for row in rows],
            "ratio_std": [row["ratio_std"] for row in rows]}


def table(out: Path) -> str:
    base, groups = json.loads((out / "base.json").read_text()), defaultdict(list)
    for each in done(out):
        groups[each["clip"], each["staleness"]].append(each)
    lines = ["| staleness | `objective.clip` | seeds | held-out reward, change | difference to 0 | diversity, change | "
             "terms clipped |", "|---|---|---|---|---|---|---|"]

    def mean(runs: list[dict], name: str = REWARD) -> torch.Tensor:
        return torch.tensor([each["held_out"][name] for each in runs], dtype=torch.float64).mean(0)

    def change(runs: list[dict], name: str) -> str:
        return brief(mean_with_interval((mean(runs, name) - torch.tensor(base[name])).tolist()))

    for (clip, staleness), runs in sorted(groups.items()):
        fresh = groups.get((clip, 0))
        less = brief(mean_with_interval((mean(runs) - mean(fresh)).tolist())) if staleness and fresh else ""
        clipped = sum(sum(each["clipped"]) / len(each["clipped"]) for each in runs) / len(runs)
        lines.append(f"| {staleness} | {clip:g} | {len(runs)} | {change(runs, REWARD)} | {less} | "
                     f"{change(runs, 'diversity')} | {clipped:.0%} |")
    return "\n".join(lines)


def done(out: Path) -> list[dict]:
    return [json.loads(line) for file in sorted(out.glob("runs-*.jsonl")) for line in file.read_text().splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--staleness", default="0,1,2")
    parser.add_argument("--clip", type=float, default=1e-3, help="the recipe's own: 0.001")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--table", action="store_true", help="only print finished runs")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if not args.table:
        torch.set_num_threads(1)
        if not (args.out / "base.json").exists():
            generator = load_generator(recipe(METHOD, REWARD, 0, {}).model, "cpu")
            (args.out / "base.json").write_text(json.dumps(measured(generator)))
        known = {(each["staleness"], each["clip"], each["seed"], each["epochs"]) for each in done(args.out)}
        for seed in map(int, args.seeds.split(",")):
            for staleness in map(int, args.staleness.split(",")):
                if (staleness, args.clip, seed, args.epochs) not in known:
                    found = run(staleness, args.clip, seed, args.epochs)
                    with (args.out / f"runs-{seed}.jsonl").open("a") as file:
                        file.write(json.dumps(found) + "\n")
    print(table(args.out))


if __name__ == "__main__":
    main()
