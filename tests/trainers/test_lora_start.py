"""Runs that begin with LoRAs: what they are compared with, resuming, and what is evaluated of them afterwards."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from visalign.evaluation.sources import base_source, checkpoint_source, run_source

from .commands import fails, rows, run, weights

Q = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"


@pytest.fixture
def start(tmp_path):
    """A LoRA of one layer of the tiny SD 1.5, of rank 2 and alpha 4."""
    rng = torch.Generator().manual_seed(3)
    file = tmp_path / "start.safetensors"
    save_file({f"{Q}.lora_down.weight": torch.randn(2, 16, generator=rng), f"{Q}.alpha": torch.tensor(4.0),
               f"{Q}.lora_up.weight": torch.randn(16, 2, generator=rng)}, file)
    return file


QUIET = {"eval": {"max_prompts": 1, "samples_per_prompt": 1, "features": None, "reward": "contrast", "also": []}}


def begun(start, **model):
    return {"model": {"lora": {"start": str(start)}, "loras": [{"path": str(start), "strength": 0.5}]} | model} | QUIET


@torch.no_grad()
def seen(source):
    generator = source.load("cpu")
    latents = torch.randn(1, *generator.latent_shape(), generator=torch.Generator().manual_seed(0))
    t = generator.process.times_at(torch.tensor([0.5]))
    return generator.predict(latents, t, generator.encode_prompts(["a red fruit"]))


def test_a_run_begins_as_its_reference_resumes_to_the_same_bits_and_exports_everything(recipe, tmp_path, start):
    file, folder = recipe("sd15", **begun(start)), tmp_path / "run"
    run(file, "output.keep_checkpoints=0")
    assert rows(folder)[0]["loss"] == pytest.approx(0.69314718, abs=1e-7)
    last = weights(folder)
    assert {name.rsplit(".", 3)[1] for name in last} == {"lora_A", "lora_B"} and len(last) == 2
    assert "rank: 2" in (folder / "config.yaml").read_text() and "alpha: 4.0" in (folder / "config.yaml").read_text()
    exported, base = seen(run_source("run", folder)), seen(base_source("base", folder))
    trained = seen(checkpoint_source("step", folder / "checkpoints" / "step-00000004"))
    torch.testing.assert_close(exported, trained, atol=1e-6, rtol=1e-5)
    assert (base - trained).abs().max() > 1e-4
    assert "start.safetensors at strength 0.5" in (folder / "export" / "README.md").read_text()
    shutil.rmtree(folder / "checkpoints" / "step-00000004")
    run(file, "output.keep_checkpoints=0", "--resume")
    assert all(torch.equal(value, last[name]) for name, value in weights(folder).items())
    save_file({name: 2 * value if "up" in name else value for name, value in load_file(start).items()}, start)
    said = fails(file, "--resume")
    assert f"lora {start}: is not the file that the run in" in said and "cannot be resumed" in said


@pytest.mark.parametrize("reference", ["start", "base"])
def test_an_online_run_begins_at_ratio_1_and_no_distance_from_its_start(online_recipe, tmp_path, start, reference):
    run(online_recipe("sd15", "grpo", objective={"beta": 0.1}, train={"epochs": 1},
                      **begun(start, reference=reference)))
    first = rows(tmp_path / "run")[0]
    assert first["ratio"] == pytest.approx(1, abs=1e-6)
    assert first["kl"] == 0 if reference == "start" else first["kl"] > 1e-4
