"""`--dry-run` on a folder with the configuration of a published checkpoint and no weights at all."""

import json
import re
import shutil

import diffusers
import pytest
import torch
from click.testing import CliRunner

from visalign.cli import main
from visalign.generators.lora.adapters import found_targets

FLUX_VAE = {"sample_size": 1024, "latent_channels": 16, "block_out_channels": (128, 256, 512, 512),
            "layers_per_block": 2,
            "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
KLEIN = {"num_layers": 5, "num_single_layers": 20, "num_attention_heads": 24, "joint_attention_dim": 7680,
         "guidance_embeds": False}
PUBLISHED = {
    "z_image": ("ZImageTransformer2DModel", {}, ("AutoencoderKL", FLUX_VAE), {"hidden_size": 2560},
                (6154.91, "16x128x128", 4096)),
    "qwen_image": ("QwenImageTransformer2DModel", {}, ("AutoencoderKLQwenImage", {}), {},
                   (20430.40, "16x128x128", 4096)),
    "flux2_klein": ("Flux2Transformer2DModel", KLEIN, ("AutoencoderKLFlux2", {}), {"hidden_size": 2560},
                    (3875.54, "32x128x128", 4096)),
    "sana": ("SanaTransformer2DModel", {}, ("AutoencoderDC", {}), {"hidden_size": 2304},
             (1604.46, "32x32x32", 1024)),
}
"""By tiny pipeline, of which the rest is taken: network, VAE, text encoder, and millions of parameters, latents,
tokens."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_and_memory_of_a_published_architecture(name, pipelines, tmp_path, pairs_file):
    network, settings, vae, texts, (millions, latents, tokens) = PUBLISHED[name]
    folder = tmp_path / "published"
    shutil.copytree(pipelines(name), folder, ignore=shutil.ignore_patterns("*.safetensors"))
    with torch.device("meta"):
        denoiser = getattr(diffusers, network)(**settings)
        write_config(denoiser, folder / "transformer")
        write_config(getattr(diffusers, vae[0])(**vae[1]), folder / "vae")
    file = folder / "text_encoder" / "config.json"
    tiny = json.loads(file.read_text())
    file.write_text(json.dumps(tiny | texts))
    (tmp_path / "prompts.txt").write_text("a red fruit\n")
    done = CliRunner().invoke(main, [
        "--debug", "train", "sd3_flow_dpo", "--dry-run", f"model={folder}", "model.lora.rank=16",
        "model.prompt_tokens=null", "model.precision=bf16", f"data.path={pairs_file}",
        f"eval.prompts={tmp_path / 'prompts.txt'}", "eval.guidance_scale=null"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    layers = dict(denoiser.named_modules())
    adapter = 16 * sum(sum(layers[each].weight.shape) for each in found_targets(denoiser)) / 1e6
    found = re.search(r"parameters   ([\d,.]+) M, trainable ([\d,.]+) M", done.output)
    total, trainable = (float(each.replace(",", "")) for each in found.groups())
    assert trainable == pytest.approx(adapter, abs=1e-3) and total == pytest.approx(millions + adapter, abs=0.02)
    assert f"samples               1024x1024; latents {latents}, {tokens:,} tokens" in done.output
    held = [float(re.search(rf"  {part} +([\d.]+)", done.output)[1]) for part in (
        "frozen weights", "trained weights", "optimiser")]
    assert sum(held) * 2**30 == pytest.approx(1e6 * (4 * millions + 12 * adapter), rel=0.01)  # on a CPU
    if texts:
        assert re.search(r"step.s backward pass .*with [\d.,]+ activations", done.output)
    else:
        assert "activations are not counted: " in done.output  # the network does not fit the tiny text encoder


def write_config(module, folder) -> None:
    (folder / "config.json").write_text(json.dumps({**module.config, "_class_name": type(module).__name__}))
