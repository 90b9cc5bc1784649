"""The commands that are killed: what they are given, what is typed, and what must be the same in the end."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import yaml
from kills.killing import Kind, run_whole
from PIL import Image

OF_TIME = ("seconds", "samples_a_second", "peak_memory", "passes/")
"""Beginnings of the names in a row of metrics that depend on the clock or on when the program was started."""


def write_images(folder: Path, count: int, prompts: int) -> None:
    """Images of coloured noise with their prompts."""
    folder.mkdir()
    noise, rows = np.random.default_rng(0), []
    for number in range(count):
        colour = noise.integers(0, 256, 3)
        pixels = np.clip(noise.normal(colour, 40, (48, 48, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:04d}.png")
        rows.append(json.dumps({"prompt": f"a red fruit number {number % prompts}", "file": f"{number:04d}.png",
                                "seed": number // prompts}))
    (folder / "samples.jsonl").write_text("\n".join(rows) + "\n")


def write_recipe(root: Path, name: str, **sections) -> None:
    (root / name).write_text(yaml.safe_dump(sections))


MODEL = {"source": "tiny-sd3", "lora": {"rank": 4, "alpha": 4}, "attention": "math", "precision": "fp32",
         "prompt_tokens": 8}
EVAL = {"max_prompts": 1, "samples_per_prompt": 2, "steps": 1, "guidance_scale": 1.0, "reward": "contrast",
        "features": None, "every": 4}


def prepare_offline(root: Path) -> None:
    write_images(root / "media", 16, 4)
    rows = [{"prompt": f"a red fruit number {i}", "chosen": f"media/{i:04d}.png", "rejected": f"media/{i + 8:04d}.png"}
            for i in range(8)]
    (root / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_recipe(root, "offline.yaml", model=MODEL | {"lora": {"rank": 4, "alpha": 4, "dropout": 0.1}},
                 data={"path": str(root / "pairs.jsonl"), "holdout": 0.2, "caption_dropout": 0.2},
                 objective={"name": "flow_dpo"}, optim={"lr": 1e-3, "ema_decay": 0.9, "schedule": "cosine"},
                 train={"steps": 10, "batch_size": 2, "device": "cpu"}, eval=EVAL,
                 output={"checkpoint_every": 2, "trackers": []})


def prepare_online(root: Path) -> None:
    write_recipe(root, "online.yaml", model=MODEL,
                 rollout={"prompts_per_epoch": 2, "group_size": 4, "batch_size": 4, "steps": 4, "clean_steps": 1},
                 reward={"models": [{"reward": "tiny-reward"}, {"reward": "tiny-clip", "weight": 0.5}]},
                 objective={"name": "grpo"}, optim={"lr": 1e-3, "ema_decay": 0.9},
                 train={"epochs": 6, "batch_size": 4, "device": "cpu"}, eval=EVAL,
                 output={"trackers": []})


def prepare_reward(root: Path) -> None:
    write_images(root / "media", 16, 8)
    rows = [{"prompt": f"a red fruit number {i % 8}", "a": f"media/{i:04d}.png",
             "b": f"media/{i + 8:04d}.png", "alignment": "ab"[i % 2], "quality": "ab"[i % 3 == 0]}
            for i in range(8)]
    (root / "annotations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_recipe(root, "reward.yaml", model={"dimensions": ["alignment", "quality"], "video_only": [], "width": 32,
                                             "attention_heads": 2, "members": 2, "tuning": "lora", "lora_rank": 2},
                 data={"path": str(root / "annotations.jsonl"), "holdout": 0.25}, optim={"lr": 1e-3, "ema_decay": 0.9},
                 train={"steps": 12, "batch_size": 2, "device": "cpu", "precision": "fp32"},
                 output={"checkpoint_every": 3, "trackers": []})


def training(verb: list[str], recipe: str, cached: bool) -> Callable[[Path, Path, bool], list[str]]:
    """The command of a training; each run has a cache of its own, so that encoding is killed as well."""
    def command(root: Path, out: Path, again: bool) -> list[str]:
        words = [*verb, str(root / recipe), f"output.folder={out}"]
        if cached:
            words.append(f"{'data' if recipe == 'offline.yaml' else 'rollout'}.cache={out}-cache")
        return [*words, "--resume"] if again and (out / "config.yaml").exists() else words

    return command


def compared_run(out: Path) -> dict[str, object]:
    """What a finished run came to: every tensor, every row of metrics, every sample."""
    import torch

    found: dict[str, object] = {}
    newest = max((out / "checkpoints").glob("step-*"))
    kept = torch.load(newest / "optimizer.pt", weights_only=True)
    found["optimiser"] = repr(tensors(kept))
    for file in (newest / "trainable.safetensors", *out.glob("export/*.safetensors"), *out.glob("guard/*"),
                 *out.glob("samples/*/*.png"), *out.glob("rollouts/*"), *out.glob("reward/*"),
                 *out.glob("eval/eval.json")):
        found[file.relative_to(out).as_posix()] = content_of(file)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    names = [f"row {row['kind']} {row['step']} {row.get('folder', '')}" for row in rows]
    found["rows written once"] = len(set(names)) == len(names)
    found |= {name: json.dumps({key: value for key, value in row.items() if not key.startswith(OF_TIME)},
                               sort_keys=True)
              for name, row in zip(names, rows, strict=True) if row["kind"] not in ("start", "self_check")}
    return found


def content_of(file: Path) -> object:
    """Bytes; of weights the tensors, since a safetensors file lists its metadata in no fixed order."""
    if file.suffix != ".safetensors":
        return file.read_bytes()
    from safetensors.torch import load_file

    return repr(sorted((name, tensor.shape, tensors(tensor)) for name, tensor in load_file(file).items()))


def tensors(value) -> object:
    """A nest of tensors as a nest of bytes."""
    if isinstance(value, dict):
        return {key: tensors(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [tensors(each) for each in value]
    return value.numpy().tobytes() if hasattr(value, "numpy") else value


def compared_score(out: Path) -> dict[str, object]:
    import pyarrow.parquet as pq

    table = pq.read_table(out / "scores.parquet")
    return {name: table.column(name).to_pylist() for name in table.column_names}


def score(root: Path, out: Path, again: bool) -> list[str]:
    out.mkdir(exist_ok=True)
    return ["score", str(root / "media"), "-r", "tiny-reward,tiny-clip,sharpness", "--out", str(out / "scores.parquet"),
            "--device", "cpu"]


def prepare_evaluate(root: Path) -> None:
    prepare_offline(root)
    run_whole(["train", str(root / "offline.yaml"), f"output.folder={root / 'run'}", f"data.cache={root / 'cache'}",
               "train.steps=2"], root / "log.txt")


def evaluate(root: Path, out: Path, again: bool) -> list[str]:
    return ["evaluate", str(root / "run"), "--out", str(out), "--samples-per-prompt", "2", "--max-prompts", "4",
            "--steps", "2", "--cache", f"{out}-features.sqlite", "--device", "cpu"]


def compared_evaluate(out: Path) -> dict[str, object]:
    import pyarrow.parquet as pq

    table = pq.read_table(out / "results.parquet")
    found: dict[str, object] = {name: repr(table.column(name).to_pylist()) for name in table.column_names}
    found |= {"results.json": (out / "results.json").read_text(), "has a page": (out / "report.html").is_file()}
    return found | {file.relative_to(out).as_posix(): file.read_bytes() for file in out.glob("generations/*/*.png")}


KINDS = {
    "offline": Kind(prepare_offline, training(["train"], "offline.yaml", True), compared_run),
    "online": Kind(prepare_online, training(["train"], "online.yaml", True), compared_run),
    "reward": Kind(prepare_reward, training(["reward", "train"], "reward.yaml", False), compared_run),
    "score": Kind(lambda root: write_images(root / "media", 600, 100), score, compared_score),
    "evaluate": Kind(prepare_evaluate, evaluate, compared_evaluate, "results.json"),
}
