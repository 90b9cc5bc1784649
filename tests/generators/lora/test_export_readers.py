"""What other programs make of an export: the rule W + strength (alpha / rank) up down, and the published names."""

import os
import stat

import pytest
import torch
from safetensors.torch import load_file

from tests.families import family_names
from tests.generators.test_export import trained
from visalign.config import ModelSettings
from visalign.generators import load_generator
from visalign.generators.export.exporting import export
from visalign.generators.lora.matching import fit_lora


def products(denoiser):
    """{layer: what it was taught}, at alpha 6 and rank 2."""
    return {name: 3.0 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
            for name, layer in denoiser.named_modules() if hasattr(layer, "lora_A")}


def read_by_the_rule(file):
    """{layer's name in the file: product}; alpha is the rank where none stands."""
    tensors, found = load_file(file), {}
    for name, up in tensors.items():
        for up_end, down_end in ((".lora_up.weight", ".lora_down.weight"), (".lora_B.weight", ".lora_A.weight")):
            if name.endswith(up_end):
                stem = name.removesuffix(up_end)
                down = tensors[stem + down_end]
                alpha = float(tensors.get(f"{stem}.alpha", len(down)))
                found[stem] = alpha / len(down) * up @ down
    return found


WAN = {"self_attn": "attn1", "cross_attn": "attn2", "q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0"}


def wans_layer(name):
    """Our name of a layer of the published Wan."""
    return ".".join(WAN.get(part, part) for part in name.removeprefix("diffusion_model.").split("."))


INTERFACES = {
    "sd15": ("lora_kohya", lambda n: n.removeprefix("lora_unet_")),
    "sdxl": ("lora_kohya", lambda n: n.removeprefix("lora_unet_")),
    "sd3": ("lora_comfyui", lambda n: n.removeprefix("transformer.")),
    "flux": ("lora_comfyui", lambda n: n.removeprefix("transformer.")),
    "wan": ("lora_comfyui", wans_layer), "ltx": ("lora_comfyui", lambda n: n.removeprefix("diffusion_model."))}


@pytest.fixture(params=family_names())
def exported(request, recipe, tmp_path):
    config, generator = trained(recipe, request.param, "lora")
    folder = tmp_path / "export"
    return request.param, generator, folder, export(generator, folder, config, {})


@torch.no_grad()
def test_every_reader_applies_the_strength_that_was_trained(exported):
    name, generator, folder, written = exported
    truth = products(generator.denoiser)
    plain = read_by_the_rule(folder / "pytorch_lora_weights.safetensors")
    assert {f"{generator.denoiser_name}.{layer}" for layer in truth} == set(plain)
    for layer, product in truth.items():
        torch.testing.assert_close(plain[f"{generator.denoiser_name}.{layer}"], product)
    file, ours = INTERFACES.get(name, (None, None))
    assert {f.removesuffix(".safetensors") for f in written} == {"pytorch_lora_weights", "README.md"} | (
        {file} if file else set())
    if file:
        found = {ours(stem): product for stem, product in read_by_the_rule(folder / f"{file}.safetensors").items()}
        lined = {layer.replace(".", "_"): layer for layer in truth}
        found = {lined.get(stem, stem): product for stem, product in found.items()}
        assert found.keys() == truth.keys()
        for layer, product in truth.items():
            torch.testing.assert_close(found[layer], product)
        tensors = load_file(folder / f"{file}.safetensors")
        assert {float(tensors[key]) for key in tensors if key.endswith(".alpha")} == {2.0}  # none is needed


@torch.no_grad()
def test_our_own_loader_and_diffusers_read_every_file(exported):
    _, generator, folder, written = exported
    truth, name = products(generator.denoiser), generator.denoiser_name
    shape = generator.shape
    fresh = load_generator(ModelSettings(source=generator.pipeline.config._name_or_path, resolution=list(shape.size),
                                         frames=shape.frames, fps=shape.fps, precision="fp32"), "cpu")
    for file in (f for f in written if f.endswith(".safetensors")):
        found = fit_lora(folder / file, {name: fresh.denoiser}, type(fresh.pipeline), name)[name]
        assert found.keys() == truth.keys()
        for layer, product in truth.items():
            torch.testing.assert_close(found[layer].up @ found[layer].down, product)
    fresh.pipeline.load_lora_weights(str(folder))
    for layer, product in truth.items():
        loaded = fresh.denoiser.get_submodule(layer)
        torch.testing.assert_close(loaded.get_delta_weight("default_0"), product)


@torch.no_grad()
def test_wans_file_is_what_its_published_names_mean_to_diffusers(recipe, tmp_path):
    config, generator = trained(recipe, "wan", "lora")
    export(generator, tmp_path, config, {})
    state = type(generator.pipeline).lora_state_dict(load_file(tmp_path / "lora_comfyui.safetensors"))
    for layer, product in products(generator.denoiser).items():
        up, down = (state[f"transformer.{layer}.lora_{side}.weight"] for side in "BA")
        torch.testing.assert_close(up @ down, product)


def test_exported_files_have_the_mode_of_any_file(recipe, tmp_path):
    before = os.umask(0o027)
    try:
        for tuning in ("lora", "full"):
            config, generator = trained(recipe, "sd15", tuning)
            export(generator, tmp_path / tuning, config, {})
    finally:
        os.umask(before)
    files = [file for file in tmp_path.glob("*/**/*") if file.is_file() and {"lora", "full"} & set(file.parts)]
    assert len(files) > 8 and {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o640}


def published_clip(layers):
    """Names of a CLIP text encoder's weights in the published checkpoints."""
    found = {"text_model.embeddings.token_embedding.weight", "text_model.embeddings.position_embedding.weight"}
    ends = {"weight", "bias"}
    found |= {f"text_model.final_layer_norm.{end}" for end in ends}
    parts = ["layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2", *(f"self_attn.{side}_proj" for side in
                                                                   ("q", "k", "v", "out"))]
    return found | {f"text_model.encoder.layers.{i}.{part}.{end}" for i in range(layers) for part in parts
                    for end in ends}


@pytest.mark.parametrize("name, encoders", [
    ("sd15", {"text_encoder": False}), ("sdxl", {"text_encoder": False, "text_encoder_2": True}),
    ("sd3", {"text_encoder": True, "text_encoder_2": True}), ("flux", {"text_encoder": False}),
    ("hunyuan", {"text_encoder_2": False})])
@torch.no_grad()
def test_clip_encoders_are_exported_under_the_published_names(recipe, tmp_path, name, encoders):
    config, generator = trained(recipe, name, "full")
    export(generator, tmp_path / "export", config, {})
    folder = tmp_path / "export" / "pipeline"
    ids = torch.tensor([[1, 5, 9, 2]])
    for part, projects in encoders.items():
        tensors = load_file(folder / part / "model.safetensors")
        assert set(tensors) - {"text_model.embeddings.position_ids"} == published_clip(2) | (
            {"text_projection.weight"} if projects else set())
        mine = getattr(generator.pipeline, part)
        again = type(mine).from_pretrained(folder / part)
        assert torch.equal(again(ids).last_hidden_state, mine(ids).last_hidden_state)


@torch.no_grad()
def test_an_exported_encoder_is_read_from_a_single_file_of_the_original_layout(recipe, tmp_path):
    from diffusers.loaders.single_file_utils import create_diffusers_clip_model_from_ldm
    from transformers import CLIPTextModel

    config, generator = trained(recipe, "sd15", "full")
    export(generator, tmp_path / "export", config, {})
    folder = tmp_path / "export" / "pipeline" / "text_encoder"
    original = {f"cond_stage_model.transformer.{name}": tensor
                for name, tensor in load_file(folder / "model.safetensors").items()}
    read = create_diffusers_clip_model_from_ldm(CLIPTextModel, original, config=str(folder), local_files_only=True)
    ids = torch.tensor([[1, 5, 9, 2]])
    assert torch.equal(read(ids).last_hidden_state, generator.pipeline.text_encoder(ids).last_hidden_state)
