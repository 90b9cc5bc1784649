"""What evaluating costs: memory over many files, the cache, Vendi scores, and the guard's share of training.

    python scripts/bench/evaluate.py files --count 10000     measure twice, the second time from the cache
    python scripts/bench/evaluate.py vendi                   1,000 prompts of 64 generations
    python scripts/bench/evaluate.py guard                   a measurement against the steps between two, for each
    recipe
    python scripts/bench/evaluate.py watch                   what watching the groups adds to an epoch

Files are distinct 64x64 PNGs in prompts of 16. The guard is measured inside real runs of tiny recipes on the CPU, and
compared with the interval it chooses itself: seconds of a measurement over seconds of training between two.
"""

import argparse
import contextlib
import json
import resource
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from visalign.config.load import build_objective, load_config
from visalign.data.generations import find_generations
from visalign.evaluation.compare import Options, metric_suite
from visalign.evaluation.held_out import load_features
from visalign.evaluation.matching import match
from visalign.evaluation.measure import measure_generations
from visalign.evaluators.diversity import per_prompt
from visalign.jobs.train import train
from visalign.trainers.guard import interval_of
from visalign.trainers.online.loop import OnlineTrainer
from visalign.trainers.online.sample_watch import SampleWatch
from visalign.trainers.online.watching import GroupWatch

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SEEDS = 16


def write_images(folder: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    lines = []
    for i in range(count):
        small = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(small).resize((64, 64), Image.Resampling.BICUBIC).save(folder / f"{i:06d}.png")
        lines.append(json.dumps({"prompt": f"prompt {i // SEEDS}", "image": f"{i:06d}.png", "seed": i % SEEDS}))
    (folder / "samples.jsonl").write_text("\n".join(lines))


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def files(count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        write_images(folder, count)
        matched = match({"made": find_generations(folder)})
        for label in ("first", "cached"):
            tools = metric_suite(Options([], cache=str(folder / "features.sqlite")))
            tenth = max(1, len(matched.prompts) // 10)
            started = time.perf_counter()
            measure_generations("a tenth", matched.prompts[:tenth], matched.entries["made"][:tenth], tools)
            early = peak()
            measure_generations("all", matched.prompts, matched.entries["made"], tools)
            seconds = time.perf_counter() - started
            print(f"{label:7} {count} files in {seconds:.1f} s, {count / seconds:.0f} a second; peak memory "
                  f"{early:.2f} GiB after a tenth, {peak():.2f} GiB at the end")


def vendi() -> None:
    features = torch.nn.functional.normalize(torch.randn(1000, 64, 512), dim=-1)
    started = time.perf_counter()
    found = per_prompt(features)
    print(f"Vendi of four orders, distance and rank of 1,000 prompts x 64: {time.perf_counter() - started:.1f} s "
          f"(mean Vendi {found['vendi'].mean():.1f})")


def guard(recipes: list[str], length: int) -> None:
    for name in recipes:
        config = load_config(CONFIGS / f"{name}.yaml")
        unit = "steps" if config.loop == "offline" else "epochs"
        objective = build_objective(config.objective, loop=config.loop)
        with tempfile.TemporaryDirectory() as folder:
            every = interval_of(config.model_copy(update={"guard": config.guard.model_copy(update={"every": 0})}),
                                objective)
            trained = length * (1 if unit == "epochs" else 10)
            overrides = [f"train.{unit}={trained}", f"guard.every={trained // 2}", "guard.action=warn",
                         f"output.folder={folder}/run", "output.trackers=[]", "eval.every=0", "eval.max_prompts=4"]
            if unit == "steps":
                overrides.append("data.feedback.max_prompts=40")
            train(load_config(CONFIGS / f"{name}.yaml", tuple(overrides)))
            rows = [json.loads(line) for line in Path(folder, "run", "metrics.jsonl").read_text().splitlines()]
        step = np.median([row["seconds"] for row in rows if row["kind"] == "train"])
        look = np.median([row["seconds"] for row in rows if row["kind"] == "guard"])
        print(f"{name}: a look {look:.2f} s, a step {step:.2f} s, looks every {every}: "
              f"{100 * look / (every * step):.1f} % of training")


def watch(recipes: list[str], length: int) -> None:
    """Processor time of features and style of samples that are learnt from, and of what is told of them, over whole
    epochs'."""
    for name in recipes:
        spent, epochs = [], []
        with tempfile.TemporaryDirectory() as folder:
            config = load_config(CONFIGS / f"{name}.yaml", (
                f"train.epochs={length}", f"guard.every={length}", "guard.action=warn", f"output.folder={folder}/run",
                "output.trackers=[]", "eval.every=0", "eval.max_prompts=4"))
            embedder = type(load_features(config.embedded_by))
            with (timed(GroupWatch, "note", spent), timed(embedder, "sample_features", spent, beside=True),
                  timed(SampleWatch, "measure", spent, beside=True), timed(GroupWatch, "suspicion", spent),
                  timed(OnlineTrainer, "batch", epochs, time.process_time),
                  timed(OnlineTrainer, "train_unit", epochs, time.process_time)):
                train(config)
        print(f"{name}: {100 * sum(spent) / sum(epochs):.2f} % of {length} epochs")


@contextlib.contextmanager
def timed(owner: type, name: str, spent: list[float], clock: Callable[[], float] = time.thread_time,
          beside: bool = False) -> Iterator[None]:
    """A context in which the seconds of a method's calls are kept; beside: of those in other threads, where samples are
    scored that are learnt from."""
    real = getattr(owner, name)

    def call(*args, **given):
        started = clock()
        try:
            return real(*args, **given)
        finally:
            if not beside or threading.current_thread() is not threading.main_thread():
                spent.append(clock() - started)

    setattr(owner, name, call)
    try:
        yield
    finally:
        setattr(owner, name, real)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["files", "vendi", "guard", "watch"])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--recipes", default="online/flow_grpo,online/nft,ai_feedback")
    parser.add_argument("--length", type=int, default=6, help="epochs of training, or tens of steps")
    args = parser.parse_args()
    if args.what == "files":
        files(args.count)
    elif args.what == "vendi":
        vendi()
    elif args.what == "guard":
        guard(args.recipes.split(","), args.length)
    else:
        watch([name for name in args.recipes.split(",") if name.startswith("online/")], args.length)


if __name__ == "__main__":
    main()
