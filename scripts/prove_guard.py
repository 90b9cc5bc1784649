"""Does the collapse guard catch what it should, in time, and leave healthy runs alone? Many short runs.

    python scripts/prove_guard.py --out guard                  every setting and seed (several hours on one core);
                                                               started several times, the processes share the runs
    python scripts/prove_guard.py --out guard --only "small files" "saturation, video"
    python scripts/prove_guard.py --out guard --table          tables and plot of the finished runs

Each setting is an embedded recipe with a reward, a learning rate and what it should be called, on a flow model, a
diffusion model or a video model. The guard looks every other epoch (offline: ten times in all) on 32 held-out prompts
x 4 seeds, as it comes, and closely on all 119 where a look is unsure or what it watches between looks is
suspicious, and stops the run. What really happened by then is measured on other seeds of 48 prompts, which the guard
never saw. The untrained model is the same in all runs of a setting, and so are its samples in every other one: a
process makes them once. Finished runs are not repeated.
"""

import argparse
import json
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import numpy as np
import scipy
import torch
from shared_runs import SharedRuns

from visalign.config.load import parse_config
from visalign.evaluation.held_out import HeldOut
from visalign.jobs.train import train
from visalign.storage.yaml_files import read_mapping

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
LOOK = HeldOut.look
LATE = 0.2
"""Share of diversity (the Vendi score less 1) that may be gone when a bad run is stopped."""


@dataclass(frozen=True)
class Setting:
    """A recipe with another reward, None for pairs; the rewards held out; what the guard should find: `fine`, or `bad`
    by the loss of diversity or a hacked reward; how many seeds; changes of the recipe's sections."""

    recipe: str
    reward: str | None
    held_out: tuple[str, ...]
    should_be: str
    seeds: int
    changes: dict = field(default_factory=dict)


def at(lr: float, epochs: int, **more: dict) -> dict:
    return {"optim": {"lr": lr}, "train": {"epochs": epochs}} | more


def with_clips(changes: dict) -> dict:
    """The same with half of the recipe's clips an epoch."""
    return changes | {"rollout": {"prompts_per_epoch": 4, "batch_size": 24},
                      "train": changes["train"] | {"batch_size": 24}}


NO_KL = {"objective": {"beta": 0.0}}
SMALL_FILES = {"data": {"score_with": "jpeg", "rerank": True}}
"""Of two drawings the one whose file is smaller is the chosen one."""
SHORT = {"train": {"steps": 50}, "eval": {"steps": 4}}
SETTINGS = {
    "small files": Setting("online/flow_grpo", "jpeg", (), "bad", 5, at(2e-3, 10, **NO_KL)),
    "small files, tiny-clip held out": Setting("online/flow_grpo", "jpeg", ("tiny-clip",), "bad", 4,
                                               at(2e-3, 10, **NO_KL)),
    "saturation": Setting("online/flow_grpo", "saturation", ("tiny-reward", "tiny-clip"), "bad", 8,
                          at(2e-3, 10, **NO_KL)),
    "colourfulness, NFT": Setting("online/nft", "colourfulness", ("tiny-reward", "tiny-clip"), "bad", 8, at(1e-3, 8)),
    "tiny-reward, RAFT, high rate": Setting("online/raft", "tiny-reward", (), "bad", 6, at(4e-3, 10)),
    "small files, DPO, small beta": Setting("quickstart", None, (), "bad", 4, SMALL_FILES | {
        "objective": {"beta": 20}, "optim": {"lr": 3e-3}} | SHORT),
    "saturation, video": Setting("video/flow_grpo", "saturation", ("tiny-clip",), "bad", 3,
                                 with_clips(at(3e-3, 10, **NO_KL))),
    "saturation, DDPO": Setting("online/ddpo", "saturation", ("tiny-clip",), "bad", 3, at(3e-3, 8)),
    "tiny-reward, KL": Setting("online/flow_grpo", "tiny-reward", ("tiny-clip",), "fine", 7,
                               at(1e-3, 6, objective={"beta": 0.05})),
    "tiny-reward, GRPO-Guard, low rate": Setting("online/grpo_guard", "tiny-reward", ("tiny-clip",), "fine", 7,
                                                 at(5e-4, 6)),
    "tiny-reward, rate near 0": Setting("online/flow_grpo", "tiny-reward", ("tiny-clip",), "fine", 4, at(1e-6, 6)),
    "tiny-reward, NFT, low rate": Setting("online/nft", "tiny-reward", ("tiny-clip",), "fine", 12, at(1e-4, 6)),
    "described drawings, DPO": Setting("quickstart", None, ("tiny-clip",), "fine", 4, SHORT),
    "tiny-reward, video, low rate": Setting("video/flow_grpo", "tiny-reward", ("tiny-clip",), "fine", 3,
                                            with_clips(at(3e-4, 6))),
    "tiny-reward, DDPO, low rate": Setting("online/ddpo", "tiny-reward", ("tiny-clip",), "fine", 3, at(3e-4, 6)),
}


def config_of(name: str, seed: int, folder: str):
    setting = SETTINGS[name]
    raw = read_mapping(CONFIGS / f"{setting.recipe}.yaml", "recipe")
    if setting.reward:
        raw["reward"] = {"models": setting.reward}
        raw["eval"]["reward"] = setting.reward
    for section, values in setting.changes.items():
        raw[section] = raw[section] | values
    raw["train"] |= {"seed": seed, "device": "cpu"}
    raw["eval"] |= {"also": list(setting.held_out), "max_prompts": 48, "samples_per_prompt": 4, "features": "tiny-clip",
                    "seed": 1000 + seed % 2}
    between = {"watch_rewards": 0.25 if setting.held_out else 0.0} if setting.reward else {"watch_pairs": 32}
    every = 2 if setting.reward else raw["train"]["steps"] // 10
    raw["guard"] = {"action": "stop", "every": every} | between
    raw["output"] = {"folder": folder, "trackers": [], "checkpoint_every": 0, "keep_checkpoints": 1}
    return parse_config(raw)


def starts_made_once(name: str, starts: dict) -> Callable:
    """HeldOut.look, but what it found of the setting's untrained model is found once."""
    def look(held_out: HeldOut, generator, label: str):
        if "step 0" not in label:
            return LOOK(held_out, generator, label)
        key = (name, held_out.settings.model_dump_json())
        if key not in starts:
            starts[key] = LOOK(held_out, generator, label)
        return starts[key]
    return look


def run(name: str, seed: int, starts: dict) -> dict:
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(HeldOut, "look", starts_made_once(name, starts)):
        config = config_of(name, seed, f"{folder}/run")
        result = train(config)
        rows = [json.loads(line) for line in Path(folder, "run", "metrics.jsonl").read_text().splitlines()]
    looks = [{"step": row["step"], "seconds": row["seconds"], "suspicion": row.get("suspicion"), **row["verdict"]}
             for row in rows if row["kind"] == "guard"]
    held = [row for row in rows if row["kind"] == "held_out"]
    return {"setting": name, "seed": seed, "steps": held[-1]["step"], "looks": looks,
            "planned": config.train.epochs if config.loop == "online" else config.train.steps,
            "stopped": result.ended is not None, "truth": result.verdict.as_dict(),
            "vendi": fall_of(held, "diversity/vendi"), "extra": fall_of(held, "diversity/extra")}


def fall_of(held: list[dict], metric: str) -> float:
    before, after = (sum(row["values"][metric]) for row in (held[0], held[-1]))
    return 1 - after / before


def runs_of(out: Path) -> SharedRuns:
    return SharedRuns(out, lambda each: (each["setting"], each["seed"]))


def by_setting(runs: list[dict]) -> dict[str, list[dict]]:
    """Of each setting its runs in the order of seeds; those without runs are left out."""
    groups = defaultdict(list)
    for each in sorted(runs, key=lambda each: each["seed"]):
        groups[each["setting"]].append(each)
    return {name: groups[name] for name in SETTINGS if name in groups}


def why_stopped(each: dict) -> str:
    """What led to the look that stopped a run: its time, doubts at one that was due, or what is watched in between."""
    said = each["looks"][-1]["suspicion"]
    if said is None:
        return "a look that was due"
    what = ("diversity" if said.startswith("diversity") else "held-out pairs" if "held-out pairs" in said else
            "a held-out reward" if "optimised" in said else "style")
    return f"one that was unsure of {what}" if said.endswith("not clear yet") else f"{what} in between"


def table(runs: list[dict]) -> str:
    """One line per setting: the guard's verdict, when, why, and what had happened by then."""
    lines = ["| reward and method | should be | runs | called | stopped after | led to it | Vendi score less 1 had "
             "fallen by, median and most |", "|---|---|---|---|---|---|---|"]
    for name, mine in by_setting(runs).items():
        words = Counter(each["looks"][-1]["word"] for each in mine)
        stopped = [each for each in mine if each["stopped"]]
        why = Counter(map(why_stopped, stopped))
        falls = 100 * np.array([each["extra"] for each in mine])
        cells = [name, SETTINGS[name].should_be, str(len(mine)), ", ".join(f"{n} {word}" for word, n in words.items()),
                 ", ".join(str(each["steps"]) if each["stopped"] else "–" for each in mine),
                 ", ".join(f"{n} {what}" for what, n in why.items()) or "–",
                 f"{round(np.median(falls))} %, {round(falls.max())} %"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def rates(runs: list[dict]) -> str:
    """Bad runs that were caught, and in time; healthy ones that were stopped; with intervals of 95 %."""
    fine, bad = ([each for each in runs if (SETTINGS[each["setting"]].should_be == "fine") == healthy]
                 for healthy in (True, False))
    caught = [each for each in bad if each["stopped"]]
    in_time = [each for each in caught if each["extra"] < LATE]
    gone = 100 * np.array([each["extra"] for each in caught])
    parts = [(f"bad runs were stopped, {len(in_time)} of them before {LATE:.0%} of diversity was gone (in the median "
              f"{np.median(gone):.0f} %)" if caught else "bad runs were stopped", len(caught), len(bad)),
             ("healthy ones were stopped", sum(each["stopped"] for each in fine), len(fine))]
    bounds = [scipy.stats.binomtest(count, total).proportion_ci() if total else None for _, count, total in parts]
    return "; ".join(f"{count} of {total} {what}, between {low_high[0]:.0%} and {low_high[1]:.0%}"
                     for (what, count, total), low_high in zip(parts, bounds, strict=True) if low_high)


def draw(runs: list[dict], file: Path) -> None:
    """Diversity as the guard saw it, one panel a kind; a cross where it stopped the run."""
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), layout="constrained", facecolor="white")
    axes = figure.subplots(1, 2, sharey=True)
    kinds = {"fine": "should be left alone", "bad": "should be stopped"}
    colours = dict(zip(SETTINGS, matplotlib.colormaps["tab20"].colors, strict=False))
    for axis, (kind, title) in zip(axes, kinds.items(), strict=True):
        for each in (each for mine in by_setting(runs).values() for each in mine
                     if SETTINGS[each["setting"]].should_be == kind):
            looks = [(look["step"] / each["planned"], 100 * look["diversity"][0]) for look in each["looks"]]
            x, y = zip(*looks, strict=True)
            label = each["setting"] if each["seed"] == 0 else None
            axis.plot(x, y, color=colours[each["setting"]], linewidth=1.4, alpha=0.8, label=label)
            if each["stopped"]:
                axis.plot(x[-1], y[-1], "x", color=colours[each["setting"]], markersize=8, markeredgewidth=2)
        axis.axhline(-15, color="#888888", linewidth=0.8, linestyle="--")
        axis.axhline(-100 * LATE, color="#b03a2e", linewidth=0.8, linestyle=":")
        axis.set_title(title, fontsize=11)
        axis.set_xlabel("share of the run")
        axis.legend(fontsize=7.5, frameon=False, loc="lower left")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("change of diversity, %\n(dashed: the budget; dotted: late)")
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=SETTINGS, default=list(SETTINGS), metavar="SETTING")
    parser.add_argument("--seeds", type=int, default=100, help="at most so many of each setting")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="only show finished runs")
    args = parser.parse_args()
    shared = runs_of(args.out)
    if args.table:
        print(f"{table(shared.done())}\n\n{rates(shared.done())}")
        draw(shared.done(), args.out / "guard.png")
        return
    torch.set_num_threads(args.threads)
    keys, starts = [(name, seed) for name in args.only for seed in range(min(args.seeds, SETTINGS[name].seeds))], {}
    shared.do(((f"{name} {seed}", (name, seed)) for name, seed in keys), lambda key: run(*key, starts))


if __name__ == "__main__":
    main()
