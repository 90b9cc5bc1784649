"""What a training step costs against the bare passes its mathematics needs, both timed in this one run.

    python scripts/bench/offline.py                        tiny-sd3, tiny-sdxl and tiny-wan on the CPU
    scripts/bench/gpu.sh                                   networks of published sizes on a GPU

Bare passes: the policy on chosen and rejected forward and backward, the reference on both without gradient, on
tensors already in place. The trainer's step adds reading the cache, drawing noise, the objective, clipping, the
optimiser and logging. Steps of the two are interleaved and their medians compared.
"""

import argparse
import json
import resource
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from PIL import Image

from visalign.config import OfflineConfig
from visalign.config.load import parse_config
from visalign.data.preference_pair import PreferencePair
from visalign.data.usable import BrokenRows
from visalign.generators import Generator, load_generator
from visalign.media.samples import Media, Video
from visalign.media.video_files import media_file
from visalign.sampling.encoding_cache import EncodingCache
from visalign.storage.run_folder import RunFolder
from visalign.trainers.base import Trainer
from visalign.trainers.offline.encoded_pairs import encode_pairs
from visalign.trainers.offline.loop import OfflineTrainer

TINY = {"tiny-sd3": ("flow_dpo", 16), "tiny-sdxl": ("diffusion_dpo", 16), "tiny-wan": ("flow_dpo", 4)}
"""Objective, and pairs in a step."""


def build_trainer(model: str, batch: int, folder: str) -> OfflineTrainer:
    config = parse_config({
        "model": {"source": model, "attention": "math", "prompt_tokens": 8}, "data": {"path": "unused"},
        "objective": {"name": TINY[model][0]}, "train": {"batch_size": batch, "steps": 10**6, "device": "cpu"},
        "output": {"folder": folder, "trackers": []}})
    return trainer_on(load_generator(config.model, "cpu"), config, folder)


def trainer_on(generator: Generator, config: OfflineConfig, folder: str) -> OfflineTrainer:
    """A trainer of one batch of pairs of noise."""
    batch, accelerator = config.train.batch_size, Accelerator(cpu=config.train.device == "cpu")
    noise = [media_file(noise_media(generator), lossless=True)[1] for _ in range(2 * batch)]
    pairs = [PreferencePair(f"a red fruit {i}", noise[2 * i], noise[2 * i + 1], str(i)) for i in range(batch)]
    cache = EncodingCache(Path(folder) / "cache", generator)
    items = encode_pairs(pairs, cache, accelerator, BrokenRows(config.data))
    return OfflineTrainer(config, generator, items, [], cache, RunFolder(folder, config), accelerator)


def noise_media(generator) -> Media:
    """An image or video of noise, as the generator makes them."""
    shape = generator.shape
    frames = [Image.effect_noise((shape.width, shape.height), 80).convert("RGB") for _ in range(shape.frames or 1)]
    return Video(frames, shape.fps) if shape.frames else frames[0]


def bare_passes(trainer: OfflineTrainer, batch: int):
    """A closure that runs only the network passes a DPO step needs."""
    generator = trainer.generator
    latents = torch.randn(2 * batch, *generator.latent_shape(), device=generator.device)
    t = generator.process.times_at(torch.rand(2 * batch)).to(generator.device)
    conditioning = generator.encode_prompts(["a red fruit"] * 2 * batch)

    def run() -> None:
        with generator.reference():
            generator.predict(latents, t, conditioning)
        generator.predict(latents, t, conditioning).square().mean().backward()
        generator.denoiser.zero_grad()

    return run


def seconds(function, clock=time.perf_counter) -> float:
    started = clock()
    function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - started


def unit(trainer: Trainer) -> dict:
    """One more step or epoch, logged as in a run; returns its row."""
    row = trainer.train_unit(trainer.state.step, trainer.batch(trainer.state.step))
    trainer.state.step += 1
    trainer.log.write(trainer.state.step, row)
    return row


def against(one, other, repeats: int, warm: int = 1, clock=time.perf_counter) -> tuple[float, float]:
    """Median seconds of each, in turn."""
    for _ in range(warm):
        one(), other()
    pairs = [(seconds(one, clock), seconds(other, clock)) for _ in range(repeats)]
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)


def bench_tiny(model: str, batch: int, repeats: int) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(model, batch, folder)
        with trainer.learning():
            step_s, bare_s = against(partial(unit, trainer), bare_passes(trainer, batch), repeats, warm=3)
    return {"model": model, "batch": batch, "step_s": round(step_s, 4), "bare_passes_s": round(bare_s, 4),
            "ratio": round(step_s / bare_s, 3),
            "peak_rss_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(TINY))
    parser.add_argument("--repeats", type=int, default=10)
    args = parser.parse_args()
    for name in args.models.split(","):
        print(json.dumps(bench_tiny(name, TINY[name][1], args.repeats)), flush=True)


if __name__ == "__main__":
    main()
