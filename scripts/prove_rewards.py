"""Do rewards learn what is right from labels that are not? Planted flips, biases, voters and circles, with controls.

    python scripts/prove_rewards.py --out rewards                 everything, three seeds (about two hours on one core);
                                                                  started several times, the processes share the runs
    python scripts/prove_rewards.py --out rewards --only bias voters --seeds 1
    python scripts/prove_rewards.py --out rewards --table          table and plot of the finished runs

Heads on the frozen `tiny-clip` learn from pairs of embedded drawings in which something is planted, and are asked about
clean pairs of prompts that nothing was learnt from. A row is a way to learn and the same without its idea, on the same
pairs and seeds; intervals are a bootstrap over prompts of the mean over seeds. No setting was searched for, but the
circle's learning rate. Attacks are in prove_attacks.py, calibrated estimates in simulate_oracle.py. Finished runs are
not repeated.
"""

import argparse
import json
import tempfile
import zlib
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from reward_trials import REWARD_WORLDS, Learning, Row
from shared_runs import SharedRuns

from visalign.config import RewardConfig
from visalign.config.load import parse_config
from visalign.evaluators.reward_accuracy import calibration
from visalign.evaluators.statistics import Estimate, over_prompts
from visalign.jobs.annotate import annotate
from visalign.jobs.reward_train import train_reward

CONTROL = "control"


def settings_of(way: Learning, steps: int, files: list[Path], held_out: Path, seed: int, folder: Path) -> RewardConfig:
    """One training: the recipe, with the way's changes."""
    raw = {"model": {"source": "tiny-clip", "tuning": "frozen", "dimensions": ["quality"], "video_only": [],
                     "layers": [1, 3], "width": 64, "members": 2},
           "data": {"path": [str(file) for file in files], "holdout_path": str(held_out)},
           "objective": {"name": "preference", "ties": "drop"}, "optim": {"lr": 3e-3},
           "train": {"steps": steps, "batch_size": 24, "bootstrap": False, "seed": seed, "device": "cpu"},
           "output": {"folder": str(folder), "trackers": [], "checkpoint_every": steps, "keep_checkpoints": 1}}
    for section, values in way.changes.items():
        raw[section] = raw[section] | values
    return parse_config(raw, kind=RewardConfig)


def table_of(rows: list[Row], file: Path) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file


def cross_annotated(file: Path, config: RewardConfig, folder: Path) -> Path:
    """The table with what a reward that has learnt from the other half of its prompts holds of each label."""
    rows, found = pq.read_table(file).to_pylist(), []
    halves = [[row for row in rows if zlib.crc32(row["prompt"].encode()) % 2 == number] for number in range(2)]
    for number, (learnt, told) in enumerate((halves, halves[::-1])):
        files = [table_of(part, folder / f"{file.stem}-{name}-{number}.parquet")
                 for name, part in (("learnt", learnt), ("told", told))]
        reward = train_reward(config.model_copy(update={
            "data": config.data.model_copy(update={"path": (str(files[0]),)}),
            "output": config.output.model_copy(update={"folder": str(folder / f"{file.stem}-half-{number}")})}))
        out = folder / f"{file.stem}-annotated-{number}.parquet"
        annotate(str(reward), str(files[1]), ("quality",), out)
        found.append(pq.read_table(out))
    both = folder / f"{file.stem}-annotated.parquet"
    pq.write_table(pa.concat_tables(found), both)
    return both


def run(world: str, name: str, seed: int) -> dict:
    """A training, and for each held-out pair by how much the right side is preferred, in log-odds."""
    of = REWARD_WORLDS[world]
    sources, held_out = of.build(seed)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        files = [table_of(rows, folder / f"train-{number}.parquet") for number, rows in enumerate(sources)]
        way = of.control if name == CONTROL else of.ways[name]
        held = table_of(held_out, folder / "held_out.parquet")
        if way.annotated:
            files = [cross_annotated(file, settings_of(of.control, of.steps, [file], held, seed, folder), folder)
                     for file in files]
        train_reward(settings_of(way, of.steps, files, held, seed, folder / "run"))
        told = pq.read_table(folder / "run" / "eval" / "margins.parquet")
        [margins] = [told.column(name).to_pylist() for name in told.column_names if name.startswith("margin_")]
        saved = json.loads((folder / "run" / "reward" / "reward.json").read_text())["standard"]
    unit = saved["std"][0] if saved else 1.0
    right = [unit * (margin if row["quality"] == "a" else -margin)
             for margin, row in zip(margins, held_out, strict=True)]
    return {"world": world, "way": name, "seed": seed, "learnt from": [len(rows) for rows in sources],
            "margins": [float(f"{margin:.4g}") for margin in right], "prompts": [row["prompt"] for row in held_out],
            "kinds": [row.get("kind", "") for row in held_out]}


def runs_of(out: Path) -> SharedRuns:
    return SharedRuns(out, lambda each: (each["world"], each["way"], each["seed"]))


def share_right(runs: list[dict], kind: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Of the mean over seeds: how many of each prompt's pairs are ordered rightly, and how many there are."""
    prompts = np.unique(runs[0]["prompts"], return_inverse=True)[1]
    here = np.array([kind is None or each == kind for each in runs[0]["kinds"]], float)
    right = np.mean([np.asarray(run["margins"]) > 0 for run in runs], 0) * here
    return np.bincount(prompts, right), np.bincount(prompts, here)


def accuracy(runs: list[dict], kind: str | None = None) -> Estimate:
    right, all_of = share_right(runs, kind)
    return over_prompts(lambda rows: right[rows].sum() / max(all_of[rows].sum(), 1), len(right))


def difference(runs: list[dict], control: list[dict], kind: str | None = None) -> Estimate:
    """Of the accuracies, at the same pairs."""
    (ours, all_of), (theirs, _) = share_right(runs, kind), share_right(control, kind)
    return over_prompts(lambda rows: (ours[rows] - theirs[rows]).sum() / max(all_of[rows].sum(), 1), len(ours))


def calibration_error(runs: list[dict]) -> float:
    """Mean over seeds of the expected calibration error of s(margin)."""
    return float(np.mean([calibration(np.asarray(run["margins"]), np.ones(len(run["margins"]))).error
                          for run in runs]))


def in_brackets(each: Estimate, sign: str = "") -> str:
    return f"{each.value:{sign}.3f} [{each.low:{sign}.3f}, {each.high:{sign}.3f}]"


def table(out: Path) -> str:
    """Markdown: a row for each way, its control's before it."""
    by_way = defaultdict(list)
    for each in runs_of(out).done():
        by_way[each["world"], each["way"]].append(each)
    lines = ["| planted | way | accuracy | over the control | calibration error | by kind |", "|" + "---|" * 6]
    for world, of in REWARD_WORLDS.items():
        control = by_way.get((world, CONTROL))
        if not control:
            continue
        for name, way in {CONTROL: of.control, **of.ways}.items():
            if runs := by_way.get((world, name)):
                kinds = sorted(set(runs[0]["kinds"]) - {""})
                apart = "; ".join(f"{kind}: {in_brackets(accuracy(runs, kind))}" for kind in kinds)
                over = "" if name == CONTROL else in_brackets(difference(runs, control), "+")
                lines.append(f"| {of.title if name == CONTROL else ''} | {way.title} | {in_brackets(accuracy(runs))} "
                             f"| {over} | {calibration_error(runs):.3f} | {apart} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=REWARD_WORLDS, default=list(REWARD_WORLDS), metavar="WORLD")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--table", action="store_true", help="only print finished runs")
    args = parser.parse_args()
    torch.set_num_threads(1)
    keys = [(world, name, seed) for seed in range(args.seeds) for world in args.only
            for name in (CONTROL, *REWARD_WORLDS[world].ways)]
    if not args.table:
        runs_of(args.out).do(((f"{world}, {name}, {seed}", (world, name, seed)) for world, name, seed in keys),
                             lambda key: run(*key))
    print(table(args.out))


if __name__ == "__main__":
    main()
