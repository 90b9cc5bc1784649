"""LoRA files as the programs of the field write them give the same matrices; what does not fit whole is refused."""

import json

import pytest
import torch
from safetensors.torch import save_file

from visalign.config import ModelSettings
from visalign.errors import UserError
from visalign.generators import load_generator
from visalign.generators.files.sketching import check_adapter
from visalign.generators.lora.files import find_lora
from visalign.generators.lora.layers import attach
from visalign.generators.lora.matching import fit_lora

Q = "transformer_blocks.0.attn.to_q"
RANK = 2


@pytest.fixture(scope="module")
def generators(pipelines):
    """A tiny generator by name, loaded once; tests leave it as it was."""
    loaded = {}

    def get(name):
        if name not in loaded:
            loaded[name] = load_generator(ModelSettings(source=str(pipelines(name)), precision="fp32", prompt_tokens=8),
                                          "cpu")
        return loaded[name]

    return get


def matrices(layer, rank=RANK):
    generator = torch.Generator().manual_seed(3)
    return (torch.randn(rank, layer.in_features, generator=generator),
            torch.randn(layer.out_features, rank, generator=generator))


def named(stem, pair, ends, alpha=None):
    found = {f"{stem}.{end}.weight": matrix for end, matrix in zip(ends, pair, strict=True)}
    return found if alpha is None else found | {f"{stem}.alpha": torch.tensor(float(alpha))}


def fitted(generator, path):
    pipeline = generator.pipeline
    parts = {name: getattr(pipeline, name) for name in pipeline._lora_loadable_modules if getattr(pipeline, name, None)}
    return fit_lora(path, parts, type(pipeline), generator.denoiser_name)


PEFT, KOHYA, OLD = ("lora_A", "lora_B"), ("lora_down", "lora_up"), ("down", "up")
LINED = Q.replace(".", "_")


@pytest.mark.parametrize("stem, ends, alpha, scale", [
    (f"transformer.{Q}", PEFT, None, 1.0), (f"transformer.{Q}", PEFT, 1, 0.5), (Q, PEFT, 4, 2.0),
    (f"transformer.{Q}", ("lora_A.default", "lora_B.default"), None, 1.0),
    (f"base_model.model.{Q}", PEFT, 1, 0.5), (f"diffusion_model.{Q}", PEFT, 1, 0.5),
    (f"lora_transformer_{LINED}", KOHYA, 1, 0.5), (f"lora_unet_{LINED}", KOHYA, 6, 3.0),
    (f"lycoris_{LINED}", KOHYA, None, 1.0), (f"transformer.{Q}_lora", OLD, 1, 0.5),
    ("transformer.transformer_blocks.0.attn.processor.to_q_lora", OLD, None, 1.0)])
def test_every_spelling_gives_the_same_matrices_with_alpha_in_them(generators, tmp_path, stem, ends, alpha, scale):
    generator = generators("sd3")
    pair = matrices(generator.denoiser.get_submodule(Q))
    tensors = named(stem, pair, ends)
    if alpha is not None:
        tensors[f"{stem.removesuffix('_lora')}.alpha"] = torch.tensor(float(alpha))
    save_file(tensors, tmp_path / "l.safetensors")
    found = fitted(generator, tmp_path / "l.safetensors")
    assert found.keys() == {"transformer"} and found["transformer"].keys() == {Q}
    torch.testing.assert_close(found["transformer"][Q].down, pair[0])
    torch.testing.assert_close(found["transformer"][Q].up, scale * pair[1])


@pytest.mark.parametrize("settings, scale", [
    ({"r": 2, "lora_alpha": 6}, 3.0), ({"r": 2, "lora_alpha": 6, "use_rslora": True}, 6 / 2**0.5),
    ({"r": 2, "lora_alpha": 6, "alpha_pattern": {"to_q": 1}}, 0.5)])
def test_an_adapter_folder_has_the_strength_of_its_settings(generators, tmp_path, settings, scale):
    generator = generators("sd3")
    pair = matrices(generator.denoiser.get_submodule(Q))
    save_file(named(f"base_model.model.{Q}", pair, PEFT), tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"} | settings))
    torch.testing.assert_close(fitted(generator, tmp_path)["transformer"][Q].up, scale * pair[1])


@pytest.mark.parametrize("name, stem, place", [
    ("sdxl", "lora_te1_text_model_encoder_layers_0_mlp_fc2", ("text_encoder", "encoder.layers.0.mlp.fc2")),
    ("sdxl", "text_encoder.text_model.encoder.layers.1.mlp.fc1", ("text_encoder", "encoder.layers.1.mlp.fc1")),
    ("sdxl", "lora_te2_text_projection", ("text_encoder_2", "text_projection")),
    ("sd15", "lora_te_text_model_encoder_layers_0_mlp_fc1", ("text_encoder", "encoder.layers.0.mlp.fc1"))])
def test_text_encoders_are_found_under_both_of_their_namings(generators, tmp_path, name, stem, place):
    generator = generators(name)
    network, module = place
    layer = getattr(generator.pipeline, network).get_submodule(module)
    save_file(named(stem, matrices(layer), KOHYA, alpha=1), tmp_path / "l.safetensors")
    found = fitted(generator, tmp_path / "l.safetensors")
    assert [(part, *pairs) for part, pairs in found.items()] == [place]


def test_original_names_come_through_diffusers(generators, tmp_path):
    flux = generators("flux")
    size = flux.denoiser.config.num_attention_heads * flux.denoiser.config.attention_head_dim
    down, up = torch.randn(RANK, size), torch.randn(3 * size, RANK)
    stem = "lora_unet_double_blocks_0_img_attn_qkv"
    save_file({f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up, f"{stem}.alpha": torch.tensor(1.0)},
              tmp_path / "l.safetensors")
    found = fitted(flux, tmp_path / "l.safetensors")["transformer"]
    assert set(found) == {f"transformer_blocks.0.attn.to_{side}" for side in "qkv"}
    products = torch.cat([found[f"transformer_blocks.0.attn.to_{side}"].up
                          @ found[f"transformer_blocks.0.attn.to_{side}"].down for side in "qkv"])
    torch.testing.assert_close(products, 0.5 * up @ down)


def test_names_that_diffusers_cannot_convert_are_left_over_and_its_other_errors_surface(
        generators, tmp_path, monkeypatch):
    flux, pair = generators("flux"), (torch.ones(2, 16), torch.ones(16, 2))
    for stem in ("lora_transformer_other",  # NotImplementedError
                 "lora_unet_other",  # ValueError
                 "double_blocks.0.processor.qkv",  # KeyError
                 "lora_unet_double_blocks_0_img_attn_qkv"):  # RuntimeError: 16 rows are no three parts
        save_file(named(stem, pair, KOHYA), tmp_path / "l.safetensors")
        with pytest.raises(UserError, match="adapted layers are not in FluxPipeline"):
            fitted(flux, tmp_path / "l.safetensors")
    monkeypatch.setattr(type(flux.pipeline), "lora_state_dict", lambda state: state)
    with pytest.raises(TypeError, match="return_alphas"):
        fitted(flux, tmp_path / "l.safetensors")


def test_strength_scales_text_encoders_too_and_unloading_gives_the_base_back(generators, tmp_path):
    generator = generators("sdxl")
    encoder = generator.pipeline.text_encoder
    layer = "encoder.layers.0.self_attn.q_proj"
    save_file(named(f"text_encoder.{layer}", matrices(encoder.get_submodule(layer)), PEFT), tmp_path / "l.safetensors")
    x = torch.randn(3, 16)

    def out():
        return encoder.get_submodule(layer)(x)

    base = out()
    generator.load_adapter(tmp_path / "l.safetensors")
    full = out()
    generator.set_adapter_strength(0.0)
    assert torch.equal(out(), base)
    generator.set_adapter_strength(0.5)
    torch.testing.assert_close(out() - base, (full - base) / 2)
    generator.unload_adapter()
    assert torch.equal(out(), base) and (full - base).abs().max() > 0.1


def test_layers_of_different_ranks_stand_side_by_side(generators):
    from visalign.generators.lora.layers import LoraMatrices

    denoiser = torch.nn.Sequential()
    denoiser = generators("sd15").denoiser
    names = [name for name, module in denoiser.named_modules() if isinstance(module, torch.nn.Linear)][:3]
    pairs = {name: LoraMatrices(*matrices(denoiser.get_submodule(name), rank)) for rank, name in enumerate(names, 1)}
    before = {name: denoiser.get_submodule(name)(torch.ones(denoiser.get_submodule(name).in_features))
              for name in names}
    attach(denoiser, pairs, "lora_0")
    for name, pair in pairs.items():
        layer = denoiser.get_submodule(name)
        ones = torch.ones(layer.in_features)
        torch.testing.assert_close(layer(ones), before[name] + pair.up @ pair.down @ ones)
    generators("sd15").unload_adapter()


def test_the_run_folder_stands_for_its_export(tmp_path):
    run = tmp_path / "run"
    (run / "export").mkdir(parents=True)
    (run / "config.yaml").write_text("")
    with pytest.raises(UserError, match="has not finished"):
        find_lora(run)
    save_file({"x": torch.zeros(1)}, run / "export" / "pytorch_lora_weights.safetensors")
    assert find_lora(run) == run / "export" / "pytorch_lora_weights.safetensors"
    (run / "export" / "pipeline").mkdir()
    with pytest.raises(UserError, match="trained all weights; give .*pipeline as the model"):
        find_lora(run)


def cut_off(folder):
    save_file({f"transformer.{Q}.lora_A.weight": torch.ones(64, 64)}, folder / "l.safetensors")
    data = (folder / "l.safetensors").read_bytes()
    (folder / "l.safetensors").write_bytes(data[:len(data) // 2])


def saved(tensors):
    return lambda folder: save_file(tensors, folder / "l.safetensors")


GOOD = named(f"transformer.{Q}", (torch.ones(2, 16), torch.ones(16, 2)), PEFT)


@pytest.mark.parametrize("write, words", [
    (lambda f: (f / "l.safetensors").write_text("<!DOCTYPE html><p>Sign in"), "web page"),
    (lambda f: (f / "l.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid x"), "Git LFS"),
    (lambda f: (f / "l.safetensors").write_bytes(b""), "empty"),
    (lambda f: (f / "l.safetensors").write_bytes(b"GGUF" + bytes(60)), "GGUF"),
    (lambda f: (f / "l.safetensors").write_bytes(b"PK\x03\x04" + bytes(60)), "pickle"),
    (cut_off, "cut off"), (saved({}), "no tensor"),
    (saved(GOOD | {f"transformer.{Q}.lora_B.weight": torch.full((16, 2), torch.nan)}), "1 of 2 tensors are not finite"),
    (saved(GOOD | {f"transformer.{Q}.lora_A.weight": torch.full((2, 16), torch.inf)}), "not finite"),
    (saved({f"transformer.{Q}.lora_A.weight": torch.ones(2, 16)}), "1 layers lack one"),
    (saved({f"lora_unet_{LINED}.hada_w1_a": torch.ones(16, 2)}), "1 layers lack one"),
    (saved(GOOD | {f"transformer.{Q}.lokr_w1": torch.ones(4, 4)}), "1 layers lack one"),
    (saved(GOOD | {"something.else": torch.ones(3)}), "1 of 3 tensors are no part"),
    (saved(GOOD | {f"transformer.{Q}.dora_scale": torch.ones(1, 16)}), "DoRA by columns"),
    (saved(GOOD | {f"transformer.{Q}.lora_magnitude_vector": torch.ones(15)}), "lengths of 15.*16 rows"),
    (saved({f"lora_unet_{LINED}.lokr_w{n}": torch.ones(4, 3 + n) for n in (1, 2)}), "lokr_w2 4 x 5.*layer of 16 x 16"),
    (saved({f"lora_unet_{LINED}.oft_R.weight": torch.ones(2, 2)}), "OFT"),
    (saved(GOOD | named("transformer.transformer_blocks.9.attn.to_q", (torch.ones(2, 16), torch.ones(16, 2)), PEFT)),
     "1 of 2 adapted layers are not in StableDiffusion3Pipeline.*blocks.9"),
    (saved(named("unet.down_blocks.0.attn1.to_q", (torch.ones(2, 16), torch.ones(16, 2)), PEFT)),
     "1 of 1 adapted layers.*Stable Diffusion 1, 2 or XL"),
    (saved(named("lora_unet_double_blocks_0_img_attn_qkv", (torch.ones(2, 16), torch.ones(48, 2)), KOHYA)), "FLUX"),
    (saved(named(f"transformer.{Q}", (torch.ones(2, 24), torch.ones(16, 2)), PEFT)), "2 x 24 .*takes rank x 16"),
    (saved(named(f"transformer.{Q}", (torch.ones(2, 16), torch.ones(16, 3)), PEFT)), "16 x 3, and"),
    (saved(named(f"transformer.{Q}", (torch.ones(2, 16), torch.ones(1)), PEFT)), "another model"),
])
def test_what_does_not_fit_whole_is_one_sentence(pipelines, tmp_path, write, words):
    write(tmp_path)
    with pytest.raises(UserError, match=f"(?s)^lora .*l.safetensors: .*{words}") as raised:
        check_adapter(ModelSettings(source=str(pipelines("sd3"))), tmp_path / "l.safetensors")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("settings, words", [
    (None, "adapter_config.json: there is no such file"), ("{", "not readable as JSON"), ("[]", "not a JSON object"),
    ('{"peft_type": "OFT"}', "peft_type OFT"), ('{"peft_type": "LOHA"}', "settings are those of a loha"),
    ('{"use_dora": true}', "settings are those of a dora"),
    ('{"init_lora_weights": "pissa_niter_4"}', "pissa"), ('{"lora_alpha": "x"}', "lora_alpha 'x'")])
def test_settings_of_another_adapter_are_refused(generators, tmp_path, settings, words):
    save_file(named(f"base_model.model.{Q}", (torch.ones(2, 16), torch.ones(16, 2)), PEFT),
              tmp_path / "adapter_model.safetensors")
    if settings:
        (tmp_path / "adapter_config.json").write_text(settings)
    with pytest.raises(UserError, match=words):
        fitted(generators("sd3"), tmp_path)


@pytest.mark.parametrize("files, words", [
    ((), "holds no .safetensors file"), (("a.bin",), "pickled"), (("a.safetensors", "b.safetensors"), "several files"),
    (("lora/adapter_model.safetensors",), "give .*/lora"), (("model_index.json",), "give it as the model"),
    (("state.json", "trainable.safetensors"), "checkpoint of a run")])
def test_a_folder_says_which_file_is_meant(tmp_path, files, words):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    with pytest.raises(UserError, match=words):
        find_lora(tmp_path)


@pytest.mark.parametrize("name", ["l.bin", "l.ckpt", "l.txt", "none.safetensors"])
def test_other_endings_and_missing_files_are_refused(tmp_path, name):
    if name != "none.safetensors":
        (tmp_path / name).write_text("x")
    with pytest.raises(UserError, match="no such file" if name.startswith("none") else "only .safetensors"):
        find_lora(tmp_path / name)


def test_a_file_that_changes_nothing_is_told(generators, tmp_path, capsys):
    save_file(named(f"transformer.{Q}", (torch.ones(2, 16), torch.zeros(16, 2)), PEFT), tmp_path / "l.safetensors")
    generators("sd3").load_adapter(tmp_path / "l.safetensors")
    generators("sd3").unload_adapter()
    assert "changes nothing" in capsys.readouterr().out


def test_a_refused_file_leaves_the_model_as_it_was(generators, tmp_path):
    generator = generators("sd3")
    names = list(generator.denoiser.state_dict())
    saved(GOOD | named("transformer.nowhere", (torch.ones(2, 16), torch.ones(16, 2)), PEFT))(tmp_path)
    with pytest.raises(UserError):
        generator.load_adapter(tmp_path / "l.safetensors")
    assert list(generator.denoiser.state_dict()) == names


def test_diffusers_own_loader_gives_the_same_predictions(generators, tmp_path):
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    generator = generators("sdxl")
    pipeline = generator.pipeline
    weights = {}
    for part in ("unet", "text_encoder", "text_encoder_2"):
        network = getattr(pipeline, part)
        network.add_adapter(LoraConfig(r=2, lora_alpha=3, init_lora_weights=False, target_modules=["to_q", "q_proj"]),
                            adapter_name="default")
        weights[part] = get_peft_model_state_dict(network, adapter_name="default")
    settings = {part: getattr(pipeline, part).peft_config["default"].to_dict() for part in weights}
    type(pipeline).save_lora_weights(
        tmp_path, *weights.values(),
        **{f"{part}_lora_adapter_metadata": each for part, each in settings.items()})

    @torch.no_grad()
    def look():
        conditioning = generator.encode_prompts(["a cat"])
        made = generator.predict(torch.ones(1, 4, 8, 8), generator.process.times_at(torch.tensor([0.5])), conditioning)
        return torch.cat([each.flatten() for each in (made, *conditioning.values())])

    pipeline.unload_lora_weights()
    base = look()
    pipeline.load_lora_weights(str(tmp_path))
    theirs = look()
    pipeline.unload_lora_weights()
    generator.load_adapter(tmp_path)
    mine = look()
    generator.unload_adapter()
    torch.testing.assert_close(mine, theirs)
    assert (mine - base).abs().max() > 0.01
