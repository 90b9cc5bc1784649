"""Does the collapse guard catch what it should, in time, and leave healthy runs alone? On tiny-sd3, many short runs.

    python scripts/prove_guard.py --out guard                  every setting and seed (about two hours on one core)
    python scripts/prove_guard.py --out guard --worker 0/2     one of two processes that share the work
    python scripts/prove_guard.py --out guard --table          tables and plot of the finished runs

Each setting is a recipe of configs/online/ with a reward, a learning rate and what it should be called. The guard
measures after every epoch on 64 or 96 held-out prompts x 4 seeds and stops the run. What really happened by then is
measured on other seeds of the same prompts, which the guard never saw. Finished runs are not repeated.
"""

import argparse
import json
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import torch

from visalign.config.load import parse_config
from visalign.jobs.train import train
from visalign.storage.yaml_files import read_mapping

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "online"


@dataclass(frozen=True)
class Setting:
    """A recipe with another reward; what the guard should find; how many seeds; changes of the recipe's sections.

    prompts: held-out prompts of the guard, 4 seeds of each.
    """

    recipe: str
    reward: str
    held_out: tuple[str, ...]
    should_be: str
    seeds: int
    changes: dict
    prompts: int = 64


NO_KL = {"objective": {"beta": 0.0}, "optim": {"lr": 2e-3}}
SMALL_EPOCHS = {"rollout": {"prompts_per_epoch": 4, "batch_size": 24}}
SETTINGS = {
    "file size, no KL": Setting(
        "flow_grpo", "jpeg", (), "bad", 5,
        NO_KL | SMALL_EPOCHS | {"train": {"epochs": 20, "updates_per_epoch": 1, "batch_size": 24}}, 96),
    "file size, no KL, seldom looks": Setting("flow_grpo", "jpeg", (), "bad", 2, NO_KL | {"train": {"epochs": 14}}),
    "saturation, no KL": Setting("flow_grpo", "saturation", ("tiny-reward", "tiny-clip"), "hacked", 5,
                                 NO_KL | {"train": {"epochs": 10}}),
    "tiny-reward, KL": Setting("flow_grpo", "tiny-reward", ("tiny-clip",), "fine", 5,
                               {"objective": {"beta": 0.05}, "optim": {"lr": 1e-3}, "train": {"epochs": 8}}),
    "file size, held out tiny-clip": Setting("flow_grpo", "jpeg", ("tiny-clip",), "hacked", 3,
                                             NO_KL | {"train": {"epochs": 10}}),
    "colourfulness, NFT": Setting("nft", "colourfulness", ("tiny-reward", "tiny-clip"), "hacked", 3,
                                  {"optim": {"lr": 1e-3}, "train": {"epochs": 6}}),
    "tiny-reward, RAFT, high rate": Setting("raft", "tiny-reward", (), "bad", 3, {"train": {"epochs": 10}}),
    "tiny-reward, GRPO-Guard, low rate": Setting("grpo_guard", "tiny-reward", ("tiny-clip",), "fine", 3,
                                                 {"optim": {"lr": 5e-4}, "train": {"epochs": 6}}),
    "tiny-reward, rate near 0": Setting("flow_grpo", "tiny-reward", ("tiny-clip",), "fine", 3,
                                        {"optim": {"lr": 1e-6}, "train": {"epochs": 6}}),
}


def config_of(name: str, seed: int, folder: str):
    setting = SETTINGS[name]
    raw = read_mapping(CONFIGS / f"{setting.recipe}.yaml", "recipe")
    raw["reward"] = {"models": setting.reward}
    for section, values in setting.changes.items():
        raw[section] |= values
    raw["train"] |= {"seed": seed, "device": "cpu"}
    raw["eval"] |= {"reward": setting.reward, "also": list(setting.held_out), "max_prompts": 64,
                    "samples_per_prompt": 4, "features": "tiny-clip"}
    raw["guard"] = {"action": "stop", "every": 1, "max_prompts": setting.prompts, "samples_per_prompt": 4}
    raw["output"] = {"folder": folder, "trackers": [], "checkpoint_every": 0, "keep_checkpoints": 1}
    return parse_config(raw)


def run(name: str, seed: int) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        result = train(config_of(name, seed, f"{folder}/run"))
        rows = [json.loads(line) for line in Path(folder, "run", "metrics.jsonl").read_text().splitlines()]
    looks = [{"epoch": row["step"], "seconds": row["seconds"], **row["verdict"]} for row in rows
             if row["kind"] == "guard"]
    held = [row for row in rows if row["kind"] == "held_out"]
    return {"setting": name, "seed": seed, "epochs": held[-1]["step"], "looks": looks,
            "stopped": result.ended is not None, "truth": result.verdict.as_dict(),
            "vendi": fall_of(held, "diversity/vendi"), "extra": fall_of(held, "diversity/extra"),
            "epoch_seconds": sum(row["seconds"] for row in rows if row["kind"] == "train") / max(1, held[-1]["step"])}


def fall_of(held: list[dict], metric: str) -> float:
    before, after = (sum(row["values"][metric]) for row in (held[0], held[-1]))
    return 1 - after / before


def done(out: Path) -> list[dict]:
    return [json.loads(line) for file in sorted(out.glob("runs-*.jsonl")) for line in file.read_text().splitlines()]


def table(runs: list[dict]) -> str:
    """One line per setting: the guard's verdict, when, and what had happened by then."""
    lines = ["| reward and method | should be | runs | called | stopped after epoch | Vendi score had fallen by "
             "| Vendi score less 1 by |", "|---|---|---|---|---|---|---|"]
    groups = defaultdict(list)
    for each in runs:
        groups[each["setting"]].append(each)
    for name, setting in SETTINGS.items():
        mine = sorted(groups[name], key=lambda each: each["seed"])
        if not mine:
            continue
        words = [each["looks"][-1]["word"] for each in mine]
        called = ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words))
        epochs = ", ".join(str(each["epochs"]) if each["stopped"] else "–" for each in mine)
        falls = [" ".join(f"{100 * each[what]:.0f}" for each in mine) + " %" for what in ("vendi", "extra")]
        lines.append(f"| {name} | {setting.should_be} | {len(mine)} | {called} | {epochs} | {falls[0]} | {falls[1]} |")
    return "\n".join(lines)


def rates(runs: list[dict]) -> str:
    """False alarms among runs that should be fine, misses among those that should not."""
    fine = [each for each in runs if SETTINGS[each["setting"]].should_be == "fine"]
    bad = [each for each in runs if SETTINGS[each["setting"]].should_be != "fine"]
    late = [each for each in bad if each["stopped"] and each["vendi"] > 0.3]
    return (f"{len(runs)} runs: {sum(each['stopped'] for each in fine)} of {len(fine)} healthy ones were stopped (a "
            f"false alarm), {sum(not each['stopped'] for each in bad)} of {len(bad)} bad ones were missed, {len(late)} "
            "were stopped after the Vendi score had fallen by more than 30 %")


def draw(runs: list[dict], file: Path) -> None:
    """Diversity against epochs as the guard saw it, one panel a kind; a cross where it stopped the run."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), layout="constrained", facecolor="white")
    axes = figure.subplots(1, 3, sharey=True)
    reward_sets = {"fine": "should be left alone", "bad": "loses its diversity", "hacked": "hacks its reward"}
    colours = {name: f"C{i}" for i, name in enumerate(SETTINGS)}
    for axis, (kind, title) in zip(axes, reward_sets.items(), strict=True):
        for each in (each for each in runs if SETTINGS[each["setting"]].should_be == kind):
            x, y = zip(*[(look["epoch"], 100 * look["diversity"][0]) for look in each["looks"]], strict=True)
            label = each["setting"] if each["seed"] == 0 else None
            axis.plot(x, y, color=colours[each["setting"]], linewidth=1.4, alpha=0.8, label=label)
            if each["stopped"]:
                axis.plot(x[-1], y[-1], "x", color=colours[each["setting"]], markersize=8, markeredgewidth=2)
        axis.axhline(-15, color="#888888", linewidth=0.8, linestyle="--")
        axis.axhline(-30, color="#b03a2e", linewidth=0.8, linestyle=":")
        axis.set_title(title, fontsize=11)
        axis.set_xlabel("epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.legend(fontsize=7.5, frameon=False, loc="lower left")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("change of diversity, % (Vendi score less 1)")
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--worker", default="0/1", help="I/N: take every N-th run, from the I-th on")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="only show finished runs")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.table:
        print(f"{table(done(args.out))}\n\n{rates(done(args.out))}")
        draw(done(args.out), args.out / "guard.png")
        return
    torch.set_num_threads(args.threads)
    mine, of = map(int, args.worker.split("/"))
    known = {(each["setting"], each["seed"]) for each in done(args.out)}
    jobs = [(name, seed) for seed in range(5) for name, setting in SETTINGS.items()
            if seed < setting.seeds]
    for name, seed in jobs[mine::of]:
        if (name, seed) not in known:
            result = run(name, seed)
            with (args.out / f"runs-{mine}.jsonl").open("a") as file:
                file.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
