"""Do two source trees train the same weights? Short offline, online, reward and guide runs, compared to the bit.

    python scripts/prove_same_bits.py --before REVISION_OR_FOLDER [--after FOLDER]
    python scripts/prove_same_bits.py --record FILE          # sha256 of every tensor that this tree trains
    python scripts/prove_same_bits.py --against FILE         # this tree against such a record

A revision is checked out into a temporary worktree. Each tree runs its own command line on its own recipes, found by
file name, on one thread of the CPU. Both start from the embedded models of the first tree, or of --models, so that a
better embedded model is not taken for a change in training. Tensors are compared by dtype, shape and values: what the
files and tensors are called may change. A record holds for the library versions and the processor it was made with.
"""

import argparse
import contextlib
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

HERE = Path(__file__).resolve().parents[1]
SMALL_EVALUATION = ("eval.max_prompts=1", "eval.samples_per_prompt=2", "eval.steps=2", "eval.guidance_scale=1.0")


@dataclass(frozen=True)
class Training:
    """What is typed: `visalign VERB RECIPE OVERRIDES`. In overrides {models} and {inputs} are folders."""

    verb: str
    recipe: str
    overrides: tuple[str, ...]


TRAININGS = {
    "offline": Training("train", "sd3_flow_dpo.yaml", (
        "model={models}/tiny-sd3", "model.precision=fp32", "model.prompt_tokens=8", "model.lora.dropout=0.1",
        "data.path={inputs}/pairs.jsonl", "data.cache={inputs}/cache-{tree}", "data.caption_dropout=0.2",
        "optim.warmup_steps=2", "optim.ema_decay=0.9", "train.steps=6", "train.batch_size=2",
        "train.gradient_accumulation=2", "eval.prompts={inputs}/prompts.txt", *SMALL_EVALUATION)),
    "online": Training("train", "flow_grpo_fast.yaml", (
        "model={models}/tiny-sd3", "rollout.prompts={inputs}/prompts.txt", "rollout.cache={inputs}/cache-{tree}",
        "rollout.prompts_per_epoch=2", "rollout.group_size=4", "rollout.batch_size=4", "optim.ema_decay=0.9",
        "train.epochs=3", "train.batch_size=4", *SMALL_EVALUATION)),
    "reward": Training("reward train", "tiny_reward.yaml", (
        "model.source={models}/tiny-clip", "model.video_only=[]", "model.dimensions=[alignment, quality]",
        "data.path={inputs}/annotations.jsonl", "data.holdout_path=null", "data.holdout=0.25", "optim.warmup_steps=2",
        "train.steps=8", "train.batch_size=4")),
    "guide": Training("guide train", "tiny_sd3.yaml", (
        "model.source={models}/tiny-sd3", "data.path={inputs}/annotations.jsonl", "data.holdout_path=null",
        "data.holdout=0.25", "optim.warmup_steps=2", "train.steps=6", "train.batch_size=4")),
}
COMMON = ("train.device=cpu", "output.trackers=[]")


def write_inputs(folder: Path) -> None:
    """Images of coloured noise; prompts, preference pairs and annotations over them."""
    noise, prompts = np.random.default_rng(0), [f"a red fruit number {i}" for i in range(8)]
    for i in range(16):
        pixels = np.clip(noise.normal(noise.integers(0, 256, 3), 40, (48, 48, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    pairs = [{"prompt": prompt, "chosen": f"{i}.png", "rejected": f"{i + 8}.png"} for i, prompt in enumerate(prompts)]
    annotations = [{"prompt": prompt, "a": f"{i}.png", "b": f"{i + 8}.png", "alignment": "ab"[i % 2],
                    "quality": "ab"[i % 3 == 0]} for i, prompt in enumerate(prompts)]
    (folder / "prompts.txt").write_text("\n".join(prompts[:4]) + "\n")
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    (folder / "annotations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in annotations))


def train(tree: Path, training: Training, models: Path, inputs: Path, out: Path) -> Path:
    """Run a training of a tree; the run's folder. Raises RuntimeError with what the command said when it fails."""
    names = {"models": models, "inputs": inputs, "tree": out.parent.name}
    overrides = [text.format_map(names) for text in (*training.overrides, *COMMON, f"output.folder={out}")]
    command = [sys.executable, "-m", "visalign", "--debug", *training.verb.split(),
               str(recipe_of(tree, training.recipe)), *overrides]
    done = subprocess.run(command, cwd=inputs, env=environment(tree), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {(done.stdout + done.stderr)[-3000:]}")
    return out


def recipe_of(tree: Path, name: str) -> Path:
    """Where a tree keeps a recipe; folders are renamed as well."""
    found = sorted(tree.glob(f"configs/**/{name}"))
    if not found:
        raise RuntimeError(f"{tree}: has no recipe {name}")
    return found[0]


def environment(tree: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(tree), str(tree / "demo")]), "OMP_NUM_THREADS": "1",
                         "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}


def tensors_of(run: Path) -> dict[str, str]:
    """Digest -> a name of every tensor in the last checkpoint and in what the run exports."""
    last = max((run / "checkpoints").glob("step-*"), key=lambda folder: folder.name)
    files = [file for file in sorted(run.rglob("*.safetensors"))
             if last in file.parents or run / "checkpoints" not in file.parents]
    return {digest(tensor): f"{file.relative_to(run)} {name}" for file in files
            for name, tensor in load_file(file).items()}


def digest(tensor: torch.Tensor) -> str:
    """A tensor's dtype, shape and the sha256 of its values."""
    values = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)} {hashlib.sha256(values).hexdigest()}"


def record_of(tree: Path, models: Path, root: Path, kinds: list[str]) -> dict:
    """Train each kind in a tree; every trained tensor's digest, and what the record holds for."""
    inputs = root / "inputs"
    if not inputs.exists():
        inputs.mkdir()
        write_inputs(inputs)
    out = root / f"runs-{len(list(root.iterdir()))}"
    found = {}
    for kind in kinds:
        begun = time.monotonic()
        found[kind] = tensors_of(train(tree, TRAININGS[kind], models, inputs, out / kind))
        print(f"{tree}: {kind}, {len(found[kind])} tensors, {time.monotonic() - begun:.0f} s", flush=True)
    started_from = [models / "tiny-sd3", models / "tiny-clip", tree / "visalign" / "assets" / "tiny-reward"]
    return {"made with": made_with(started_from), "trained": found}


def made_with(models: list[Path]) -> dict[str, str]:
    """What bits depend on beside the code: libraries, the processor and the models."""
    found = {name: version(name) for name in ("torch", "diffusers", "transformers", "peft", "open_clip_torch")}
    found["processor"] = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    for folder in models:
        weights = hashlib.sha256()
        for file in sorted(folder.rglob("*.safetensors")):
            weights.update(file.read_bytes())
        found[folder.name] = weights.hexdigest()
    return found


def differences(before: dict, after: dict) -> list[str]:
    """One line for each kind whose tensors are not the same, and for each circumstance that is not."""
    lines = []
    for kind in sorted(before["trained"].keys() | after["trained"].keys()):
        old, new = before["trained"].get(kind, {}), after["trained"].get(kind, {})
        gone, added = old.keys() - new.keys(), new.keys() - old.keys()
        if gone or added or not old:
            example = ", ".join(sorted({*(old[key] for key in gone), *(new[key] for key in added)})[:3])
            lines.append(f"{kind}: {len(gone)} of {len(old)} tensors are gone and {len(added)} are new ({example})")
    if lines:
        lines += [f"made with another {name}: {value}, then {after['made with'].get(name)}"
                  for name, value in before["made with"].items() if after["made with"].get(name) != value]
    return lines


@contextlib.contextmanager
def tree_of(place: str) -> Iterator[Path]:
    """A folder as it is; a revision in a temporary worktree."""
    if Path(place).is_dir():
        yield Path(place).resolve()
        return
    with tempfile.TemporaryDirectory(prefix="same-bits-tree-") as folder:
        tree = Path(folder) / "tree"
        git("worktree", "add", "--quiet", "--detach", str(tree), place)
        try:
            yield tree
        finally:
            git("worktree", "remove", "--force", str(tree))


def git(*words: str) -> None:
    subprocess.run(["git", "-C", str(HERE), *words], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--before", help="revision or folder to compare with")
    what.add_argument("--record", type=Path, help="file to write this tree's digests to")
    what.add_argument("--against", type=Path, help="file of digests to compare with")
    parser.add_argument("--after", type=Path, default=HERE, help="the tree in question (default: this one)")
    parser.add_argument("--models", type=Path, help="folder with tiny-sd3 and tiny-clip to start from")
    parser.add_argument("--kinds", nargs="+", choices=list(TRAININGS), default=list(TRAININGS))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="same-bits-") as folder, contextlib.ExitStack() as trees:
        root, after = Path(folder), args.after.resolve()
        before = trees.enter_context(tree_of(args.before)) if args.before else None
        models = (args.models or (before or after) / "visalign" / "assets").resolve()
        old = record_of(before, models, root, args.kinds) if before else None
        new = record_of(after, models, root, args.kinds)
    if args.record:
        args.record.write_text(json.dumps(new, indent=1) + "\n")
        return
    old = old or json.loads(args.against.read_text())
    old["trained"] = {kind: digests for kind, digests in old["trained"].items() if kind in args.kinds}
    lines = differences(old, new)
    print("\n".join(lines) or f"the same bits: {', '.join(args.kinds)}")
    sys.exit(1 if lines else 0)


if __name__ == "__main__":
    main()
