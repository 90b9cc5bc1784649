"""What full-size training costs on one card: one part of the measurements at a time, and the table of all of them.

    scripts/bench/gpu.sh                       every part, then the table; see there
    python scripts/bench/gpu.py sdxl --out F   one part, at most ten minutes; F/sdxl.json
    python scripts/bench/gpu.py table --out F  F/table.md and F/table.json from the parts that were run

Each row runs the trainer of `visalign train` on a network of the published size with random weights (sized.py), in turn
with the bare passes its mathematics needs; `ratio` is that of their median times. Model FLOPs are those of one forward
pass of policy and reference each, and of the policy's backward pass to its inputs, which costs as much again as its
forward one (weights are frozen): recomputing activations counts for nothing. MFU is their rate over the card's
bf16 peak without sparsity. A row with a limit may use so many GiB of the card, as if it had no more. Peak memory is of
everything, loading and encoding included. Rows of published scripts do the work of those scripts on the same network
(peers.py); ours are told beside them, as so many times their samples a second and their peak memory.
"""

import argparse
import contextlib
import gc
import json
import os
import resource
import statistics
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
PEAKS = {"B200": 2250, "H200": 989, "H100 PCIe": 756, "H100": 989, "A100": 312, "L40S": 362, "L40": 181, "A40": 150,
         "A10": 125, "RTX 6000 Ada": 364, "RTX 5090": 210, "RTX 4090": 165, "RTX 3090": 71, "L4": 121}
"""bf16 TFLOP/s of dense matrices, as the makers publish them; the first name that a card's contains counts."""
NEEDED = ("torch", "diffusers", "transformers", "accelerate", "peft", "safetensors", "open_clip", "pydantic", "av")


@dataclass(frozen=True)
class Case:
    """One row: a network, how it is trained, the GiB it may use. pairs: of a step of DPO; None: an epoch of GRPO.

    peer: the published script that is run instead of ours. beside: the label of the peer's row to be compared with.
    """

    label: str
    network: str
    model: dict[str, Any] = field(default_factory=dict)
    pairs: int | None = 4
    limit: float | None = None
    goal: str = ""
    channels_last: bool = False
    peer: str = ""
    beside: str = ""
    rollout: dict[str, Any] = field(default_factory=dict)


CHECKPOINTING = {"gradient_checkpointing": True}
SDXL, SD35 = "SDXL LoRA DPO, 1024 px", "SD3.5-medium Flow-GRPO, 512 px, 2 groups of 16"
DIFFUSERS = "diffusers' SDXL DPO LoRA script, 1024 px, 4 pairs, checkpointing"
FLOW_GRPO = "flow_grpo on SD3.5-medium, 512 px, 2 groups of 16"
PARTS: dict[str, list[Case]] = {
    "sdxl": [
        Case(DIFFUSERS, "sdxl", peer="diffusers_dpo"),
        Case(f"{SDXL}, 1 pair", "sdxl", pairs=1),
        Case(f"{SDXL}, 4 pairs, checkpointing", "sdxl", CHECKPOINTING, goal="45 % MFU, 0.7 x diffusers' memory",
             beside=DIFFUSERS),
        Case(f"{SDXL}, 1 pair, checkpointing, 16 GB", "sdxl", CHECKPOINTING, 1, 15.5, goal="fits 16 GB"),
        Case(f"{SDXL}, 1 pair, checkpointing, int8 base, 12 GB", "sdxl", CHECKPOINTING | {
            "quantization": "int8", "offload": "frozen"}, 1, 11.5, goal="fits 12 GB")],
    "sdxl-faster": [
        Case(f"{SDXL}, 4 pairs, checkpointing, flash attention", "sdxl", CHECKPOINTING | {"attention": "flash"},
             beside=DIFFUSERS),
        Case(f"{SDXL}, 4 pairs, checkpointing, cuDNN attention", "sdxl", CHECKPOINTING | {
            "attention": "_native_cudnn"}, beside=DIFFUSERS),
        Case(f"{SDXL}, 4 pairs, checkpointing, channels last", "sdxl", CHECKPOINTING, channels_last=True,
             beside=DIFFUSERS),
        Case(f"{SDXL}, 4 pairs, checkpointing, compiled", "sdxl", CHECKPOINTING | {"compile": True}, goal="45 % MFU",
             beside=DIFFUSERS)],
    "sd35": [
        Case(FLOW_GRPO, "sd3.5-medium", pairs=None, peer="flow_grpo"),
        Case(SD35, "sd3.5-medium", pairs=None, goal="1.3 x flow_grpo", beside=FLOW_GRPO)],
    "sd35-faster": [
        Case(f"{SD35}, guidance apart", "sd3.5-medium", pairs=None, goal="1.3 x flow_grpo", beside=FLOW_GRPO,
             rollout={"guidance_apart": True}),
        Case(f"{SD35}, VAE in bf16", "sd3.5-medium", {"vae_precision": "bf16"}, None, goal="1.3 x flow_grpo",
             beside=FLOW_GRPO)],
    "sd35-compiled": [  # minutes of compiling: three kinds of block, with and without adapter and gradients
        Case(f"{SD35}, compiled", "sd3.5-medium", {"compile": True}, None, goal="1.3 x flow_grpo", beside=FLOW_GRPO)],
    "flux": [
        Case("FLUX LoRA DPO, 1024 px, 1 pair, checkpointing", "flux", CHECKPOINTING, 1),
        Case("FLUX LoRA DPO, 1024 px, 1 pair, checkpointing, nf4 base, 24 GB", "flux", CHECKPOINTING | {
            "quantization": "nf4", "offload": "frozen"}, 1, 23.5, goal="fits 24 GB")],
    "wan": [
        Case("Wan 2.1 1.3B LoRA DPO, 33 frames of 240x416, 1 pair, checkpointing", "wan2.1-1.3b", CHECKPOINTING, 1)],
}
EPOCHS = 3
"""Repeats of what takes as long as an epoch, at most."""


def missing() -> list[str]:
    """Packages that cannot be imported here, each with the reason."""
    import importlib

    found = []
    for name in NEEDED:
        try:
            importlib.import_module(name)
        except (ImportError, RuntimeError, OSError) as error:
            found.append(f"{name}: {' '.join(str(error).split())[:120]}")
    return found


def card() -> dict[str, Any]:
    import torch

    if not torch.cuda.is_available():
        return {"card": "CPU", "peak_tflops": None, "memory_gib": None, "torch": torch.__version__}
    name = torch.cuda.get_device_name()
    peak = next((value for known, value in PEAKS.items() if known in name), None)
    return {"card": name, "peak_tflops": peak, "torch": torch.__version__,
            "memory_gib": round(torch.cuda.get_device_properties(0).total_memory / 2**30, 1)}


def settings_of(case: Case, folder: str, tiny: bool):
    """The recipe of a row."""
    from visalign.config.load import parse_config
    from visalign.storage.yaml_files import read_mapping

    output = {"folder": folder, "trackers": [], "checkpoint_every": 0}
    if case.pairs is not None:
        flow = case.network != "sdxl"
        return parse_config({
            "model": {"source": case.network, "lora": {"rank": 64, "alpha": 64}, "precision": "bf16"} | case.model,
            "data": {"path": "unused"}, "objective": {"name": "flow_dpo" if flow else "diffusion_dpo"},
            "train": {"batch_size": case.pairs, "steps": 10**6, "device": "auto"}, "output": output})
    raw = read_mapping(Path(__file__).resolve().parents[2] / "configs" / "online" / "sd35_flow_grpo.yaml", "recipe")
    raw["model"] |= {"gradient_checkpointing": False, "precision": "bf16", "prompt_tokens": 128} | case.model
    raw["model"].pop("resolution")
    raw["rollout"] |= {"prompts": "emoji:train", "prompts_per_epoch": 1 if tiny else 2, "cache": f"{folder}/cache"} | \
        case.rollout
    raw["train"] |= {"epochs": 10**6, "device": "auto"}
    return parse_config({key: value for key, value in raw.items() if key not in ("eval", "guard")} | {
        "reward": {"models": "saturation"}, "output": output})


def measure(case: Case, tiny: bool, repeats: int) -> dict[str, Any]:
    """A row of the table. Raises what the library raises, memory that ends included."""
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    repeats = repeats if case.pairs else min(repeats, EPOCHS)
    row = measure_peer(case, device, tiny, repeats) if case.peer else measure_ours(case, device, tiny, repeats)
    return row | {"peak_gib": peak_gib()}


def measure_peer(case: Case, device, tiny: bool, repeats: int) -> dict[str, Any]:
    from offline import seconds
    from peers import PEERS

    unit = PEERS[case.peer](device, tiny)
    unit()
    took = statistics.median(seconds(unit) for _ in range(repeats))
    return {"seconds": round(took, 4), "samples_per_s": round(unit.samples / took, 3)}


def measure_ours(case: Case, device, tiny: bool, repeats: int) -> dict[str, Any]:
    import torch
    from offline import against, unit
    from offline import bare_passes as bare_step
    from offline import trainer_on as offline_trainer
    from online import bare_passes as bare_epoch
    from online import trainer_on as online_trainer
    from sized import build

    with tempfile.TemporaryDirectory() as folder:
        config = settings_of(case, folder, tiny)
        generator = build(case.network, device, config.model, tiny)
        if case.channels_last:
            for part in (generator.denoiser, generator.pipeline.vae):
                part.to(memory_format=torch.channels_last)
        if case.pairs is None:
            trainer = online_trainer(generator, config, folder)
            bare, samples = bare_epoch(trainer), trainer.epochs.size
        else:
            trainer = offline_trainer(generator, config, folder)
            bare, samples = bare_step(trainer, case.pairs), 2 * case.pairs
        with trainer.learning():
            took, passes = against(lambda: unit(trainer), bare, repeats)
        row = {"seconds": round(took, 4), "bare_passes": round(passes, 4), "ratio": round(took / passes, 3),
               "samples_per_s": round(samples / took, 3)}
        if case.pairs and config.model.quantization == "none":  # else its products are hidden from the counter
            tflop = forward_tflop(generator, samples) * 3
            row |= {"model_tflop": float(f"{tflop:.4g}"), "tflop_per_s": float(f"{tflop / took:.4g}")}
            if card()["peak_tflops"]:
                row["mfu"] = round(tflop / took / card()["peak_tflops"], 3)
    return row


def forward_tflop(generator, count: int) -> float:
    """Of one forward pass of `count` samples, which a compiled network would hide."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    latents = torch.randn(1, *generator.latent_shape(), device=generator.device)
    t = generator.process.times_at(torch.tensor([0.5])).to(generator.device)
    conditioning = generator.encode_prompts(["a red fruit"])
    torch.compiler.set_stance("force_eager")
    try:
        with FlopCounterMode(display=False) as counter, generator.reference():
            generator.predict(latents, t, conditioning)
    finally:
        torch.compiler.set_stance("default")
    return count * counter.get_total_flops() / 1e12


def peak_gib() -> float:
    """Of the card since the row began; on a CPU of the process since it began."""
    import torch

    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 2**30, 2)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)


@contextlib.contextmanager
def limited(limit: float | None):
    """Within it the card has so many GiB."""
    import torch

    whole = card()["memory_gib"]
    share = min(1.0, limit / whole) if limit and whole else 1.0
    if whole:
        torch.cuda.set_per_process_memory_fraction(share)
    try:
        yield
    finally:
        gc.collect()
        if whole:
            torch.cuda.empty_cache()
            torch.cuda.set_per_process_memory_fraction(1.0)


def run_part(part: str, tiny: bool, repeats: int, out: Path) -> None:
    """The rows of a part into its file, each when it is there; one that fails says why and does not end the others."""
    rows: list[dict[str, Any]] = []
    for case in PARTS[part]:
        row = {"case": case.label, "goal": case.goal, "limit_gib": case.limit}
        try:
            with limited(case.limit):
                row |= measure(case, tiny, repeats)
        except Exception as error:  # memory, a missing package, a kernel that is not there
            row["note"] = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        rows.append(row)
        print(json.dumps(row), flush=True)
        (out / f"{part}.json").write_text(json.dumps({"card": card(), "tiny": tiny, "rows": rows}, indent=2))


def table(results: dict[str, dict]) -> str:
    """Markdown of all parts, those not run included."""
    about = next((each["card"] for each in results.values()), None)
    title = f"{about['card']}, torch {about['torch']}" if about else "not run"
    title += ", narrow networks: no figures of a full size" if any(each["tiny"] for each in results.values()) else ""
    rows = {row["case"]: row for result in results.values() for row in result["rows"]}
    lines = [f"Card: {title}", "", "| what | goal | s | ratio to bare passes | model TFLOP/s | MFU | samples/s | "
             "peak GiB | x the script's samples/s | x its memory |", "|---|---|---|---|---|---|---|---|---|---|"]
    for case in (case for cases in PARTS.values() for case in cases):
        row = rows.get(case.label, {"note": "not run"})
        values = [row.get(key) for key in ("seconds", "ratio", "tflop_per_s", "mfu", "samples_per_s", "peak_gib")]
        values += [times(row, rows.get(case.beside, {}), key) for key in ("samples_per_s", "peak_gib")]
        values = [row["note"], *[""] * 7] if "note" in row else values
        words = ["" if value is None else str(value) for value in values]
        lines.append(f"| {' | '.join([case.label, case.goal, *words])} |")
    return "\n".join(lines) + "\n"


def times(row: dict, peer: dict, key: str) -> float | None:
    """A row's figure over that of the published script, where both were measured."""
    return round(row[key] / peer[key], 2) if key in row and key in peer else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=[*PARTS, "table"])
    parser.add_argument("--out", type=Path, default=Path("bench-gpu"))
    parser.add_argument("--tiny", action="store_true", help="narrow networks: proves that everything runs")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.part == "table":
        results = {part: json.loads(file.read_text()) for part in PARTS if (file := args.out / f"{part}.json").exists()}
        (args.out / "table.json").write_text(json.dumps(results, indent=2) + "\n")
        (args.out / "table.md").write_text(table(results))
        print(table(results))
        return 0
    lacking = missing()
    if lacking:
        print("these packages are missing or broken here; carry their wheels along and install them first:\n  "
              + "\n  ".join(lacking), file=sys.stderr)
        return 3
    run_part(args.part, args.tiny, args.repeats, args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
