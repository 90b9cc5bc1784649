"""What a training step costs against the bare passes its mathematics needs, both timed in this one run.

    python scripts/bench/offline.py                        tiny-sd3, tiny-sdxl and tiny-wan on the CPU
    python scripts/bench/offline.py --gpu                  random networks as large as SDXL, SD3.5-medium and
                                                           Wan 2.1 1.3B, bf16, LoRA

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
from pathlib import Path

import torch
from accelerate import Accelerator
from PIL import Image

from visalign.config.load import parse_config
from visalign.data.preference_pair import PreferencePair
from visalign.data.usable import BrokenRows
from visalign.generators import load_generator
from visalign.media.samples import Media, Video
from visalign.media.video_files import media_file
from visalign.sampling.encoding_cache import EncodingCache
from visalign.storage.run_folder import RunFolder
from visalign.trainers.offline.encoded_pairs import encode_pairs
from visalign.trainers.offline.loop import OfflineTrainer

TINY = {"tiny-sd3": ("flow_dpo", 16), "tiny-sdxl": ("diffusion_dpo", 16), "tiny-wan": ("flow_dpo", 4)}
"""Objective, and pairs in a step."""


def build_trainer(model: str, batch: int, folder: str) -> OfflineTrainer:
    config = parse_config({
        "model": {"source": model, "attention": "math", "prompt_tokens": 8}, "data": {"path": "unused"},
        "objective": {"name": TINY[model][0]}, "train": {"batch_size": batch, "steps": 10**6, "device": "cpu"},
        "output": {"folder": folder, "trackers": []}})
    accelerator = Accelerator(cpu=True)
    generator = load_generator(config.model, "cpu")
    noise = [media_file(noise_media(generator), lossless=True)[1] for _ in range(2 * batch)]
    pairs = [PreferencePair(f"a red fruit {i}", noise[2 * i], noise[2 * i + 1], str(i)) for i in range(batch)]
    cache = EncodingCache(Path(folder) / "cache", generator)
    items = encode_pairs(pairs, cache, accelerator, BrokenRows(config.data))
    trainer = OfflineTrainer(config, generator, items, [], cache, RunFolder(folder, config), accelerator)
    return trainer


def noise_media(generator) -> Media:
    """An image or video of noise, as the generator makes them."""
    shape = generator.shape
    frames = [Image.effect_noise((shape.width, shape.height), 80).convert("RGB") for _ in range(shape.frames or 1)]
    return Video(frames, shape.fps) if shape.frames else frames[0]


def bare_passes(trainer: OfflineTrainer, batch: int):
    """A closure that runs only the network passes a DPO step needs."""
    generator = trainer.generator
    latents = torch.randn(2 * batch, *generator.latent_shape())
    t = generator.process.times_at(torch.rand(2 * batch))
    conditioning = generator.encode_prompts(["a red fruit"] * 2 * batch)

    def run() -> None:
        with generator.reference():
            generator.predict(latents, t, conditioning)
        generator.predict(latents, t, conditioning).square().mean().backward()
        generator.denoiser.zero_grad()

    return run


def seconds(function) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def bench_tiny(model: str, batch: int, repeats: int) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(model, batch, folder)
        bare = bare_passes(trainer, batch)

        def step() -> None:
            row = trainer.train_unit(trainer.state.step, trainer.batch(trainer.state.step))
            trainer.state.step += 1
            trainer.log.write(trainer.state.step, row)

        with trainer.learning():
            for _ in range(3):
                step(), bare()
            steps, passes = zip(*[(seconds(step), seconds(bare)) for _ in range(repeats)], strict=True)
    step_s, bare_s = statistics.median(steps), statistics.median(passes)
    return {"model": model, "batch": batch, "step_s": round(step_s, 4), "bare_passes_s": round(bare_s, 4),
            "ratio": round(step_s / bare_s, 3),
            "peak_rss_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)}


def sized_network(name: str) -> tuple[torch.nn.Module, dict, int]:
    """A random network of the published size, its inputs for one sample (images of 1024x1024, videos of 33 frames of
    240x416), and its latents' channels."""
    from diffusers import SD3Transformer2DModel, UNet2DConditionModel, WanTransformer3DModel

    if name == "wan2.1-1.3b":
        network = WanTransformer3DModel(
            patch_size=(1, 2, 2), num_attention_heads=12, attention_head_dim=128, in_channels=16, out_channels=16,
            text_dim=4096, freq_dim=256, ffn_dim=8960, num_layers=30, cross_attn_norm=True,
            qk_norm="rms_norm_across_heads")
        return network, {"hidden_states": (16, 9, 30, 52), "encoder_hidden_states": (512, 4096)}, 16
    if name == "sd3.5-medium":
        network = SD3Transformer2DModel(
            sample_size=128, patch_size=2, in_channels=16, num_layers=24, attention_head_dim=64, num_attention_heads=24,
            joint_attention_dim=4096, caption_projection_dim=1536, pooled_projection_dim=2048, out_channels=16,
            pos_embed_max_size=384, dual_attention_layers=tuple(range(13)), qk_norm="rms_norm")
        shapes = {"hidden_states": (16, 128, 128), "encoder_hidden_states": (333, 4096), "pooled_projections": (2048,)}
        return network, shapes, 16
    network = UNet2DConditionModel(
        sample_size=128, block_out_channels=(320, 640, 1280), down_block_types=("DownBlock2D",) + (
            "CrossAttnDownBlock2D",) * 2, up_block_types=("CrossAttnUpBlock2D",) * 2 + ("UpBlock2D",),
        transformer_layers_per_block=(1, 2, 10), attention_head_dim=(5, 10, 20), cross_attention_dim=2048,
        use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816)
    return network, {"sample": (4, 128, 128), "encoder_hidden_states": (77, 2048)}, 4


def bench_sized(name: str, pairs: int, repeats: int) -> dict:
    """A LoRA DPO step of a network of real size in bf16 on random latents."""
    from torch.utils.flop_counter import FlopCounterMode

    from visalign.generators.adapters import add_lora
    from visalign.generators.sd3 import SD3Generator
    from visalign.generators.unet import SDXLGenerator
    from visalign.generators.wan import WanGenerator

    device = torch.device("cuda")
    network, shapes, _ = sized_network(name)
    network = network.to(device, torch.bfloat16).requires_grad_(False)
    family = {"sd3.5-medium": SD3Generator, "sdxl": SDXLGenerator, "wan2.1-1.3b": WanGenerator}[name]
    targets = family.lora_targets
    add_lora(network, 64, 64, 0.0, targets)
    network.enable_gradient_checkpointing()
    network.train()
    inputs = {k: torch.randn(2 * pairs, *shape, device=device, dtype=torch.bfloat16) for k, shape in shapes.items()}
    inputs["timestep"] = torch.full((2 * pairs,), 500.0, device=device)
    if "sample" in inputs:
        inputs["added_cond_kwargs"] = {"text_embeds": torch.randn(2 * pairs, 1280, device=device, dtype=torch.bfloat16),
                                       "time_ids": torch.zeros(2 * pairs, 6, device=device, dtype=torch.bfloat16)}
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, 1e-4)

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            network.disable_adapters()
            with torch.no_grad():
                reference = network(**inputs, return_dict=False)[0].float().square().flatten(1).mean(1)
            network.enable_adapters()
            policy = network(**inputs, return_dict=False)[0].float().square().flatten(1).mean(1)
        chosen, rejected = (policy - reference).chunk(2)
        (-torch.nn.functional.logsigmoid(-1000 * (chosen - rejected))).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        torch.cuda.synchronize()

    for _ in range(3):
        step()
    with FlopCounterMode(display=False) as counter:
        step()
    taken = statistics.median(seconds(step) for _ in range(repeats))
    return {"model": name, "pairs": pairs, "step_s": round(taken, 4), "tflop_per_s":
            round(counter.get_total_flops() / taken / 1e12, 1),
            "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--models", default=",".join(TINY))
    parser.add_argument("--repeats", type=int, default=10)
    args = parser.parse_args()
    if args.gpu:
        for name, pairs in (("sdxl", 4), ("sd3.5-medium", 4), ("wan2.1-1.3b", 1)):
            print(json.dumps(bench_sized(name, pairs, args.repeats)), flush=True)
    else:
        for name in args.models.split(","):
            print(json.dumps(bench_tiny(name, TINY[name][1], args.repeats)), flush=True)


if __name__ == "__main__":
    main()
