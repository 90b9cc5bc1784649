"""Can the weights of a reward mixture be found by what the trained policy is worth to somebody else? On tiny-sd3.

    python scripts/study_mixture.py --out mixture                  5 outer steps (a quarter of an hour)
    python scripts/study_mixture.py --out mixture --table          the finished steps, and a plot

The mixture has a reward that is right and one that is useless: `tiny-reward`'s alignment, and how small the file is.
The trusted one is tiny-clip, which is in no mixture, on prompts that nothing trains on. All inner runs of a step start
from the same weights and draw the same noise, so that two differ by the mixture alone; the step is then taken, and the
run goes on with the new weights. A stopped study goes on where it was.
"""

import argparse
import json
import tempfile
from pathlib import Path

import torch
from mixture_search import outer_step, simplex

from visalign.config.load import parse_config
from visalign.data.prompts import read_prompts
from visalign.generators import load_generator
from visalign.jobs.training_setup import build_online
from visalign.rewards import finite_scores, load_reward
from visalign.sampling.feedback import make_samples
from visalign.storage.run_folder import RunFolder
from visalign.storage.weights import read_tensors, write_tensors
from visalign.storage.yaml_files import read_mapping
from visalign.trainers.opening import open_accelerator

RECIPE = Path(__file__).resolve().parents[1] / "configs" / "online" / "flow_grpo.yaml"
MIXTURE = {"right": {"kind": "direction", "name": "right", "weights": {"tiny-reward.alignment": 1.0},
                     "of": ["tiny-reward"]},
           "useless": {"kind": "jpeg", "name": "useless"}}
TRUSTED, PROMPTS, PER_PROMPT, STEPS = "tiny-clip", 48, 4, 4


def inner_run(weights: torch.Tensor, start: dict[str, torch.Tensor], epochs: int,
              seed: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """What the trusted reward says of held-out samples after some epochs from `start`, and the trained tensors."""
    raw = read_mapping(RECIPE, "recipe")
    raw["reward"] = {"models": [{"reward": spec, "weight": weight}
                                for spec, weight in zip(MIXTURE.values(), weights.tolist(), strict=True)]}
    raw["advantage"] = raw.get("advantage", {}) | {"combine": "advantages"}
    with tempfile.TemporaryDirectory() as folder:
        raw |= {"output": {"folder": folder, "trackers": [], "checkpoint_every": 0, "keep_checkpoints": 1},
                "guard": {"action": "off"}, "eval": {"every": 0}}
        raw["train"] |= {"seed": seed, "device": "cpu", "epochs": max(1, epochs)}
        config = parse_config(raw)
        generator = load_generator(config.model, "cpu")
        trainer, _ = build_online(config, generator, RunFolder(folder, config), open_accelerator(config))
        named = {str(place): parameter for place, parameter in enumerate(trainer.parameters)}
        with torch.no_grad():
            for name, value in start.items():
                named[name].copy_(value)
        if epochs:
            trainer.fit()
    with torch.no_grad(), generator.measuring():
        samples = make_samples(generator, read_prompts("emoji:held_out", PROMPTS), PER_PROMPT, steps=STEPS, seed=2000,
                               guidance_scale=1.0, label="held out", quiet=True)
    return finite_scores(load_reward(TRUSTED), samples), {name: p.detach().clone() for name, p in named.items()}


def unit_of(out: Path) -> float:
    """The standard deviation of the untrained model's scores, which J is told in."""
    file = out / "unit.json"
    if not file.exists():
        scores, _ = inner_run(simplex(torch.zeros(len(MIXTURE))), {}, 0, 0)
        file.write_text(json.dumps({"mean": scores.mean().item(), "std": scores.std().item()}))
    return json.loads(file.read_text())["std"]


def study(args: argparse.Namespace) -> None:
    args.out.mkdir(parents=True, exist_ok=True)
    history, weights_file = args.out / "steps.jsonl", args.out / "start.safetensors"
    done = [json.loads(line) for line in history.read_text().splitlines()] if history.exists() else []
    log_weights = torch.tensor(done[-1]["log_weights"] if done else [0.0] * len(MIXTURE), dtype=torch.float64)
    start = read_tensors(weights_file, "start") if done else {}
    unit = unit_of(args.out)
    for step in range(len(done), args.steps):
        rng = torch.Generator().manual_seed(args.seed + step)

        def score(weights: torch.Tensor, step: int = step, start: dict = start) -> float:
            return inner_run(weights, start, args.epochs, args.seed + step)[0].mean().item() / unit

        log_weights, tried = outer_step(log_weights, score, rng, scale=args.scale, rate=args.rate, pairs=args.pairs)
        scores, start = inner_run(simplex(log_weights), start, args.epochs, args.seed + step)
        value = scores.mean().item() / unit
        write_tensors(weights_file, start)
        row = {"step": step, "log_weights": log_weights.tolist(), "weights": simplex(log_weights).tolist(),
               "trusted": value, "tried": [[each.tolist(), j] for each, j in tried]}
        with history.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(told(row), flush=True)


def told(row: dict) -> str:
    weights = ", ".join(f"{name} {weight:.2f}" for name, weight in zip(MIXTURE, row["weights"], strict=True))
    tried = "; ".join(f"{weights[0]:.2f}: {j:.3f}" for weights, j in row["tried"])
    return f"step {row['step']}: {weights}; {TRUSTED} {row['trusted']:.3f} (tried {next(iter(MIXTURE))} {tried})"


def draw(out: Path, rows: list[dict]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    steps = range(len(rows) + 1)
    for place, name in enumerate(MIXTURE):
        left.plot(steps, [1 / len(MIXTURE), *(row["weights"][place] for row in rows)], marker="o", label=name)
    left.set(xlabel="outer step", ylabel="weight", ylim=(0, 1))
    left.legend()
    right.plot(list(steps)[1:], [row["trusted"] for row in rows], marker="o")
    right.set(xlabel="outer step", ylabel=f"{TRUSTED}, standard deviations")
    figure.savefig(out / "mixture.png", dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=1, help="antithetic pairs of inner runs a step")
    parser.add_argument("--epochs", type=int, default=2, help="of an inner run")
    parser.add_argument("--scale", type=float, default=0.7)
    parser.add_argument("--rate", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", action="store_true", help="only print and draw finished steps")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if not args.table:
        study(args)
    rows = [json.loads(line) for line in (args.out / "steps.jsonl").read_text().splitlines()]
    print("\n".join(map(told, rows)))
    draw(args.out, rows)


if __name__ == "__main__":
    main()
