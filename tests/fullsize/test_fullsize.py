"""Architectures of full size on a CPU: one DPO step and one GRPO update at 256 pixels, as a user runs them.

    pytest -m fullsize -n 0 tests/fullsize         at most 30 minutes and 16 GB

Peaks are compared with what `--dry-run` said, an interrupted run with one that was not, the export with diffusers.
A table of what was predicted and measured is printed, and written to FULLSIZE_TABLE where that is set.
"""

import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from tests.fullsize.models import build

pytestmark = pytest.mark.fullsize
METHODS = {"sdxl": "diffusion_dpo", "sd15": "diffusion_dpo", "sd3": "flow_dpo"}
COMMON = {"eval": {"max_prompts": 1, "samples_per_prompt": 1, "steps": 1, "guidance_scale": 1.0, "reward": "sharpness",
                   "features": None},
          "optim": {"lr": 1e-3}}


@pytest.fixture(scope="module", params=METHODS)
def model(request, pipelines, tmp_path_factory):
    """(name, folder), deleted once its tests are done.

    Made in a process of its own: the peak of a program that is started counts what its starter holds.
    """
    root = tmp_path_factory.mktemp("full")
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as maker:
        folder = maker.submit(build, request.param, pipelines(request.param), root).result()
    yield request.param, folder
    shutil.rmtree(root)


@pytest.fixture
def dpo(model, tmp_path):
    name, folder = model
    lines = []
    for i in range(2):
        for side in ("chosen", "rejected"):
            Image.effect_noise((256, 256), 60 + i).convert("RGB").save(tmp_path / f"{i}-{side}.png")
        lines.append(json.dumps({"prompt": f"a red fruit {i}", "chosen": f"{i}-chosen.png",
                                 "rejected": f"{i}-rejected.png"}))
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    return written(tmp_path, folder, "dpo", data={"path": str(tmp_path / "pairs.jsonl"), "holdout": 0.01,
                                                  "cache": str(tmp_path / "cache")},
                   objective={"name": METHODS[name]}, train={"steps": 2, "batch_size": 1, "device": "cpu"})


@pytest.fixture
def grpo(model, tmp_path):
    name, folder = model
    (tmp_path / "prompts.txt").write_text("\n".join(f"a red fruit {i}" for i in range(2)))
    sampler = {"sampler": "flow_sde", "clean_steps": 1} if name == "sd3" else {"sampler": "ddim", "noise_level": 1.0}
    return written(tmp_path, folder, "grpo", rollout={
        "prompts": str(tmp_path / "prompts.txt"), "holdout": 0.01, "prompts_per_epoch": 1, "group_size": 2,
        "batch_size": 2, "steps": 3, "cache": str(tmp_path / "cache"), **sampler},
        reward={"models": ["sharpness"]}, objective={"name": "grpo"},
        train={"epochs": 1, "batch_size": 2, "device": "cpu"})


def written(tmp_path: Path, folder: Path, name: str, **sections) -> Path:
    recipe = COMMON | {"model": {"source": str(folder), "resolution": 256, "precision": "bf16", "weights": "bf16",
                                 "lora": {"rank": 16, "alpha": 16}},
                       "output": {"folder": str(tmp_path / name), "checkpoint_every": 1, "trackers": []}} | sections
    (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
    return tmp_path / f"{name}.yaml"


def started(*arguments) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", "visalign", *map(str, arguments)], stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True)


def ran(*arguments) -> tuple[str, float]:
    """The output of a command that succeeds, and its peak of resident memory in GiB."""
    process = started(*arguments)
    text = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, text[-3000:]
    return text, usage.ru_maxrss / 2**20


def predicted(recipe: Path, **settings) -> float:
    text, _ = ran("train", recipe, "--dry-run", *(f"{name}={value}" for name, value in settings.items()))
    return float(re.search(r"  peak +([\d.]+) at", text)[1])


def report(name: str, method: str, said: float, measured: float, seconds: float) -> None:
    line = f"| {name} | {method} | {said:.2f} | {measured:.2f} | {measured / said - 1:+.1%} | {seconds:.0f} |"
    print(line)
    if "FULLSIZE_TABLE" in os.environ:
        with open(os.environ["FULLSIZE_TABLE"], "a") as file:
            file.write(line + "\n")


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "export" / "pytorch_lora_weights.safetensors")


def test_a_dpo_run_is_as_large_as_predicted_resumes_to_the_bit_and_loads_in_diffusers(model, dpo, tmp_path):
    name, folder = model
    said, began = predicted(dpo), time.time()
    _, measured = ran("train", dpo)
    report(name, "DPO, LoRA", said, measured, time.time() - began)
    whole = weights(tmp_path / "dpo")
    assert any(value.abs().max() > 0 for key, value in whole.items() if "lora_B" in key)
    losses = [json.loads(line) for line in (tmp_path / "dpo" / "metrics.jsonl").read_text().splitlines()]
    assert next(row for row in losses if row["kind"] == "train")["loss"] == pytest.approx(0.6931, abs=2e-3)

    killed = started("train", dpo, f"output.folder={tmp_path / 'killed'}")
    while not (tmp_path / "killed" / "checkpoints" / "step-00000001" / "state.json").exists():
        assert killed.poll() is None, killed.stdout.read()[-3000:]
        time.sleep(0.2)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    ran("train", dpo, f"output.folder={tmp_path / 'killed'}", "--resume")
    again = weights(tmp_path / "killed")
    assert whole.keys() == again.keys() and all(torch.equal(whole[key], again[key]) for key in whole)

    _, _, output = subprocess.run([sys.executable, "-c", LOADED, folder, tmp_path / "dpo" / "export"], text=True,
                                  capture_output=True, check=True).stdout.rpartition("difference ")
    change, difference = map(float, output.split())
    assert change > 0 and difference < 0.02
    assert measured == pytest.approx(said, rel=0.15)


LOADED = """
import sys, torch, diffusers
from visalign.config import ModelSettings
from visalign.generators import load_generator
from pathlib import Path
folder, export = sys.argv[1:]
ours = load_generator(ModelSettings(source=folder, resolution=256, precision="bf16", weights="bf16"), "cpu")
conditioning = ours.encode_prompts(["a red fruit"])
x = torch.randn(1, *ours.latent_shape(), generator=torch.Generator().manual_seed(0))
t, given = ours.process.times_at(torch.tensor([0.5])), {}
with torch.no_grad():
    before = ours.predict(x, t, conditioning)
    ours.load_adapter(Path(export))
    handle = ours.denoiser.register_forward_pre_hook(lambda m, a, k: given.update(k), with_kwargs=True)
    after = ours.predict(x, t, conditioning)
    rule, name = ours.replay, ours.denoiser_name
    del ours.denoiser, ours.policy
    ours.pipeline = None
    del ours
    import gc; gc.collect()
    theirs = diffusers.DiffusionPipeline.from_pretrained(folder, torch_dtype=torch.bfloat16)
    theirs.load_lora_weights(export)
    with torch.autocast("cpu", torch.bfloat16):
        plain = rule.as_latents(rule._output(getattr(theirs, name)(**given)))
print("difference", float((after - before).norm() / before.norm()), float((plain - after).norm() / after.norm()))
"""


def test_a_grpo_update_is_as_large_as_predicted(model, grpo, tmp_path):
    name, _ = model
    said, began = predicted(grpo), time.time()
    _, measured = ran("train", grpo)
    report(name, "GRPO, LoRA", said, measured, time.time() - began)
    rows = [json.loads(line) for line in (tmp_path / "grpo" / "metrics.jsonl").read_text().splitlines()]
    trained = next(row for row in rows if row["kind"] == "train")
    assert trained["ratio"] == pytest.approx(1, abs=1e-2) and trained["update_norm"] > 0
    assert measured == pytest.approx(said, rel=0.15)
