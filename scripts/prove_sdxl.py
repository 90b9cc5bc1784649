"""A newcomer's whole way with one SDXL file and a folder of pairs, typed as the README has it, on a small SDXL.

    python scripts/prove_sdxl.py --out proof-sdxl             about 25 minutes on two cores
    python scripts/prove_sdxl.py --out proof-sdxl --short     a few steps of everything; learning is not expected

The file is the embedded tiny-sdxl in the names of the original code, in fp16, as such files are shared. Its widths are
not the published ones, so `model.base` names a folder with configurations and tokenizers, without weights; a file of
the published size needs none. The pairs are PNGs with a table. Each command runs in a process of its own; training is
killed once and continued. Then plain diffusers reads what came out. Prints one line a step, and ends with 1 when one
of them failed.
"""

import argparse
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from visalign.data.embedded_pairs import drawing_rows
from visalign.data.prompts import read_prompts
from visalign.generators.export.ldm import write_single_file
from visalign.generators.files.embedded import EMBEDDED_MODELS

LEARNING = ["objective.beta=2000", "optim.lr=5e-4", "optim.warmup_steps=10", "optim.schedule=cosine",
            "model.lora.rank=16", "model.lora.alpha=32", "model.gradient_checkpointing=false", "data.caption_dropout=0",
            "train.gradient_accumulation=1", "train.batch_size=16", "train.timestep_sampling=shifted",
            "train.timestep_shift=4", "eval.steps=12", "eval.guidance_scale=1", "eval.every=0",
            "eval.samples_per_prompt=3", "eval.reward=tiny-group", "eval.also=[tiny-clip]", "eval.features=tiny-clip",
            "output.trackers=[]"]
"""What the small model and its rewards need in place of the recipe's; the rest is sdxl_dpo as shipped."""


class Proof:
    """Runs the steps in a folder and keeps what became of them."""

    def __init__(self, folder: Path, short: bool):
        self.folder, self.short = folder, short
        self.rows: list[dict] = []
        folder.mkdir(parents=True, exist_ok=True)

    def step(self, name: str, run: Callable[[], str]) -> None:
        """Run one step; what it returns is what was found."""
        started = time.monotonic()
        try:
            found, fine = run(), True
        except (AssertionError, subprocess.CalledProcessError) as error:
            found, fine = getattr(error, "stderr", None) or str(error), False
        seconds = round(time.monotonic() - started, 1)
        self.rows.append({"step": name, "fine": fine, "seconds": seconds, "found": found})
        print(f"{'ok  ' if fine else 'FAIL'} {seconds:7.1f} s  {name}: {found.strip()[:400]}", flush=True)

    def command(self, *words: str | Path) -> str:
        """A command of visalign, as typed. Raises CalledProcessError."""
        done = subprocess.run([sys.executable, "-m", "visalign", *map(str, words)], cwd=self.folder, text=True,
                              capture_output=True, check=True)
        return done.stdout

    def killed(self, *words: str | Path, once: Path) -> str:
        """The command, killed as soon as the file `once` is there, and then continued."""
        started = subprocess.Popen([sys.executable, "-m", "visalign", *map(str, words)], cwd=self.folder,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not once.exists() and started.poll() is None:
            time.sleep(0.2)
        started.send_signal(signal.SIGKILL)
        ended = started.wait()
        assert ended == -signal.SIGKILL, f"it ended by itself with {ended}, before it could be killed"
        return self.command(*words, "--resume")


def prepare(proof: Proof) -> str:
    """The file, its configurations, the pairs and the prompts."""
    from diffusers import StableDiffusionXLPipeline

    small = EMBEDDED_MODELS["tiny-sdxl"]
    write_single_file(StableDiffusionXLPipeline.from_pretrained(small), proof.folder / "my-sdxl.safetensors", "fp16",
                      "small")
    shutil.copytree(small, proof.folder / "layout", ignore=shutil.ignore_patterns("*.safetensors", "README.md"),
                    dirs_exist_ok=True)
    images = proof.folder / "pairs"
    images.mkdir(exist_ok=True)
    rows = []
    for number, (_, row) in enumerate(drawing_rows()):
        if proof.short and number >= 200:
            break
        for side in ("chosen", "rejected"):
            (images / f"{number:05d}-{side}.png").write_bytes(row[side])
        rows.append({"prompt": row["prompt"]} | {side: f"{number:05d}-{side}.png" for side in ("chosen", "rejected")})
    (images / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (proof.folder / "prompts.txt").write_text("\n".join(read_prompts("emoji:held_out", 96)) + "\n")
    size = (proof.folder / "my-sdxl.safetensors").stat().st_size / 2**20
    return f"{size:.1f} MiB, {len(rows)} pairs"


def trained(proof: Proof, recipe: list[str | Path]) -> str:
    """Train, killed once and continued. Held-out prompts must say that it learnt, unless the proof is short."""
    run = proof.folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    steps = 6 if proof.short else 180
    said = proof.killed("train", *recipe, *LEARNING, f"train.steps={steps}", f"output.checkpoint_every={steps // 3}",
                 f"eval.max_prompts={4 if proof.short else 96}", f"output.folder={run}",
                 once=run / "checkpoints" / f"step-{steps // 3:08d}" / "state.json")
    found = {line[:36].strip(): line[36:].strip() for line in said.splitlines()}
    low = float(re.search(r"\[([+-][\d.]+)", found["reward change"])[1])
    assert proof.short or low > 0, f"the reward did not rise: {found['reward change']}"
    return f"reward {found['reward change']}, diversity {found['diversity change']}, verdict {found['verdict'][:80]}"


def images_of(folder: Path) -> list[np.ndarray]:
    return [np.asarray(Image.open(file).convert("RGB"), dtype=int) for file in sorted(folder.glob("*.png"))
            if file.name != "grid.png"]


def plain(proof: Proof, weights: str, lora: str | None) -> np.ndarray:
    """An image by diffusers alone, of the file `weights` with a LoRA of the run."""
    from diffusers import StableDiffusionXLPipeline

    pipeline = StableDiffusionXLPipeline.from_single_file(
        str(proof.folder / weights), config=str(proof.folder / "layout"), local_files_only=True,
        **{"text_encoder_2": StableDiffusionXLPipeline.from_pretrained(EMBEDDED_MODELS["tiny-sdxl"]).text_encoder_2})
    pipeline.vae.to(torch.float32)
    if lora:
        pipeline.load_lora_weights(str(proof.folder / "run" / "export"), weight_name=lora)
    return np.asarray(pipeline("a red heart", num_inference_steps=12, guidance_scale=1.0, height=64, width=64,
                               generator=torch.Generator().manual_seed(0)).images[0], dtype=int)


def agrees(proof: Proof) -> str:
    """Plain diffusers makes the same image from the file and either LoRA file as visalign."""
    proof.command("generate", *MODEL, "a red heart", "--lora", "run", "--samples-per-prompt", "1", "--steps", "12",
                  "--guidance-scale", "1", "--precision", "fp32", "-o", "mine")
    [mine] = images_of(proof.folder / "mine")
    bare = plain(proof, "my-sdxl.safetensors", None)
    differences = {name: np.abs(plain(proof, "my-sdxl.safetensors", name) - mine).max()
                   for name in ("pytorch_lora_weights.safetensors", "lora_kohya.safetensors")}
    assert max(differences.values()) <= 3, f"other images: {differences}"
    return f"largest difference {max(differences.values())} of 255; training moved it by {np.abs(bare - mine).max()}"


def whole(proof: Proof, recipe: list[str | Path]) -> str:
    """A full fine-tune is again a file that every command takes."""
    run = proof.folder / "whole"
    shutil.rmtree(run, ignore_errors=True)
    proof.command("train", *recipe, *LEARNING, "model.tuning=full", "optim.lr=1e-5", "train.steps=3",
                  "output.single_file=fp32", "eval.max_prompts=2", f"output.folder={run}")
    for name, source in (("file", run / "export" / "model.safetensors"), ("folder", run / "export" / "pipeline")):
        base = ("--set", "base=layout") if name == "file" else ()
        proof.command("generate", source, *base, "a red heart", "--samples-per-prompt", "2", "--precision", "fp32",
                      "--steps", "12", "--guidance-scale", "1", "-o", f"whole-{name}")
    pairs = zip(*(images_of(proof.folder / f"whole-{name}") for name in ("file", "folder")), strict=True)
    assert all(np.array_equal(one, other) for one, other in pairs), "the file and the folder sample differently"
    return f"{(run / 'export' / 'model.safetensors').stat().st_size / 2**20:.1f} MiB, samples equal the folder's"


MODEL = ("my-sdxl.safetensors", "--set", "base=layout")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("proof-sdxl"))
    parser.add_argument("--short", action="store_true")
    options = parser.parse_args()
    proof = Proof(options.out.resolve(), options.short)
    recipe = ["sdxl_dpo", "model=my-sdxl.safetensors", "model.base=layout", "data.path=pairs/pairs.jsonl",
              "eval.prompts=prompts.txt", "data.cache=cache", "model.precision=auto"]
    few = ["--max-prompts", "2", "--samples-per-prompt", "2"] if proof.short else [
        "--max-prompts", "32", "--samples-per-prompt", "8"]

    def last(text: str) -> str:
        return " | ".join(line for line in text.strip().splitlines() if line.strip())[-300:]

    proof.step("a file and a folder of pairs", lambda: prepare(proof))
    proof.step("data check", lambda: last(proof.command("data", "check", "pairs/pairs.jsonl")))
    proof.step("train --dry-run", lambda: last(proof.command("train", *recipe, "--dry-run")))
    proof.step("train, killed and continued", lambda: trained(proof, recipe))
    proof.step("generate, and plain diffusers", lambda: agrees(proof))
    proof.step("score", lambda: last(proof.command("score", "mine", "-r", "tiny-clip,tiny-group")))
    proof.step("evaluate", lambda: last(proof.command("evaluate", "run", "-o", "evaluated", *few)))
    proof.step("compare", lambda: last(proof.command(
        "compare", "base=my-sdxl.safetensors", "aligned=run", "--prompts", "prompts.txt", *few, "-o", "compared")))
    proof.step("full fine-tune to a file", lambda: whole(proof, recipe))
    proof.step("push --dry-run", lambda: last(proof.command("push", "run", "me/mine", "--dry-run")))
    (proof.folder / "proof.json").write_text(json.dumps(proof.rows, indent=2))
    sys.exit(0 if all(row["fine"] for row in proof.rows) else 1)


if __name__ == "__main__":
    main()
