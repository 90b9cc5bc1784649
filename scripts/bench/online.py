"""What an online epoch costs against the bare model passes its mathematics needs, both timed in this one run.

    python scripts/bench/online.py                         embedded methods on tiny-sd3 and tiny-wan, on the CPU
    python scripts/bench/online.py --gpu                   random networks as large as SD3.5-medium (512x512, group
                                                           24) and Wan 2.1 1.3B (240x416, 33 frames, group 4), LoRA

Bare passes are those of sampling, the decoder and the reward's network, and for each trained term the policy's forward
and backward and the objective's frozen passes, in the same batches, on tensors already in place. An epoch adds noise,
log-probabilities, images for scoring, advantages, the objective, clipping, the optimiser and logging. Epochs of the two
are interleaved and their medians compared.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from offline import seconds, sized_network  # noqa: E402

from visalign.config.load import parse_config  # noqa: E402
from visalign.data.prompts import read_prompts  # noqa: E402
from visalign.generators import load_generator  # noqa: E402
from visalign.jobs.training_setup import build_online  # noqa: E402
from visalign.media.samples import Sample  # noqa: E402
from visalign.storage.run_folder import RunFolder  # noqa: E402
from visalign.storage.yaml_files import read_mapping  # noqa: E402
from visalign.trainers.online.loop import OnlineTrainer  # noqa: E402
from visalign.trainers.opening import open_accelerator  # noqa: E402

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
METHODS = ("online/flow_grpo", "online/grpo_guard", "online/nft", "video/flow_grpo", "video/nft")
SIZED = {"sd3.5-medium": (24, 10, {"hidden_states": (16, 64, 64)}), "wan2.1-1.3b": (4, 20, {})}
"""Group, sampling steps, and inputs that differ from those of training."""


def build_trainer(method: str, folder: str) -> OnlineTrainer:
    raw = read_mapping(CONFIGS / f"{method}.yaml", "recipe")
    raw["train"] |= {"epochs": 10**6, "device": "cpu"}
    raw["output"] = {"folder": folder, "trackers": [], "checkpoint_every": 0}
    raw["rollout"]["cache"] = f"{folder}/cache"
    config = parse_config(raw)
    trainer, _ = build_online(config, load_generator(config.model, "cpu"), RunFolder(folder, config),
                              open_accelerator(config))
    return trainer


def bare_passes(trainer: OnlineTrainer):
    """A closure that runs only the network passes of one epoch."""
    generator, config, needs = trainer.generator, trainer.config, trainer.objective.needs
    rollout, size = config.rollout, config.rollout.prompts_per_epoch * config.rollout.group_size
    shape, prompt = generator.latent_shape(), read_prompts(rollout.prompts, 1)[0]

    def inputs(count: int):
        t = generator.process.times_at(torch.rand(count))
        conditioning = generator.encode_prompts([prompt])
        return torch.randn(count, *shape), t, {k: v.expand(count, *v.shape[1:]) for k, v in conditioning.items()}

    sampling, learning = inputs(rollout.batch_size), inputs(config.train.batch_size)
    made = [Sample(prompt, media) for media in generator.decode(sampling[0])]

    def run() -> None:
        with torch.no_grad():
            for _ in range(size // rollout.batch_size):
                for _ in range(rollout.steps):
                    generator.predict(*sampling)
                generator.decode_pixels(sampling[0])
                trainer.reward_set.score(made)
        for _ in range(size // config.train.batch_size * trainer.view.terms):
            for frozen in ("reference", "old"):
                if frozen in needs:
                    with torch.no_grad():
                        generator.predict(*learning)
            generator.predict(*learning).square().mean().backward()
        generator.denoiser.zero_grad()

    return run


def bench_tiny(method: str, repeats: int) -> dict:
    rows: list[dict] = []
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(method, folder)
        bare = bare_passes(trainer)

        def epoch() -> None:
            rows.append(trainer.train_unit(trainer.state.step, trainer.batch(trainer.state.step)))
            trainer.state.step += 1
            trainer.log.write(trainer.state.step, rows[-1])

        with trainer.learning():
            epoch(), bare()
            epochs, passes = zip(*[(seconds(epoch), seconds(bare)) for _ in range(repeats)], strict=True)
    took = statistics.median(epochs)
    shares = {name: round(statistics.median(row[f"seconds/{name}"] for row in rows[1:]) / took, 3)
              for name in ("sampling", "decoding", "scoring", "waiting_for_rewards", "training")}
    return {"method": method, "epoch_s": round(took, 3), "bare_passes_s": round(statistics.median(passes), 3),
            "ratio": round(took / statistics.median(passes), 3), "shares": shares}


def bench_sized(name: str, repeats: int) -> dict:
    """Sampling and one update of a network of a published size on random inputs, LoRA of rank 32, bf16."""
    from visalign.generators.adapters import add_lora
    from visalign.generators.sd3 import SD3Generator
    from visalign.generators.wan import WanGenerator
    from visalign.processes import Flow
    from visalign.processes.steps import draw, normal_log_prob

    device, flow = torch.device("cuda"), Flow(shift=3.0)
    group, steps, changed = SIZED[name]
    network, shapes, _ = sized_network(name)
    shapes = shapes | changed
    network = network.to(device, torch.bfloat16).requires_grad_(False)
    add_lora(network, 32, 64, 0.0, (WanGenerator if name.startswith("wan") else SD3Generator).lora_targets)
    network.enable_gradient_checkpointing()
    fixed = {key: torch.randn(group, *shape, device=device, dtype=torch.bfloat16)
             for key, shape in shapes.items() if key != "hidden_states"}
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, 1e-4)
    times = flow.schedule(steps).to(device)

    def velocity(x, t):
        with torch.autocast("cuda", torch.bfloat16):
            return network(hidden_states=x.bfloat16(), timestep=1000 * t, **fixed, return_dict=False)[0].float()

    def moments(x, j):
        t, t_next = times[j].expand(group), times[j + 1].expand(group)
        return flow.moments(velocity(x, t), x, t, t_next, "flow_sde", 0.7)

    @torch.no_grad()
    def sample():
        x, stored = torch.randn(group, *shapes["hidden_states"], device=device), []
        for j in range(steps):
            step = moments(x, j)
            after = draw(step, torch.randn_like(x))
            stored.append((x, after, normal_log_prob(after, *step)))
            x = after
        torch.cuda.synchronize()
        return stored

    def update(stored) -> None:
        advantage = torch.randn(group, device=device)
        for j, (before, after, old) in enumerate(stored[:-1]):
            ratio = (normal_log_prob(after, *moments(before, j)) - old).exp()
            (-(advantage * ratio).mean() / (steps - 1)).backward()
        optimizer.step()
        optimizer.zero_grad()
        torch.cuda.synchronize()

    update(sample())
    torch.cuda.reset_peak_memory_stats()
    sampling = statistics.median(seconds(sample) for _ in range(repeats))
    stored = sample()
    updating = statistics.median(seconds(lambda: update(stored)) for _ in range(repeats))
    return {"model": name, "group": group, "steps": steps, "samples_per_s": round(group / sampling, 2),
            "update_s": round(updating, 2), "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--repeats", type=int, default=6)
    args = parser.parse_args()
    if args.gpu:
        for name in SIZED:
            print(json.dumps(bench_sized(name, args.repeats)), flush=True)
        return
    for method in args.methods.split(","):
        print(json.dumps(bench_tiny(method, args.repeats)), flush=True)


if __name__ == "__main__":
    main()
