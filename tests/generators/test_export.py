"""Exports load without visalign and reproduce the trained model's samples."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from tests.families import each_family
from visalign.config.load import load_config
from visalign.errors import UserError
from visalign.generators import load_generator
from visalign.generators.export.exporting import export
from visalign.generators.export.ldm import DTYPES, one_file_holds, write_single_file
from visalign.generators.files.single_file import read_single_file


def trained(recipe, model, tuning, **changes):
    config = load_config(recipe(model, model={"tuning": tuning, "lora": {"rank": 2, "alpha": 6}} | changes))
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


def test_kohya_file_uses_kohyas_names_and_an_alpha_that_changes_nothing(recipe, tmp_path):
    config, generator = trained(recipe, "sdxl", "lora")
    export(generator, tmp_path, config, {})
    with safe_open(tmp_path / "lora_kohya.safetensors", "pt") as file:
        names = list(file.keys())
        assert all(name.startswith("lora_unet_") for name in names)
        assert {name.split(".", 1)[1] for name in names} == {"lora_down.weight", "lora_up.weight", "alpha"}
        assert file.get_tensor(next(n for n in names if n.endswith("alpha"))).item() == 2  # the rank: 6 / 2 is in `up`


def test_model_card_names_settings_data_figures_and_versions(recipe, tmp_path):
    config, generator = trained(recipe, "sd3", "lora")
    export(generator, tmp_path, config, {"reward change": "+0.1234"})
    card = (tmp_path / "README.md").read_text()
    for word in ("flow_dpo", "+0.1234", "load_lora_weights", "torch 2", Path(config.data.path).name,
                 json.dumps("fp32"), "pipeline_tag: text-to-image", "- lora"):
        assert word in card
    assert str(tmp_path.parent) not in card


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_a_full_fine_tune_is_one_file_that_diffusers_reads_to_the_last_bit(recipe, tmp_path, name, precision):
    from diffusers import DiffusionPipeline

    from tests.tiny import builders

    builders()[name](tmp_path / "base", **({"width": 24} if name == "sdxl" else {}))
    config, generator = trained(recipe, name, "full", source=str(tmp_path / "base"))
    config = config.model_copy(update={"output": config.output.model_copy(update={"single_file": precision})})
    written = export(generator, tmp_path / "export", config, {})
    assert "model.safetensors" in written
    whole = DiffusionPipeline.from_pretrained(tmp_path / "export" / "pipeline")
    one = type(whole).from_single_file(tmp_path / "export" / "model.safetensors", config=str(tmp_path / "base"),
                                       local_files_only=True, torch_dtype=DTYPES[precision])
    for part, module in one.components.items():
        if isinstance(module, torch.nn.Module):
            expected = {key: value.to(DTYPES[precision]) for key, value in whole.components[part].state_dict().items()}
            found = module.state_dict()
            assert found.keys() == expected.keys()
            assert all(torch.equal(found[key], value) for key, value in expected.items())


def test_one_file_says_how_it_predicts_and_sd2_has_none(pipelines, tmp_path):
    from diffusers import DiffusionPipeline

    pipeline = DiffusionPipeline.from_pretrained(pipelines("sd15"))
    pipeline.scheduler.register_to_config(prediction_type="v_prediction", rescale_betas_zero_snr=True)
    write_single_file(pipeline, tmp_path / "v.safetensors", "bf16", "mine")
    file = read_single_file(tmp_path / "v.safetensors")
    assert file.noise_settings() == {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True,
                                     "timestep_spacing": "trailing"}
    assert file.metadata["modelspec.architecture"] == "stable-diffusion-v1"
    pipeline.text_encoder.config.hidden_act = "gelu"
    assert not one_file_holds(pipeline)


@torch.no_grad()
def test_a_weight_too_large_for_half_precision_is_named(pipelines, tmp_path):
    from diffusers import DiffusionPipeline

    pipeline = DiffusionPipeline.from_pretrained(pipelines("sd15"))
    pipeline.unet.conv_in.bias[0] = 1e6
    with pytest.raises(UserError, match="output.single_file fp16: 1 of .* not finite .*input_blocks.0.0.bias"):
        write_single_file(pipeline, tmp_path / "v.safetensors", "fp16", "mine")
