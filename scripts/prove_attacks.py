"""Does a reward that learns what attacks found gain less to the next attack, at equal held-out accuracy?

    python scripts/prove_attacks.py --out build/attacks             on tiny-reward's quality: half an hour on one core
    python scripts/prove_attacks.py --out build/attacks --table     the table of what is there

The embedded tiny-reward is attacked on annotations made as those that it learnt from (scripts/build_reward_data.py). It
then goes on with them alone, and with the turned pairs beside them, for as many steps; each of the three is attacked
and measured on the same held-out annotations, of drawings that none of them saw. A further round attacks what the last
one gave and adds its pairs. What is finished is not repeated.
"""

import argparse
import json
from pathlib import Path

import pyarrow.parquet as pq
from build_reward_data import Drawings, build

from visalign.config import RewardConfig
from visalign.config.load import parse_config
from visalign.data.annotations import read_annotations
from visalign.jobs.reward_attack import Bounds, attack_reward
from visalign.jobs.reward_eval import evaluate_reward
from visalign.jobs.reward_train import train_reward

REWARD, DIMENSION = "tiny-reward", "quality"
DIMENSIONS = ("alignment", "quality", "motion")
TABLES = {"train": (1200, 11), "held_out": (500, 12)}
"""Annotations of images, and the seed that they are drawn with."""
KINDS = ("false high", "false low")


def table_of(split: str, out: Path) -> Path:
    file = out / f"{split}.parquet"
    if not file.is_file():
        count, seed = TABLES[split]
        pq.write_table(build(Drawings(split), count, 0.0, seed), file)
    return file


def turned(reward: str, name: str, split: str, args) -> Path:
    """The folder of an attack on a reward."""
    folder = args.out / f"attack-{name}-{split}"
    if not (folder / "attack.json").is_file():
        file = table_of(split, args.out)
        attack_reward(reward, read_annotations(str(file), DIMENSIONS), DIMENSION, str(file), folder,
                      bounds=Bounds(steps=args.attack_steps), most=args.pairs if split == "train" else args.held_pairs)
    return folder


def retrained(start: str, name: str, sources: list[Path], args) -> str:
    """The folder of a reward that goes on from `start` with these sources."""
    folder = args.out / name
    if not (folder / "reward" / "reward.json").is_file():
        train_reward(parse_config({
            "model": {"source": start}, "data": {"path": [str(file) for file in sources], "holdout": 0.0},
            "objective": {"name": "preference", "ties": "rao_kupper", "k": 3, "label_smoothing": 0.02},
            "optim": {"lr": args.lr, "schedule": "cosine", "warmup_steps": 10},
            "train": {"steps": args.steps, "batch_size": args.batch_size, "backbone_lr_scale": 0.3, "device": "cpu",
                      "seed": args.seed},
            "output": {"folder": str(folder), "trackers": [], "checkpoint_every": args.steps}}, kind=RewardConfig))
    return str(folder)


def measured(reward: str, name: str, args) -> dict:
    """Held-out accuracy, and what an attack does."""
    attack = json.loads((turned(reward, name, "held_out", args) / "attack.json").read_text())
    folder = args.out / f"eval-{name}"
    if not (folder / "eval.json").is_file():
        evaluate_reward(reward, read_annotations(str(table_of("held_out", args.out)), DIMENSIONS), folder, edits=False)
    report = json.loads((folder / "eval.json").read_text())["dimensions"]
    return {"accuracy": {each: report[each]["overall"]["accuracy"] for each in ("quality", "alignment")},
            "kinds": attack["kinds"], "tried": attack["tried"]}


def rewards_of(args) -> dict[str, str]:
    """Every reward by its name in the table, made where it is not there yet."""
    found, train, pairs = {"before": REWARD}, table_of("train", args.out), []
    found["data alone"] = retrained(REWARD, "alone", [train], args)
    now, name = REWARD, "before"
    for number in range(1, args.rounds + 1):
        pairs.append(turned(now, name, "train", args) / "pairs.parquet")
        now = retrained(REWARD, f"round-{number}", [train, *pairs], args)
        name = f"attacked {number}"
        found[name] = now
    return found


def interval(found: dict | list, percent: bool = False) -> str:
    value, low, high = found.values() if isinstance(found, dict) else found
    return f"{100 * value:.0f} % [{100 * low:.0f}, {100 * high:.0f}]" if percent else \
        f"{value:+.2f} [{low:+.2f}, {high:+.2f}]"


def markdown(found: dict[str, dict]) -> str:
    lines = ["| reward | quality | alignment | " + " | ".join(f"{kind}s | gain" for kind in KINDS) + " |",
             "|---" * 7 + "|"]
    for name, each in found.items():
        accuracy = [f"{value:.3f} [{low:.3f}, {high:.3f}]" for value, low, high in each["accuracy"].values()]
        attacks = [text for kind in KINDS for text in (interval(each["kinds"][kind]["success"], True),
                                                       interval(each["kinds"][kind]["gain"]))]
        lines.append(" | ".join([f"| {name}", *accuracy, *attacks]) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=160, help="training pairs attacked in a round, on both sides")
    parser.add_argument("--held-pairs", type=int, default=48)
    parser.add_argument("--attack-steps", type=int, default=20)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", action="store_true", help="measure nothing that is not there")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if not args.table:
        found = {name: measured(reward, name.replace(" ", "-"), args) for name, reward in rewards_of(args).items()}
        (args.out / "attacks.json").write_text(json.dumps(found, indent=2) + "\n")
    print(markdown(json.loads((args.out / "attacks.json").read_text())))


if __name__ == "__main__":
    main()
