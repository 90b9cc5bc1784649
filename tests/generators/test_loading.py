"""Families found from the index, and everything that is refused before weights are read."""

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from tests.families import each_family
from visalign.config import ModelSettings
from visalign.errors import UserError
from visalign.generators import load_generator, loading, locate_model
from visalign.generators.hardware.devices import pick_device, pick_dtype


@pytest.mark.parametrize("name, kind, prediction", [
    ("sd3", "flow", "velocity"), ("sdxl", "diffusion", "epsilon"), ("sd15", "diffusion", "epsilon"),
    ("sd15-v", "diffusion", "v_prediction")])
def test_process_is_the_one_the_checkpoint_was_trained_with(pipelines, name, kind, prediction):
    process = load_generator(str(pipelines(name)), "cpu").process
    assert (process.kind, process.prediction_type) == (kind, prediction)


def test_encoding_then_decoding_uses_one_latent_scale(pipelines):
    generator = load_generator(str(pipelines("sd3")), "cpu")
    latents = generator.encode_media(torch.zeros(1, 3, 16, 16))
    config = generator.pipeline.vae.config
    raw = generator.pipeline.vae.encode(torch.zeros(1, 3, 16, 16)).latent_dist.mode()
    torch.testing.assert_close(latents, (raw - (config.shift_factor or 0)) * config.scaling_factor)
    assert generator.decode(latents)[0].size == (16, 16)


def test_denoiser_from_a_single_file(pipelines, tmp_path):
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(pipelines("sdxl"), subfolder="unet")
    changed = {k: v * 1.5 for k, v in unet.state_dict().items()}
    save_file(changed, tmp_path / "mine.safetensors")
    generator = load_generator(ModelSettings(source=str(tmp_path / "mine.safetensors"), base=str(pipelines("sdxl"))),
                               "cpu")
    torch.testing.assert_close(dict(generator.denoiser.named_parameters())["conv_in.weight"], changed["conv_in.weight"])


@pytest.mark.parametrize("make, word", [
    (lambda p: p / "nowhere", "no such folder"),
    (lambda p: p, "model_index.json"),
    (lambda p: p / "weights.ckpt", "pickled"),
    (lambda p: p / "weights.bin", "pickled"),
    (lambda p: p / "weights.safetensors", "no such file"),
])
def test_what_is_no_pipeline_is_refused(tmp_path, make, word):
    with pytest.raises(UserError, match=word):
        locate_model(ModelSettings(source=str(make(tmp_path))))


def test_single_file_of_a_family_without_a_configuration_needs_a_base(tmp_path):
    save_file({"patch_embedding.weight": torch.zeros(1), "blocks.0.self_attn.q.weight": torch.zeros(1)},
              tmp_path / "mine.safetensors")
    with pytest.raises(UserError, match=r"WanPipeline's denoiser.*model\.base"):
        locate_model(ModelSettings(source=str(tmp_path / "mine.safetensors")))


def test_corrupt_single_file_is_named(tmp_path, pipelines):
    (tmp_path / "mine.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(UserError, match=r"mine\.safetensors"):
        load_generator(ModelSettings(source=str(tmp_path / "mine.safetensors"), base=str(pipelines("sdxl"))), "cpu")


def test_unsupported_pipeline_class_lists_the_supported(tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "KandinskyPipeline"}))
    with pytest.raises(UserError, match="KandinskyPipeline.*StableDiffusion3Pipeline"):
        locate_model(ModelSettings(source=str(tmp_path)))


def test_pickled_weights_in_a_folder_are_refused(tmp_path, pipelines):
    shutil.copytree(pipelines("sdxl"), tmp_path / "old")
    for file in (tmp_path / "old" / "unet").glob("*.safetensors"):
        file.rename(file.with_suffix(".bin"))
    with pytest.raises(UserError, match="unet.*pickled"):
        locate_model(ModelSettings(source=str(tmp_path / "old")))


def test_missing_weights_are_one_sentence(tmp_path, pipelines):
    shutil.copytree(pipelines("sdxl"), tmp_path / "half")
    for file in (tmp_path / "half" / "unet").glob("*.safetensors"):
        file.unlink()
    with pytest.raises(UserError, match="could not be loaded"):
        load_generator(str(tmp_path / "half"), "cpu")


def test_hub_that_cannot_be_reached_is_one_sentence():
    with pytest.raises(UserError, match="someone/something"):
        locate_model(ModelSettings(source="someone/something"))


def test_precision_choices():
    cpu = pick_device("cpu")
    assert pick_dtype("fp32", cpu) == torch.float32 and pick_dtype("fp16", cpu) == torch.float16
    assert pick_dtype("auto", cpu) in (torch.bfloat16, torch.float32)


@pytest.mark.skipif(torch.cuda.is_available(), reason="only where there is no GPU")
def test_cuda_without_a_gpu_is_refused():
    with pytest.raises(UserError, match="cuda"):
        pick_device("cuda")


@pytest.mark.gpu
@each_family("image", also=("sd15-v",))
def test_sampling_on_a_gpu_in_bf16(pipelines, name):
    generator = load_generator(ModelSettings(source=str(pipelines(name)), precision="bf16"), "cuda")
    [[image]] = generator.sample(["a cat face"], [7], steps=3, guidance_scale=2.0)
    assert image.size == (16, 16) and generator.pipeline.vae.dtype == torch.float32


@pytest.mark.parametrize("large", [0, 500_000_000])
def test_only_large_networks_pay_for_memory_without_holes(pipelines, monkeypatch, large):
    called = []
    monkeypatch.setattr(loading, "LARGE_PIPELINE", large)
    monkeypatch.setattr(loading, "keep_no_holes", lambda: called.append(large))
    load_generator(str(pipelines("sd15")), "cpu")
    assert called == [0] * (large == 0)
