"""Do the methods of language models learn a planted preference, and what does it cost? On SmolLM2, on a CPU.

    python scripts/prove_language.py --out proof-language                     every setting, three seeds (many hours)
    python scripts/prove_language.py --out proof-language --only dpo grpo healthy hacked --seeds 1
    python scripts/prove_language.py --out proof-language --table             table and chart of the finished runs

The preference is planted (short answers: minus the words / 10), so the truth is known. Questions about 24 topics are
trained on, those about 8 others held out, the same seeds before and after. Pairs are made once for each seed, of the
model's own answers, and every method from pairs learns from the same ones; `flipped` turns 30 % of them around. Two
controls must come out as they are named: a tiny learning rate is healthy, or undecided with no change of the reward; a
huge one without a pull to the start is hacked or collapsed. Finished runs are not repeated.
"""

import argparse
import json
import random
import sys
from dataclasses import dataclass
from pathlib import Path

from visalign.config.load import parse_config
from visalign.evaluators import mean_with_interval
from visalign.evaluators.prompt_metrics import paired, prompt_metrics_of
from visalign.language.run import train_language
from visalign.storage.run_folder import read_metrics

FEEDBACK = {"prompts": "topics:train", "max_prompts": 36, "samples_per_prompt": 6, "pairs_per_prompt": 2,
            "reward": "brevity", "max_tokens": 40}
EVALUATION = {"prompts": "topics:held_out", "max_prompts": 24, "samples_per_prompt": 4, "reward": "brevity",
              "also": ["relevance", "repetition"], "features": "minilm", "max_tokens": 40}
FLIPPED = 0.3


@dataclass(frozen=True)
class Trial:
    """objective, and other changes of the recipe; pairs: `own`, or with a share `flipped`; should_be: verdicts that a
    control must have."""

    objective: dict
    changes: dict
    pairs: str | None = "own"
    should_be: tuple[str, ...] = ()


LR = {"optim": {"lr": 2e-4}}
ONLINE = {"rollout": {"prompts": "topics:train", "prompts_per_step": 4, "group_size": 6, "max_tokens": 40},
          "reward": {"models": ["brevity"]}, "advantage": {"baseline": "leave_one_out", "scale": "none"},
          "train": {"steps": 12, "batch_size": 24}, **LR}
TRIALS = {
    "sft": Trial({"name": "sft"}, LR),
    "dpo": Trial({"name": "dpo"}, LR),
    "rpo": Trial({"name": "dpo", "sft_weight": 1.0}, LR),
    "ipo": Trial({"name": "dpo", "link": "ipo"}, LR),
    "hinge": Trial({"name": "dpo", "link": "hinge"}, LR),
    "simpo": Trial({"name": "simpo"}, LR),
    "kto": Trial({"name": "kto"}, LR),
    "power": Trial({"name": "power", "dynamic_labels": 0.1}, LR),
    "soft labels": Trial({"name": "dpo", "soft_labels": 1.0}, LR),
    "dpo, flipped": Trial({"name": "dpo"}, LR, "flipped"),
    "cdpo, flipped": Trial({"name": "dpo", "label_smoothing": FLIPPED}, LR, "flipped"),
    "rdpo, flipped": Trial({"name": "dpo", "flip_rate": FLIPPED}, LR, "flipped"),
    "grpo": Trial({"name": "grpo", "beta": 0.02, "length": "constant"}, ONLINE, None),
    "healthy": Trial({"name": "dpo"}, {"optim": {"lr": 1e-7}}, "own", ("healthy", "undecided")),
    "hacked": Trial({"name": "dpo", "beta": 0.01}, {"optim": {"lr": 1e-3}, "train": {"steps": 90}}, "own",
                    ("hacked", "collapsed")),
}


def recipe(name: str, seed: int, out: Path, model: str, precision: str) -> dict:
    """The settings of a trial, as a recipe's YAML would have them."""
    trial = TRIALS[name]
    settings = {"loop": "language", "objective": trial.objective, "eval": EVALUATION | {"seed": 1000 + seed},
                "model": {"source": model, "lora": {"rank": 16, "alpha": 32}, "precision": precision},
                "train": {"steps": 30, "batch_size": 8, "max_length": 256} | trial.changes.get("train", {}),
                "optim": trial.changes["optim"], "output": {"folder": str(folder_of(name, seed, out)), "trackers": []}}
    settings["train"]["seed"] = seed
    if trial.pairs:
        settings["data"] = {"path": str(pairs_of(seed, out, trial.pairs)), "holdout": 0.1}
    return settings | {key: trial.changes[key] for key in ("rollout", "reward", "advantage") if key in trial.changes}


def folder_of(name: str, seed: int, out: Path) -> Path:
    return out / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}"


def pairs_of(seed: int, out: Path, kind: str) -> Path:
    return out / f"pairs-{kind}-{seed}.jsonl"


def make_pairs_once(seed: int, out: Path, model: str, precision: str) -> None:
    """Pairs of the model's own answers, and the same with a share turned around."""
    own = pairs_of(seed, out, "own")
    if own.exists():
        return
    settings = recipe("dpo", seed, out, model, precision)
    settings |= {"data": {"feedback": FEEDBACK, "holdout": 0.1},
                 "eval": EVALUATION | {"max_prompts": 2, "features": None},
                 "train": settings["train"] | {"steps": 1}}
    settings["output"] = {"folder": str(out / f"pairs-{seed}"), "trackers": []}
    train_language(parse_config(settings))
    rows = [json.loads(line) for line in (out / f"pairs-{seed}" / "pairs.jsonl").read_text().splitlines()]
    rng = random.Random(seed)
    turned = [row | {"chosen": row["rejected"], "rejected": row["chosen"]} if rng.random() < FLIPPED else row
              for row in rows]
    for file, table in ((pairs_of(seed, out, "flipped"), turned), (own, rows)):
        file.write_text("".join(json.dumps(row) + "\n" for row in table))


def run(name: str, seed: int, out: Path, model: str, precision: str) -> None:
    folder = folder_of(name, seed, out)
    if (folder / "verdict.json").exists():
        return
    make_pairs_once(seed, out, model, precision)
    print(f"{name}, seed {seed}", flush=True)
    train_language(parse_config(recipe(name, seed, out, model, precision)), resume=folder.exists())


def found(name: str, seed: int, out: Path) -> dict | None:
    """Changes over held-out prompts of a finished run, None of one that is not there."""
    folder = folder_of(name, seed, out)
    if not (folder / "verdict.json").exists():
        return None
    rows = read_metrics(folder)
    held = [row for row in rows if row["kind"] == "held_out"]
    before, after = prompt_metrics_of(held[0]), prompt_metrics_of(held[-1])

    def change(metric: str):
        first, last = paired(before, after, metric)
        return mean_with_interval(last - first)

    return {"reward": change("reward/brevity"), "relevance": change("reward/relevance"),
            "diversity": change("diversity/distance"), "kl": held[-1].get("held_out/kl_per_answer"),
            "accuracy": held[-1].get("held_out/implicit_accuracy"),
            "verdict": json.loads((folder / "verdict.json").read_text())["word"],
            "seconds": held[-1]["seconds_so_far"]}


def table(out: Path, seeds: int) -> bool:
    """Print and draw what there is; whether the controls came out as they must."""
    rows, as_named = [], True
    print(f"{'trial':16} {'seed':4} {'reward':24} {'relevance':24} {'diversity':24} {'KL':>6} {'acc.':>5} verdict")
    for name, trial in TRIALS.items():
        for seed in range(seeds):
            row = found(name, seed, out)
            if row is None:
                continue
            rows.append((name, seed, row))
            texts = [f"{e.value:+.3f} [{e.low:+.3f}, {e.high:+.3f}]" for e in (
                row["reward"], row["relevance"], row["diversity"])]
            kl, accuracy = (f"{row[key]:.2f}" if row[key] is not None else "" for key in ("kl", "accuracy"))
            changes = " ".join(f"{text:24}" for text in texts)
            print(f"{name:16} {seed:<4} {changes} {kl:>6} {accuracy:>5} {row['verdict']}")
            if trial.should_be and row["verdict"] not in trial.should_be:
                as_named = False
                print(f"  control: {name} must be {' or '.join(trial.should_be)}")
    if rows:
        draw(rows, out / "language.png")
    return as_named


def draw(rows: list[tuple[str, int, dict]], file: Path) -> None:
    """Gain of the planted reward against the KL that it took, with intervals."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.6), layout="constrained")
    axis = figure.subplots()
    names = list(dict.fromkeys(name for name, _, _ in rows))
    for i, name in enumerate(names):
        points = [row for other, _, row in rows if other == name and row["kl"] is not None]
        if not points:
            continue
        kl = [max(0.0, row["kl"]) for row in points]
        middle = [row["reward"].value for row in points]
        spread = [[row["reward"].value - row["reward"].low for row in points],
                  [row["reward"].high - row["reward"].value for row in points]]
        axis.errorbar(kl, middle, spread, fmt="os"[i // 10 % 2], capsize=3, label=name, color=f"C{i % 10}",
                      markerfacecolor="white" if points[0]["verdict"] in ("hacked", "collapsed") else f"C{i % 10}")
    axis.axhline(0, color="#999999", linewidth=0.7)
    axis.set_xlabel("KL of own answers to the start, nats an answer")
    axis.set_ylabel("change of the planted reward, held-out prompts")
    axis.set_title("open: called hacked or collapsed", fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=8, frameon=False, ncols=2)
    figure.savefig(file, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=list(TRIALS), default=list(TRIALS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--precision", default="bf16", choices=["fp32", "bf16"],
                        help="of training; bf16 halves its time")
    parser.add_argument("--table", action="store_true", help="only print what there is")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for seed in range(args.seeds) if not args.table else ():
        for name in args.only:
            run(name, seed, args.out, args.model, args.precision)
    sys.exit(0 if table(args.out, args.seeds) else 1)


if __name__ == "__main__":
    main()
