"""Single files: what they hold is taken from them, what they lack from the base, and they say how they predict."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.generators.files.original_files import clip_tensors, open_clip_tensors, unet_tensors, vae_tensors
from visalign.config import ModelSettings
from visalign.errors import UserError
from visalign.generators import load_generator, locate_model


def load(folder, file=None):
    settings = {"source": str(folder)} if file is None else {"source": str(file), "base": str(folder)}
    return load_generator(ModelSettings(**settings, precision="fp32"), "cpu")


@pytest.fixture(scope="module")
def moved(pipelines):
    """A pipeline whose every weight differs from the base folder's, by name."""
    def get(name):
        generator = load(pipelines(name))
        with torch.no_grad():
            for module in (generator.denoiser, *generator.frozen_modules()):
                for parameter in module.parameters():
                    parameter.mul_(1.25)
        return generator

    found = {name: get(name) for name in ("sd15", "sdxl-two-widths")}
    return found.__getitem__


def parts_of(generator):
    return {name: part for name, part in generator.pipeline.components.items() if isinstance(part, torch.nn.Module)}


def same(a, b) -> bool:
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def tensors(generator, *parts: str) -> dict:
    pipeline, found = generator.pipeline, {}
    if "unet" in parts:
        found |= unet_tensors(pipeline.unet)
    if "vae" in parts:
        found |= vae_tensors(pipeline.vae)
    prefix = "conditioner.embedders.0.transformer." if hasattr(pipeline, "text_encoder_2") else \
        "cond_stage_model.transformer."
    if "text_encoder" in parts:
        found |= clip_tensors(pipeline.text_encoder, prefix)
    if "text_encoder_2" in parts:
        found |= open_clip_tensors(pipeline.text_encoder_2, "conditioner.embedders.1.model.")
    return {name: tensor.contiguous() for name, tensor in found.items()}


@pytest.mark.parametrize("name, parts", [
    ("sd15", ("unet", "vae", "text_encoder")), ("sd15", ("unet", "vae")), ("sd15", ("unet", "text_encoder")),
    ("sd15", ("unet",)), ("sdxl-two-widths", ("unet", "vae", "text_encoder", "text_encoder_2")),
    ("sdxl-two-widths", ("unet", "vae"))])
def test_parts_come_from_the_file_or_from_the_base(pipelines, moved, tmp_path, name, parts):
    save_file(tensors(moved(name), *parts), tmp_path / "mine.safetensors")
    base, own, found = parts_of(load(pipelines(name))), parts_of(moved(name)), \
        parts_of(load(pipelines(name), tmp_path / "mine.safetensors"))
    assert found.keys() == base.keys()
    for part, module in found.items():
        assert same(module, (own if part in parts else base)[part]), part


@pytest.mark.parametrize("marks, prediction, last", [
    ((), "epsilon", False), (("v_pred",), "v_prediction", False), (("v_pred", "ztsnr"), "v_prediction", True)])
@pytest.mark.parametrize("original", [True, False])
def test_marks_in_the_file_set_prediction_and_noise(pipelines, tmp_path, original, marks, prediction, last):
    folder = pipelines("sdxl")
    weights = tensors(load(folder), "unet") if original else load_file(
        folder / "unet" / "diffusion_pytorch_model.safetensors")
    save_file(weights | {mark: torch.tensor([]) for mark in marks}, tmp_path / "mine.safetensors")
    generator = load(folder, tmp_path / "mine.safetensors")
    assert generator.process.prediction_type == prediction
    assert (generator.process.alphas_cumprod[-1] < 1e-6) == last
    config = generator.pipeline.scheduler.config
    assert config.prediction_type == prediction and bool(config.rescale_betas_zero_snr) == last
    assert (config.timestep_spacing == "trailing") == last


def test_metadata_says_it_too(pipelines, tmp_path):
    folder = pipelines("sd15")
    save_file(load_file(folder / "unet" / "diffusion_pytorch_model.safetensors"), tmp_path / "mine.safetensors",
              {"modelspec.prediction_type": "v"})
    assert load(folder, tmp_path / "mine.safetensors").process.prediction_type == "v_prediction"


def test_a_sampler_that_knows_no_zero_snr_is_replaced(pipelines, tmp_path):
    import json
    import shutil

    folder = shutil.copytree(pipelines("sd15"), tmp_path / "base")
    for file in (folder / "model_index.json", folder / "scheduler" / "scheduler_config.json"):
        file.write_text(file.read_text().replace("DDIMScheduler", "PNDMScheduler"))
    assert json.loads((folder / "model_index.json").read_text())["scheduler"][1] == "PNDMScheduler"
    weights = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    save_file(weights | {"v_pred": torch.tensor([]), "ztsnr": torch.tensor([])}, tmp_path / "mine.safetensors")
    generator = load(folder, tmp_path / "mine.safetensors")
    assert generator.process.alphas_cumprod[-1] < 1e-6
    assert type(generator.pipeline.scheduler).__name__ == "EulerDiscreteScheduler"


@pytest.mark.parametrize("names, base, words", [
    (("model.diffusion_model.input_blocks.0.0.weight",), "sdxl", ("StableDiffusionPipeline", "model.base")),
    (("model.diffusion_model.label_emb.0.0.weight",), "sd15", ("StableDiffusionXLPipeline", "model.base")),
    (("double_blocks.0.img_attn.qkv.weight",), "sd3", ("FluxPipeline",)),
    (("joint_blocks.0.x_block.attn.qkv.weight",), "flux", ("StableDiffusion3Pipeline",)),
    (("patch_embedding.weight", "blocks.0.self_attn.q.weight"), "sd3", ("WanPipeline",)),
    (("lora_unet_down_blocks_0.lora_down.weight",), "sd15", ("is a LoRA", "--lora")),
    (("encoder.conv_in.weight", "decoder.conv_in.weight"), "sd15", ("decoder.conv_in.weight", "is a VAE",
                                                                                "model.parts.vae")),
    (("text_model.final_layer_norm.bias",), "sd15", ("is a text encoder",)),
    (("input_blocks.0.0.weight", "conditioner.embedders.0.model.text_projection"), "sd15", ("no known way",)),
    (("label_emb.0.0.weight", "edm_mean", "edm_std"), "sdxl", ("edm_mean", "EDM")),
    (("label_emb.0.0.weight", "edm_vpred.sigma_max"), "sdxl", ("edm_vpred.sigma_max", "EDM")),
    ((), "sd15", ("supported family",)),
])
def test_what_a_file_is_not_is_said_from_its_header(pipelines, tmp_path, names, base, words):
    save_file({name: torch.zeros(1) for name in names}, tmp_path / "mine.safetensors")
    with pytest.raises(UserError) as caught:
        locate_model(ModelSettings(source=str(tmp_path / "mine.safetensors"), base=str(pipelines(base))))
    assert all(word in str(caught.value) for word in ("mine.safetensors", *words))
