"""What an online epoch costs against the bare model passes its mathematics needs, both timed in this one run.

    python scripts/bench/online.py                         embedded methods on tiny-sd3 and tiny-wan, on the CPU
    python scripts/bench/online.py --clock cpu             on a machine that does other work as well
    scripts/bench/gpu.sh                                   networks of published sizes on a GPU

Bare passes are those of sampling (with what a guide reads), the decoder and the reward's network (which reads as many
prompts as an epoch has), and for each trained term the policy's forward and backward, with decoder and reward where the
gradient passes through them, and the objective's frozen passes, in the same batches, on tensors already in place. An
epoch adds noise, log-probabilities, images for scoring, advantages, the objective, clipping, the optimiser and logging.
Epochs of the two are interleaved, their medians compared, in seconds or (--clock cpu) in CPU seconds of this process,
threads together. A method whose recipe needs a file that is not there says so and is left out.
"""

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from offline import against, unit  # noqa: E402

from visalign.config import OnlineConfig  # noqa: E402
from visalign.config.load import parse_config  # noqa: E402
from visalign.data.prompts import read_prompts  # noqa: E402
from visalign.errors import UserError  # noqa: E402
from visalign.generators import Generator, load_generator  # noqa: E402
from visalign.generators.base import Conditioning, Guidance  # noqa: E402
from visalign.jobs.training_setup import build_online  # noqa: E402
from visalign.media.samples import Sample  # noqa: E402
from visalign.storage.run_folder import RunFolder  # noqa: E402
from visalign.storage.yaml_files import read_mapping  # noqa: E402
from visalign.trainers.cost import passes_of_update, trained_terms  # noqa: E402
from visalign.trainers.online.guide import RolloutGuide  # noqa: E402
from visalign.trainers.online.loop import OnlineTrainer  # noqa: E402
from visalign.trainers.online.siblings import SiblingSteps  # noqa: E402
from visalign.trainers.online.tail import steps_to_draw  # noqa: E402
from visalign.trainers.opening import open_accelerator  # noqa: E402

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
METHODS = ("online/flow_grpo", "online/grpo_guard", "online/nft", "video/flow_grpo", "video/nft", "online/tempflow",
           "online/diverse", "online/pref_grpo", "online/mix_grpo_flash", "online/branch_grpo", "online/dgpo",
           "online/crd", "online/marble", "online/constrained", "online/worst_group", "online/hi_grpo",
           "online/direct_align", "online/d2align", "online/euphonium", "online/spo")


def build_trainer(method: str, folder: str) -> OnlineTrainer:
    raw = read_mapping(CONFIGS / f"{method}.yaml", "recipe")
    raw["train"] |= {"epochs": 10**6, "device": "cpu"}
    raw["output"] = {"folder": folder, "trackers": [], "checkpoint_every": 0}
    raw["rollout"]["cache"] = f"{folder}/cache"
    config = parse_config(raw)
    return trainer_on(load_generator(config.model, "cpu"), config, folder)


def trainer_on(generator: Generator, config: OnlineConfig, folder: str) -> OnlineTrainer:
    return build_online(config, generator, RunFolder(folder, config), open_accelerator(config))[0]


def bare_passes(trainer: OnlineTrainer):
    """A closure that runs only the network passes of one epoch."""
    generator, config, needs = trainer.generator, trainer.config, trainer.objective.needs
    rollout, size = config.rollout, config.rollout.prompts_per_epoch * config.rollout.group_size
    shape, asked = generator.latent_shape(), read_prompts(rollout.prompts, rollout.max_prompts)
    epochs = itertools.count()

    def inputs(count: int):
        t = generator.process.times_at(torch.rand(count)).to(generator.device)
        conditioning = {k: v.expand(count, *v.shape[1:]) for k, v in generator.encode_prompts(asked[:1]).items()}
        guidance = Guidance(rollout.guidance_scale, conditioning)
        return torch.randn(count, *shape, device=generator.device), t, conditioning, guidance

    drawn, learnt = rollout.batch_size, config.train.batch_size
    terms = round(size // learnt * trained_terms(config, trainer.objective) * passes_of_update(config))
    read = reading(trainer)
    sampling, learning = inputs(drawn), inputs(learnt)
    made = list(generator.decode(sampling[0]))

    def run() -> None:
        first = next(epochs) * rollout.prompts_per_epoch
        prompts = [asked[(first + i // rollout.group_size) % len(asked)] for i in range(size)]
        with torch.no_grad():
            for batch in range(size // drawn):
                for _ in range(steps_to_draw(rollout)):
                    generator.predict(*sampling)
                read(*sampling[:3])
                generator.decode_pixels(sampling[0])
                trainer.reward_set.score([Sample(generator.text_of(prompt), media) for prompt, media in zip(
                    prompts[batch * drawn:], made, strict=False)])
        for term in range(terms):
            for frozen in ("reference", "old"):
                if frozen in needs:
                    with torch.no_grad():
                        generator.predict(*learning)
            found = generator.predict(*learning)
            if trainer.objective.through_reward:
                pixels = (generator.decode_pixels(found) / 2 + 0.5).clamp(0, 1)
                first_text = term * learnt % size
                texts = [generator.text_of(prompt) for prompt in prompts[first_text:first_text + learnt]]
                found = trainer.reward_set.differentiable(pixels, texts)
            found.square().mean().backward()
        generator.denoiser.zero_grad()

    return run


def reading(trainer: OnlineTrainer) -> Callable:
    """What a guide reads while one batch is drawn, of latents, times and texts."""
    guide, count = trainer.sampler.guide, 0
    if isinstance(guide, SiblingSteps):
        guide, count = guide.guide, guide.settings.count
    steps = len(guide.steps(frozenset(trainer.noisy))) if isinstance(guide, RolloutGuide) else 0

    def read(x: torch.Tensor, t: torch.Tensor, texts: Conditioning) -> None:
        for _ in range(steps * max(1, count)):
            (guide.value if count else guide.value_and_gradient)(x, t, texts)

    return read


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def bench_tiny(method: str, repeats: int, clock: str) -> dict:
    rows: list[dict] = []
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(method, folder)

        def epoch() -> None:
            begun = time.perf_counter()
            rows.append(unit(trainer) | {"seconds": time.perf_counter() - begun})

        with trainer.learning():
            took, passes = against(epoch, bare_passes(trainer), repeats, clock=CLOCKS[clock])
    shares = {name: round(statistics.median(row[f"seconds/{name}"] / row["seconds"] for row in rows[1:]), 3)
              for name in ("sampling", "decoding", "scoring", "waiting_for_rewards", "training")}
    return {"method": method, "clock": clock, "epoch_s": round(took, 3), "bare_passes_s": round(passes, 3),
            "ratio": round(took / passes, 3), "shares": shares}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--repeats", type=int, default=6)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    args = parser.parse_args()
    for method in args.methods.split(","):
        try:
            print(json.dumps(bench_tiny(method, args.repeats, args.clock)), flush=True)
        except UserError as error:
            print(f"{method} is left out: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
