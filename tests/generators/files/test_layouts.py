"""Single files of published families, with all names and shapes and no values, need neither a base nor a network."""

import functools

import diffusers
import pytest
import torch
import transformers

from tests.generators.files.original_files import (
    clip_tensors,
    flux_tensors,
    open_clip_tensors,
    sd3_tensors,
    unet_tensors,
    vae_tensors,
)
from tests.generators.files.sparse_files import write_sparse
from visalign.config import ModelSettings
from visalign.errors import UserError
from visalign.generators import locate_model
from visalign.generators.files import layouts
from visalign.generators.files.file_parts import configured
from visalign.generators.files.sketching import sketch

SIZES = {  # millions of parameters, as published
    "sd15": {"unet": 859.5, "vae": 83.7, "text_encoder": 123.1},
    "sd21": {"unet": 865.9, "vae": 83.7, "text_encoder": 340.4},
    "sdxl": {"unet": 2567.5, "vae": 83.7, "text_encoder": 123.1, "text_encoder_2": 694.7},
    "sd3_medium": {"transformer": 2028.3, "vae": 83.8, "text_encoder": 123.7, "text_encoder_2": 694.7},
    "sd35_medium": {"transformer": 2243.2}, "sd35_large": {"transformer": 8056.6},
    "flux_dev": {"transformer": 11901.4, "vae": 83.8, "text_encoder": 123.1, "text_encoder_2": 4762.3},
    "flux_schnell": {"transformer": 11891.2}}


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layouts, "LAYOUT_CACHE", tmp_path_factory.mktemp("layouts"))
        yield


@functools.cache
def network(layout: str, part: str):
    folder = layouts.layout_folder(layout)
    library, kind = layouts.read_json(folder / "model_index.json", "")[part]
    with torch.device("meta"):
        return configured(getattr({"diffusers": diffusers, "transformers": transformers}[library], kind), str(folder),
                          part)


@pytest.mark.parametrize("layout", SIZES)
def test_networks_have_their_published_sizes(layout):
    for part, millions in SIZES[layout].items():
        assert sum(p.numel() for p in network(layout, part).parameters()) / 1e6 == pytest.approx(millions, abs=0.06)


@functools.cache
def original(layout: str, parts: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """Shapes of a file as the authors wrote it."""
    xl, found = layout == "sdxl", {}
    clip = {"sdxl": "conditioner.embedders.0.transformer.", "sd3": "text_encoders.clip_l.transformer."}
    write = {
        "unet": unet_tensors, "vae": vae_tensors,
        "transformer": flux_tensors if layout.startswith("flux") else sd3_tensors,
        "text_encoder": (lambda m: open_clip_tensors(m, "cond_stage_model.model.")) if layout.startswith("sd21") else
                        lambda m: clip_tensors(m, clip.get(layout[:4] if xl else layout[:3],
                                                           "cond_stage_model.transformer.")),
        "text_encoder_2": (lambda m: open_clip_tensors(m, "conditioner.embedders.1.model.")) if xl else
                          lambda m: clip_tensors(m, "text_encoders.clip_g.transformer.")}
    for part in parts:
        found |= {name: tuple(tensor.shape) for name, tensor in write[part](network(layout, part)).items()}
    return found


def load(path, **settings):
    settings = ModelSettings(source=str(path), **settings)
    return sketch(locate_model(settings), settings)


@pytest.mark.parametrize("layout, parts, side", [
    ("sd15", ("unet", "vae", "text_encoder"), 512), ("sd21", ("unet", "vae", "text_encoder"), 768),
    ("sdxl", ("unet", "vae", "text_encoder", "text_encoder_2"), 1024),
    ("sd35_medium", ("transformer", "vae", "text_encoder", "text_encoder_2"), 1024)])
def test_a_whole_file_needs_nothing_else(tmp_path, layout, parts, side):
    file = write_sparse(tmp_path / "mine.safetensors", original(layout, parts) | {"model_ema.decay": (1,)})
    found = load(file, prediction="v_prediction" if layout == "sd21" else "auto")
    assert found.shape.size == (side, side)
    assert sum(p.numel() for p in found.denoiser.parameters()) / 1e6 == pytest.approx(
        SIZES[layout][parts[0]], abs=0.06)


def test_a_tensor_that_is_missing_or_of_another_shape_is_said_without_reading(tmp_path):
    shapes = original("sd15", ("unet", "vae", "text_encoder"))
    kept = "model.diffusion_model.input_blocks.1.0.in_layers.0.weight"
    for changed, words in ((shapes.keys() - {kept}, "lacks 1 tensor: down_blocks.0.resnets.0.norm1.weight"),
                           (shapes.keys() | {"model.diffusion_model.more.weight"}, "holds 1 tensor that the model")):
        file = write_sparse(tmp_path / "mine.safetensors", {name: shapes.get(name, (4,)) for name in changed})
        with pytest.raises(UserError, match=words):
            load(file)
    with pytest.raises(UserError, match="mine.safetensors, its unet: holds 1 tensor of another shape"):
        load(write_sparse(tmp_path / "mine.safetensors", shapes | {kept: (321,)}))


def test_which_layout_a_file_is_of_is_read_from_its_shapes(tmp_path):
    def named(shapes, prediction="auto", metadata=None):
        from visalign.generators.files.single_file import read_single_file

        return layouts.layout_name(read_single_file(write_sparse(tmp_path / "x.safetensors", shapes, metadata)),
                                 prediction)

    attended = {"input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 1024)}
    assert named(attended, "epsilon") == "sd21_base"
    assert named(attended, metadata={"modelspec.prediction_type": "v"}) == "sd21"
    with pytest.raises(UserError, match="model.prediction: v_prediction"):
        named(attended)
    with pytest.raises(UserError, match="of a size.*model.base"):
        named({"label_emb.0.0.weight": (1, 1), "input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": (768, 1280)})
    sd3 = {"joint_blocks.0.x_block.attn.qkv.weight": (1, 1)}
    assert named(sd3 | {"pos_embed": (1, 36864, 1536)}) == "sd3_medium"
    assert named(sd3 | {"pos_embed": (1, 36864, 2432), "joint_blocks.37.x_block.mlp.fc1.weight": (1,)}) == "sd35_large"
    for channels, words in ((9, "takes 9 channels.*inpainting"), (8, "takes 8 channels.*InstructPix2Pix")):
        with pytest.raises(UserError, match=words):
            named(attended | {"input_blocks.0.0.weight": (320, channels, 3, 3), "out.2.weight": (4, 320, 3, 3)})


def test_a_file_of_flux_names_what_it_lacks_and_takes_it_apart(tmp_path):
    file = write_sparse(tmp_path / "flux.safetensors", {
        name.removeprefix("model.diffusion_model."): shape
        for name, shape in original("flux_dev", ("transformer",)).items()})
    with pytest.raises(UserError, match="its text_encoder, text_encoder_2, tokenizer_2, vae are neither.*model.base"):
        load(file)
    vae = write_sparse(tmp_path / "ae.safetensors", {
        name.removeprefix("first_stage_model."): shape for name, shape in original("flux_dev", ("vae",)).items()})
    t5 = {name: tuple(tensor.shape) for name, tensor in network("flux_dev", "text_encoder_2").state_dict().items()}
    parts = {"vae": str(vae), "text_encoder": str(write_sparse(tmp_path / "clip_l.safetensors", {
        name.removeprefix("cond_stage_model.transformer."): shape
        for name, shape in original("flux_dev", ("text_encoder",)).items()})),
        "text_encoder_2": str(write_sparse(tmp_path / "t5xxl.safetensors", t5)),
        "tokenizer_2": str(layouts.layout_folder("flux_dev") / "tokenizer")}
    assert load(file, parts=parts).shape.size == (1024, 1024)
    with pytest.raises(UserError, match=r"model.parts.vae .*clip_l.safetensors: lacks 244 tensors"):
        load(file, parts=parts | {"vae": parts["text_encoder"]})


def test_tokenizers_pad_as_the_families_were_trained():
    folder, found = layouts.layout_folder("sdxl"), {}
    for name in ("tokenizer", "tokenizer_2"):
        tokenizer = transformers.CLIPTokenizer.from_pretrained(folder / name)
        found[name] = tokenizer("a red fruit", padding="max_length", truncation=True).input_ids
    assert found["tokenizer"] == [49406, 320, 736, 5190] + 73 * [49407]  # as published with CLIP-L
    assert found["tokenizer_2"] == [49406, 320, 736, 5190, 49407] + 72 * [0]  # and with CLIP-G


def test_doctor_says_where_each_part_of_a_file_comes_from(tmp_path):
    from click.testing import CliRunner

    from visalign.cli import main

    file = write_sparse(tmp_path / "mine.safetensors", original("sd15", ("unet", "vae", "text_encoder")))
    printed = CliRunner().invoke(main, ["doctor", str(file)]).output
    assert "StableDiffusionPipeline: images of 512x512, epsilon prediction" in printed
    assert f"unet                 859.52 M from {file}" in printed
    assert f"text_encoder         123.06 M from {file}" in printed
