"""Exports load without visalign and reproduce the trained model's samples."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open

from tests.families import each_family
from visalign.config.load import load_config
from visalign.generators import load_generator
from visalign.generators.export import export


def trained(recipe, model, tuning):
    config = load_config(recipe(model, model={"tuning": tuning, "lora": {"rank": 2, "alpha": 6}}))
    generator = load_generator(config.model, "cpu")
    for parameter in generator.make_trainable(tuning, rank=2, alpha=6):
        with torch.no_grad():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return config, generator


def sample_plainly(pipeline, extra):
    return np.asarray(pipeline("a cat face", num_inference_steps=3, guidance_scale=2.0, height=16, width=16,
                               generator=torch.Generator().manual_seed(5), **extra).images[0], dtype=int)


@each_family("image")
@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_export_reproduces_samples_without_visalign(recipe, pipelines, tmp_path, name, tuning):
    from diffusers import DiffusionPipeline

    config, generator = trained(recipe, name, tuning)
    options = {name: value for name, value in generator.call.shaped().items() if name not in ("height", "width")}
    [[mine]] = generator.sample(["a cat face"], [5], steps=3, guidance_scale=2.0)
    written = export(generator, tmp_path / "export", config, {"reward change": "+0.1"})
    if tuning == "lora":
        plain = DiffusionPipeline.from_pretrained(pipelines(name))
        untrained = sample_plainly(plain, options)
        files = ["pytorch_lora_weights.safetensors", *(f for f in written if f == "lora_kohya.safetensors")]
        assert len(files) == 1 + generator.has_kohya_names
    else:
        plain, files = DiffusionPipeline.from_pretrained(tmp_path / "export" / "pipeline"), [None]
        untrained = sample_plainly(DiffusionPipeline.from_pretrained(pipelines(name)), options)
    for file in files:
        if file:
            plain.unload_lora_weights()
            plain.load_lora_weights(str(tmp_path / "export"), weight_name=file)
        theirs = sample_plainly(plain, options)
        assert np.abs(np.asarray(mine, dtype=int) - theirs).max() <= 2
    assert np.abs(theirs - untrained).max() > 5


def test_kohya_file_uses_kohyas_names_and_alpha(recipe, tmp_path):
    config, generator = trained(recipe, "sdxl", "lora")
    export(generator, tmp_path, config, {})
    with safe_open(tmp_path / "lora_kohya.safetensors", "pt") as file:
        names = list(file.keys())
        assert all(name.startswith("lora_unet_") for name in names)
        assert {name.split(".", 1)[1] for name in names} == {"lora_down.weight", "lora_up.weight", "alpha"}
        assert file.get_tensor(next(n for n in names if n.endswith("alpha"))).item() == 6


def test_model_card_names_settings_data_figures_and_versions(recipe, tmp_path):
    config, generator = trained(recipe, "sd3", "lora")
    export(generator, tmp_path, config, {"reward change": "+0.1234"})
    card = (tmp_path / "README.md").read_text()
    for word in ("flow_dpo", "+0.1234", "load_lora_weights", "torch 2", config.data.path, json.dumps("fp32")):
        assert word in card
