"""What do online methods gain, and at what cost in diversity? At equal passes, beside the same without its idea.

    python scripts/prove_trade.py --out trade                     everything, three seeds (many hours on 2 cores);
                                                                  started several times, the processes share the runs
    python scripts/prove_trade.py --out trade --only diverse --worlds fit --seeds 1
    python scripts/prove_trade.py --out trade --table             table and plot of the finished runs

euphonium, spo and d2align are left out until the files are there that the headers of their recipes say how to make.

Of each method three learning rates are tried first, its recipe's and a third and three times as much, with one seed on
48 tuning prompts of their own; the one is taken that gains most among those that keep diversity within 15 %, or the
least costly where none does. Only runs with that rate are measured on the 64 prompts of the table. Samples are drawn as
a user draws them (ODE, the same seeds before and after), weights are the moving average. Gains are in standard
deviations of the untrained model's rewards, intervals over training seeds and prompts (a two-way analysis of variance).
Finished runs are not repeated.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
from shared_runs import SharedRuns
from trade_trials import FACTORS, MEASURED, TRIALS, WORLDS, by_strangers, missing, reds_and_blues, settings_of

from visalign.data.prompts import read_prompts
from visalign.evaluators import diversity
from visalign.generators import Generator, load_generator
from visalign.jobs.training_setup import build_online
from visalign.media.pixels import pixels_of
from visalign.rewards import finite_scores, load_reward
from visalign.sampling.feedback import make_samples
from visalign.storage.run_folder import RunFolder
from visalign.trainers.opening import open_accelerator

PROMPTS = {"table": slice(0, 64), "tuning": slice(64, 112)}
"""Of those that no run trains on."""
PER_PROMPT, STEPS, SEED = 4, 4, {"table": 1000, "tuning": 5000}
BUDGET_OF_DIVERSITY, TUNING_SEED = 0.15, 100


def measured(generator: Generator, prompts: str) -> dict[str, list]:
    """Per prompt: mean of every reward that is measured, diversity, and the share of the rarer of red and blue. And the
    rewards' standard deviations over samples, which are their unit."""
    words = read_prompts("emoji:held_out", 10_000)[PROMPTS[prompts]]
    samples = make_samples(generator, words, PER_PROMPT, steps=STEPS, seed=SEED[prompts], guidance_scale=1.0,
                           label=f"{prompts} prompts", quiet=True)
    found: dict[str, list] = {}
    for name, spec in MEASURED.items():
        scores = finite_scores(load_reward(spec), samples).view(len(words), -1)
        found |= {name: scores.mean(1).tolist(), f"{name}, deviation": [scores.std().item()]}
    features = load_reward("tiny-clip").features([sample.image for sample in samples])
    spread = diversity.distance(features.view(len(words), PER_PROMPT, -1))
    pixels = torch.stack([torch.from_numpy(pixels_of(sample.image).transpose(2, 0, 1).copy()) for sample in samples])
    red, blue = reds_and_blues(pixels)
    reds = (red > blue).double().view(len(words), PER_PROMPT).mean(1)
    return found | {"diversity": spread.tolist(), "rarer colour": torch.minimum(reds, 1 - reds).tolist()}


def measure_start(out: Path) -> None:
    """The untrained model's figures on both sets of prompts."""
    for prompts in PROMPTS:
        file = out / f"start-{prompts}.json"
        if not file.exists():
            config = settings_of(TRIALS["flow_grpo"], "fit", 0, "unused")
            file.write_text(json.dumps(rounded(measured(load_generator(config.model, "cpu"), prompts))))


def run(name: str, world: str, seed: int, prompts: str, factor: float) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        config = settings_of(TRIALS[name], world, seed, folder, factor)
        generator = load_generator(config.model, "cpu")
        trainer, _ = build_online(config, generator, RunFolder(folder, config), open_accelerator(config))
        if TRIALS[name].strangers:
            trainer.credit.advantages = by_strangers(trainer.credit.advantages, config.rollout.group_size)
        started, before = time.perf_counter(), dict(generator.passes)
        trainer.fit()
        seconds = time.perf_counter() - started
        passes = {kind: count - before.get(kind, 0) for kind, count in generator.passes.items()}
        with trainer.state.averaged(), generator.measuring(), torch.no_grad():
            held = measured(generator, prompts)
    return {"trial": name, "world": world, "seed": seed, "prompts": prompts, "factor": factor,
            "epochs": config.train.epochs, "passes": passes, "seconds": seconds, "held": held}


def rounded(held: dict[str, list]) -> dict[str, list]:
    """Numbers to five digits: what is kept is small enough to be kept with the table."""
    return {name: [float(f"{each:.5g}") for each in values] for name, values in held.items()}


def runs_of(out: Path) -> SharedRuns:
    return SharedRuns(out, lambda each: (each["trial"], each["world"], each["seed"],
                                         each["factor"] if each["prompts"] == "tuning" else None))


def start_of(out: Path, prompts: str = "table") -> dict[str, list]:
    return json.loads((out / f"start-{prompts}.json").read_text())


def chosen_factor(name: str, out: Path) -> float | None:
    """The learning rate's factor that the tuning prompts chose; None while one has not been tried."""
    name = TRIALS[name].learnt_as or name
    start = start_of(out, "tuning")
    found = {}
    for each in runs_of(out).done():
        if each["trial"] == name and each["prompts"] == "tuning":
            gain = min((mean(each["held"][reward]) - mean(start[reward])) / start[f"{reward}, deviation"][0]
                       for reward in WORLDS[each["world"]].scored_by)
            lost = 1 - mean(each["held"]["diversity"]) / mean(start["diversity"])
            found[each["factor"]] = gain, lost
    if set(found) != set(FACTORS):
        return None
    within = [factor for factor in FACTORS if found[factor][1] <= BUDGET_OF_DIVERSITY]
    return max(within, key=lambda f: found[f][0]) if within else min(FACTORS, key=lambda f: found[f][1])


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def todo(args: argparse.Namespace) -> list[tuple[str, str, int, float | None]]:
    """(trial, world, seed, factor) in order, the tuning of the trials first; a factor of None is the chosen one."""
    tuned = dict.fromkeys(TRIALS[name].learnt_as or name for name in args.only)
    tuning = [(name, TRIALS[name].worlds[0], TUNING_SEED, factor) for name in tuned for factor in FACTORS]
    return tuning + [(name, world, seed, None) for seed in range(args.seeds) for world in args.worlds
                     for name in args.only if world in TRIALS[name].worlds]


def run_at_rate(name: str, world: str, seed: int, factor: float | None, out: Path) -> dict | None:
    """A run of tuning, or of the table at the rate that tuning chose; None while it has not chosen."""
    rate, prompts = factor or chosen_factor(name, out), "tuning" if factor else "table"
    if rate is None:
        print(f"{name}, {world}, seed {seed}: its learning rates are still being tried; start again later")
        return None
    result = run(name, world, seed, prompts, rate)
    print(f"{name}, {world}, seed {seed}, {prompts}, rate x {rate:.2g}: {result['epochs']} epochs, "
          f"{result['seconds']:.0f} s", flush=True)
    return result | {"held": rounded(result["held"])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=TRIALS, default=list(TRIALS), metavar="TRIAL")
    parser.add_argument("--worlds", nargs="+", choices=WORLDS, default=list(WORLDS), metavar="WORLD")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="only print finished runs")
    args = parser.parse_args()
    if args.table:
        from trade_table import draw, table

        print(table(args.out))
        draw(args.out)
        return
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    measure_start(args.out)
    for name in list(args.only):
        if lacks := missing(TRIALS[name]):
            recipe = f"configs/online/{TRIALS[name].recipe}.yaml"
            print(f"{name} is left out: {lacks} is not there; {recipe} says how to make it")
            args.only.remove(name)
    runs_of(args.out).do(((" ".join(map(str, key)), key) for key in todo(args)),
                         lambda key: run_at_rate(*key, args.out))


if __name__ == "__main__":
    main()
