"""Do the offline methods do what they are for? Each at equal network passes, beside the same without its idea.

    python scripts/prove_offline.py --out proof-offline                    everything, three seeds (hours on 2 cores);
                                                                           started several times, processes share runs
    python scripts/prove_offline.py --out proof-offline --only soar flow_dpo --seeds 1
    python scripts/prove_offline.py --out proof-offline --table            table and plot of the finished runs

The preference is planted: of six own samples of each prompt the most colourful one is preferred to the least, so the
truth is known. `coins` are the same pairs, half of them turned at random; `drawings` are real ones. Held-out prompts,
the sampler and the seeds are the same before and after; weights are the moving average. An interval is a bootstrap over
prompts of the mean over training seeds. Finished runs are not repeated.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from filelock import FileLock
from offline_trials import ALSO, GUIDED, RULE, TRIALS, Trial, settings_of
from shared_runs import SharedRuns
from torch import Tensor

from visalign.config import DataSettings, ModelSettings
from visalign.data.embedded_tastes import TASTES, taste_rows
from visalign.data.preferences import read_pairs
from visalign.data.prompts import read_prompts
from visalign.data.rows import hashed_user
from visalign.evaluators import diversity
from visalign.evaluators.fidelity import kid
from visalign.generators import Generator, load_generator
from visalign.generators.base import Guidance
from visalign.generators.export.exporting import export
from visalign.generators.users import interpolated, read_user_adapter
from visalign.jobs.train import train
from visalign.jobs.training_setup import build_offline
from visalign.media.samples import Sample
from visalign.processes.times import per_sample
from visalign.rewards import finite_scores, load_reward
from visalign.sampling.feedback import make_samples
from visalign.sampling.users import load_for_user, user_tokens
from visalign.storage.run_folder import RunFolder, read_metrics
from visalign.trainers.offline.encoded_pairs import load_batch
from visalign.trainers.offline.loop import FIXED_FRACTIONS, OfflineTrainer
from visalign.trainers.offline.noised import conditioning_of
from visalign.trainers.opening import open_accelerator

NAMED = {"drawings": "emoji:pairs", "tastes": TASTES, "subject": ""}
PROMPTS, PER_PROMPT, STEPS, SEED = 64, 2, 12, 1000
DRAWINGS = 32
FROM, ROADS = 0.8, {"way home": 40, "way home in 8 steps": 8}
LED = 2.0
"""The guidance scale at which a negative adapter is measured."""


def samples_of(generator: Generator, guidance_scale: float, each: int = PER_PROMPT) -> list[Sample]:
    return make_samples(generator, read_prompts("emoji:held_out", PROMPTS), each, steps=STEPS, seed=SEED,
                        guidance_scale=guidance_scale, label="held-out samples", quiet=True)


def scored(samples: list[Sample], names: tuple[str, ...], suffix: str = "") -> dict[str, list[float]]:
    """Per-prompt means of rewards and the distance between a prompt's samples."""
    found = {name + suffix: finite_scores(load_reward(name), samples).view(-1, PER_PROMPT).mean(1).tolist()
             for name in names}
    features = load_reward("tiny-clip").features([sample.image for sample in samples])
    spread = diversity.distance(features.view(-1, PER_PROMPT, features.shape[-1]))
    return found | {f"diversity{suffix}": spread.tolist()}


def as_sampled(trainer: OfflineTrainer) -> dict[str, list[float]]:
    return scored(samples_of(trainer.generator, 1.0), (RULE, *ALSO))


def of_pairs(trainer: OfflineTrainer) -> dict[str, list[float]]:
    """By held-out pair, at noised states whatever the run learnt at: the share of times at which the policy ranks it
    rightly against the reference, and how far the winner's error is above the reference's."""
    generator, cache = trainer.generator, trainer.cache
    if any(item.rejected_key is None for item in trainer.held_out):
        return {}
    batch, right, winners = load_batch(trainer.held_out, cache), [], []
    conditioning = conditioning_of(generator, batch)
    for number, fraction in enumerate(FIXED_FRACTIONS):
        rng = torch.Generator().manual_seed(number)
        noise, t = torch.randn(batch.chosen.shape, generator=rng), generator.process.times_at(
            fraction.repeat(len(batch.items)))
        errors = {}
        for side in ("chosen", "rejected"):
            x0 = getattr(batch, side)
            x_t, target = generator.process.add_noise(x0, noise, t), generator.process.target(x0, noise, t)

            def error(x_t=x_t, target=target, t=t, side=side) -> Tensor:
                return (generator.predict(x_t, t, conditioning[side]) - target).square().flatten(1).mean(1)

            with generator.reference():
                reference = error()
            errors[side] = error() - reference
        right.append((errors["chosen"] < errors["rejected"]).float())
        winners.append(errors["chosen"])
    return {"accuracy": torch.stack(right).mean(0).tolist(), "winners' error": torch.stack(winners).mean(0).tolist()}


def home(trainer: OfflineTrainer) -> dict[str, list[float]]:
    """How far from a held-out drawing the model ends that it leads home under guidance from time FROM, root mean
    squared difference of latents; and as many samples of the same prompts beside the drawings."""
    generator = trainer.generator
    batch = load_batch(trainer.held_out[::len(trainer.held_out) // DRAWINGS][:DRAWINGS], trainer.cache)
    conditioning, x0 = conditioning_of(generator, batch)["chosen"], batch.chosen
    key = trainer.cache.prompt_key("")
    trainer.cache.add_prompts({key: ""})
    empty = {name: value.expand(len(x0), *value.shape[1:]) for name, value in trainer.cache.conditioning([key]).items()}
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(SEED))
    found = {}
    for name, steps in ROADS.items():
        times = [FROM, *(t for t in generator.schedule(steps).tolist() if t < FROM - 1e-6)]
        x = generator.process.add_noise(x0, noise, torch.full((len(x0),), FROM))
        for t, later in zip(times, times[1:], strict=False):
            now, then = (torch.full((len(x0),), each) for each in (t, later))
            velocity = generator.predict(x, now, conditioning, Guidance(GUIDED, empty))
            x = x + per_sample(then - now, x) * velocity
        found[name] = (x - x0).square().flatten(1).mean(1).sqrt().tolist()
    samples = samples_of(generator, GUIDED, each=1)
    clip = load_reward("tiny-clip")
    real = clip.features(generator.decode(x0))
    return found | {"kid": [kid(real, clip.features([s.image for s in samples]), [s.prompt for s in samples]).value]}


def led_away(trainer: OfflineTrainer) -> dict[str, list[float]]:
    """Samples of the untrained model, led away from what was learnt."""
    with tempfile.TemporaryDirectory() as folder:
        export(trainer.generator, Path(folder), trainer.config, {})
        generator = load_generator(trainer.config.model, "cpu")
        generator.load_negative_adapter(Path(folder))
        return scored(samples_of(generator, LED), (RULE, *ALSO), " led away")


def as_a_run_says(folder: Path) -> dict[str, list[float]]:
    """Similarity to the subject and text fit of the held-out prompts, before and after, of a run that kept its best."""
    rows = [row for row in read_metrics(folder) if row["kind"] == "held_out"]
    found = {f"{name}{when}": row["values"][f"reward/{name}"] for when, row in (("", rows[-1]), (" before", rows[0]))
             for name in ("similarity", "text_fit", "harmonic")}
    found |= {f"diversity{when}": row["values"]["diversity/distance"] for when, row in (
        ("", rows[-1]), (" before", rows[0]))}
    return found | {"kept step": [max((row for row in rows if row["step"]), key=lambda row: np.mean(
        row["values"]["reward/harmonic"]))["step"]], "steps looked at": [row["step"] for row in rows]}


def by_users(folder: Path) -> dict[str, list[float]]:
    """Mean brightness, 0 to 1, of a sample of each held-out prompt: for a user of each taste, for one of each from whom
    nothing was learnt, for tokens between two, and for nobody."""
    model, export = ModelSettings(source="tiny-sd3", prompt_tokens=16), folder / "export"
    adapter = read_user_adapter(export)
    pairs = defaultdict(list)
    for pair in read_pairs(DataSettings(path=TASTES)):
        pairs[pair.user].append(pair)
    tokens = {name: user_tokens(pairs[hashed_user(name)][:adapter.context], adapter)
              for name in ("bright 1", "dark 1", "bright 4", "dark 4")}
    between = {f"between {share:g}": interpolated(tokens["dark 1"], tokens["bright 1"], share) for share in (
        0.25, 0.5, 0.75)}
    generator, found = load_for_user(model, export, None), {}
    for name, user in {"nobody": None, **tokens, **between}.items():
        generator.user_of = (lambda prompt, user=user: user) if user is not None else None
        samples = make_samples(generator, read_prompts("emoji:held_out", PROMPTS), 1, steps=STEPS, seed=SEED,
                               guidance_scale=1.0, label=name, quiet=True)
        found[name] = [float(np.asarray(sample.image.convert("L")).mean() / 255) for sample in samples]
        found[f"tiny-group {name}"] = finite_scores(load_reward("tiny-group"), samples).tolist()
    apart = np.subtract(found["bright 1"], found["dark 1"]).tolist()
    return found | {"told apart": apart, "told apart before": [0.0] * len(apart),
                    "unseen told apart": np.subtract(found["bright 4"], found["dark 4"]).tolist()}


OF_RUNS: dict[str, Callable[[Path], dict[str, list[float]]]] = {"similarity": as_a_run_says, "told apart": by_users}
"""By target, of trials that are recipes; they say the figures before training, too."""
MEASURES: dict[str, tuple[Callable[[OfflineTrainer], dict[str, list[float]]], ...]] = {
    "way home": (as_sampled, home), f"{RULE} led away": (led_away,)}
"""By target; others take samples and pairs."""


def measured(trainer: OfflineTrainer, target: str) -> dict[str, list[float]]:
    with trainer.state.averaged(), trainer.generator.measuring(), torch.no_grad():
        return {name: values for measure in MEASURES.get(target, (as_sampled, of_pairs))
                for name, values in measure(trainer).items()}


def visalign(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "visalign", *words], check=True)


def pairs_of(kind: str, model: str, out: Path) -> str:
    """The path of a set, made where it is not there."""
    if kind in NAMED:
        return NAMED[kind]
    if kind == "shuffled":
        return str(shuffled_users(out / "shuffled.parquet"))
    if kind == "pareto":
        pairs_of("own", model, out)
        pareto = out / f"pareto-{model}"
        if not pareto.exists():
            visalign("data", "pairs", str(out / f"pairs-{model}" / "samples"), "-o", str(pareto), "-r",
                     f"{RULE},tiny-clip", "--strategy", "pareto", "--standardise")
        return str(pareto / "pairs.parquet")
    own = out / f"pairs-{model}" / "pairs.parquet"
    if not own.exists():
        few = ["--set", "prompt_tokens=16"] if model == "tiny-sd3" else []
        visalign("data", "pairs", "-o", str(own.parent), "--model", model, "--prompts", "emoji:train", "--max-prompts",
                 "150", "--samples-per-prompt", "6", "--steps", str(STEPS), "--guidance-scale", "1", "--reward", RULE,
                 *few)
    if kind == "own":
        return str(own)
    coins = own.with_name("coins.parquet")
    rows, rng = pq.read_table(own).to_pylist(), random.Random(0)
    turned = [row | {"chosen": row["rejected"], "rejected": row["chosen"]} if rng.random() < 0.5 else row
              for row in rows]
    pq.write_table(pa.Table.from_pylist(turned), coins)
    return str(coins)


def shuffled_users(file: Path) -> Path:
    """The planted users' pairs, each given to a random one of them."""
    if not file.exists():
        rows = [row for _, row in taste_rows()]
        users = [row["user"] for row in rows]
        random.Random(0).shuffle(users)
        given = [row | {"user": user} for row, user in zip(rows, users, strict=True)]
        pq.write_table(pa.Table.from_pylist(given), file)
    return file


def run_recipe(name: str, seed: int, out: Path) -> dict:
    trial, folder = TRIALS[name], out / "runs" / f"{name.replace(' ', '-')}-{seed}"
    path = pairs_of(trial.data, trial.model, out)
    config = settings_of(trial, path, seed, str(folder), str(out / "cache"))
    result = train(config, resume=folder.exists())
    return {"trial": name, "seed": seed, "steps": config.train.steps, "passes": {}, "seconds": result.seconds,
            "held": OF_RUNS[trial.target](folder)}


def run(name: str, seed: int, out: Path) -> dict:
    trial = TRIALS[name]
    path = pairs_of(trial.data, trial.model, out)
    with tempfile.TemporaryDirectory() as folder:
        config = settings_of(trial, path, seed, folder, str(out / "cache"))
        accelerator = open_accelerator(config)
        generator = load_generator(config.model, "cpu")
        trainer, _ = build_offline(config, generator, RunFolder(folder, config), accelerator)
        started, before = time.perf_counter(), dict(generator.passes)
        trainer.fit()
        seconds = time.perf_counter() - started
        passes = {kind: count - before.get(kind, 0) for kind, count in generator.passes.items()}
        held = measured(trainer, trial.target)
    return {"trial": name, "seed": seed, "steps": config.train.steps, "passes": passes, "seconds": seconds,
            "held": held}


def measure_start(name: str, out: Path) -> None:
    """The figures of the untrained model, by model and target: a run of a learning rate of nothing."""
    trial = TRIALS[name]
    file = start_file(trial, out)
    if file.exists():
        return
    with tempfile.TemporaryDirectory() as folder:
        config = settings_of(trial, pairs_of(trial.data, trial.model, out), 0, folder, str(out / "cache"))
        generator = load_generator(config.model, "cpu")
        trainer, _ = build_offline(config, generator, RunFolder(folder, config), open_accelerator(config))
        file.write_text(json.dumps(rounded(measured(trainer, trial.target))))


def start_file(trial: Trial, out: Path) -> Path:
    return out / f"start-{trial.model}-{trial.data.replace('coins', 'own')}-{trial.target.replace(' ', '-')}.json"


def rounded(value: Any) -> Any:
    """Numbers to five digits: what is kept is small enough to be kept with the table."""
    if isinstance(value, dict):
        return {name: rounded(each) for name, each in value.items()}
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def runs_of(out: Path) -> SharedRuns:
    return SharedRuns(out, lambda each: (each["trial"], each["seed"]))


def prepared_run(name: str, seed: int, out: Path) -> dict:
    """A run, rounded; what several runs need is made by one process only."""
    with FileLock(out / "prepared.lock"):
        pairs_of(TRIALS[name].data, TRIALS[name].model, out)
        if not TRIALS[name].recipe:
            measure_start(name, out)
    return rounded((run_recipe if TRIALS[name].recipe else run)(name, seed, out))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=TRIALS, default=list(TRIALS), metavar="TRIAL")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="only print finished runs")
    args = parser.parse_args()
    if args.table:
        from offline_table import draw, table

        print(table(args.out))
        draw(args.out)
        return
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    runs_of(args.out).do(((f"{name} {seed}", (name, seed)) for seed in range(args.seeds) for name in args.only),
                         lambda key: prepared_run(*key, args.out))


if __name__ == "__main__":
    main()
