"""Every tensor of a pipeline's part: there, of its shape, finite, and none beside it."""

import json
import shutil
from pathlib import Path

import diffusers
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode

from tests.families import TINY
from visalign.errors import UserError
from visalign.generators.files.completeness import check_part
from visalign.storage.weights import check_finite, check_loaded

LIBRARIES = {"diffusers": diffusers, "transformers": transformers}


def networks(folder):
    """(name, class) of a pipeline's networks."""
    for name, entry in json.loads((folder / "model_index.json").read_text()).items():
        if isinstance(entry, list) and entry[0] and name.startswith(("transformer", "unet", "vae", "text_", "image_e")):
            yield name, getattr(LIBRARIES[entry[0]], entry[1])


@pytest.mark.parametrize("name", [name for name in TINY if name != "sd15-v"])
def test_what_was_saved_is_whole(pipelines, name):
    found = list(networks(pipelines(name)))
    assert len(found) >= 3
    for part, kind in found:
        check_part(kind, pipelines(name) / part)


@pytest.mark.parametrize("name", ["tiny-sd3", "tiny-sdxl", "tiny-wan"])
def test_the_embedded_models_are_whole(name):
    folder = Path(__file__).resolve().parents[3] / "visalign" / "assets" / name
    for part, kind in networks(folder):
        check_part(kind, folder / part)


class Copies(TorchDispatchMode):
    """Bytes of the tensors that are copied in another precision or place."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **kwargs or {})
        if func is torch.ops.aten._to_copy.default and not result.is_meta:
            self.bytes += result.nbytes
        return result


def test_values_of_another_precision_are_not_read(pipelines, tmp_path):
    shutil.copytree(pipelines("sdxl") / "unet", tmp_path / "unet")
    file = next((tmp_path / "unet").glob("*.safetensors"))
    save_file({name: tensor.half() for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    with Copies() as copies:
        check_part(diffusers.UNet2DConditionModel, tmp_path / "unet")
        assert copies.bytes == 0
        diffusers.UNet2DConditionModel.from_pretrained(tmp_path / "unet")
    assert copies.bytes > 1e5  # what this test looks for is there to be seen


@pytest.fixture
def checked(pipelines, tmp_path):
    """Checks a part of a pipeline whose weights were changed."""
    def check(name, part, change):
        shutil.copytree(pipelines(name) / part, tmp_path / part)
        file = next((tmp_path / part).glob("*.safetensors"))
        weights = load_file(file)
        change(weights)
        save_file(weights, file, {"format": "pt"})
        check_part(dict(networks(pipelines(name)))[part], tmp_path / part)

    return check


@pytest.mark.parametrize("name, part, tensor", [
    ("sd3", "transformer", "proj_out.weight"), ("sdxl", "unet", "conv_in.weight"),
    ("sdxl", "vae", "decoder.conv_in.bias"),
    ("sdxl", "text_encoder", "encoder.layers.0.self_attn.q_proj.weight"),
    ("sdxl", "text_encoder_2", "text_projection.weight"), ("sd3", "text_encoder_3", "shared.weight")])
@pytest.mark.parametrize("change, words", [
    (lambda w, name: w.pop(name), "lacks .*{}"), (lambda w, name: w.update({name: torch.ones(1)}), "shape.*")])
def test_a_missing_tensor_and_one_of_another_shape_are_named(checked, name, part, tensor, change, words):
    with pytest.raises(UserError, match=f"^model .*{part}: .*{words.format(tensor)}"):
        checked(name, part, lambda weights: change(weights, tensor))


def old_attention(weights):
    """Names of the attention in a VAE before diffusers 0.18, which the published ones still have."""
    for name in [n for n in weights if "attentions" in n]:
        for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
            if new in name:
                weights[name.replace(new, old)] = weights.pop(name)


def with_prefix(weights):
    for name in list(weights):
        weights["text_model." + name] = weights.pop(name)


def tied_twice(weights):
    weights["encoder.embed_tokens.weight"] = weights["shared.weight"].clone()


def tied_once(weights):
    weights["encoder.embed_tokens.weight"] = weights.pop("shared.weight")


@pytest.mark.parametrize("name, part, change", [
    ("sdxl", "vae", old_attention), ("sdxl", "text_encoder", with_prefix), ("sd3", "text_encoder_3", tied_twice),
    ("sd3", "text_encoder_3", tied_once),
    ("sdxl", "text_encoder", lambda w: w.update({"text_model.embeddings.position_ids": torch.arange(16)[None]})),
    ("sd3", "text_encoder_3", lambda w: w.update({"decoder.block.0.layer.0.weight": torch.ones(2)}))])
def test_older_names_and_what_an_architecture_leaves_aside_are_taken(checked, name, part, change, capsys):
    checked(name, part, change)
    assert "are ignored" not in capsys.readouterr().err


def test_weights_beside_those_of_a_denoiser_are_refused_and_those_beside_a_text_encoder_told(checked, capsys, tmp_path):
    checked("sdxl", "text_encoder", lambda w: w.update({"visual_projection.weight": torch.ones(2)}))
    assert "visual_projection.weight" in capsys.readouterr().err
    with pytest.raises(UserError, match="no place for: extra.weight"):
        checked("sd3", "transformer", lambda w: w.update({"extra.weight": torch.ones(1)}))


def test_a_missing_shard_and_a_broken_file_are_named(pipelines, tmp_path):
    shutil.copytree(pipelines("sd3") / "transformer", tmp_path / "transformer")
    network = diffusers.SD3Transformer2DModel.from_pretrained(tmp_path / "transformer")
    next((tmp_path / "transformer").glob("*.safetensors")).unlink()
    network.save_pretrained(tmp_path / "transformer", max_shard_size="40KB")
    shards = sorted((tmp_path / "transformer").glob("*.safetensors"))
    assert len(shards) > 1
    check_part(type(network), tmp_path / "transformer")
    data = shards[0].read_bytes()
    shards[0].write_bytes(data[:len(data) // 2])
    with pytest.raises(UserError, match=f"{shards[0].name}.*cut off"):
        check_part(type(network), tmp_path / "transformer")
    shards[0].unlink()
    with pytest.raises(UserError, match=f"of which 1 are missing: {shards[0].name}"):
        check_part(type(network), tmp_path / "transformer")


def test_values_that_are_no_numbers_are_counted_and_named():
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    check_loaded(module, "x")
    with torch.no_grad():
        module[1].weight[0, 0] = torch.nan
        module[0].bias[1] = torch.inf
    with pytest.raises(UserError, match=r"^x: 2 of 4 tensors are not finite .*: 0.bias, 1.weight"):
        check_loaded(module, "x")


def test_large_values_are_finite_even_where_their_sum_is_not():
    check_finite([("w", torch.full((64, 64), 3e38))], "x")
    check_finite([("w", torch.full((64, 64), 6e4, dtype=torch.float16)), ("ids", torch.arange(3))], "x")


def test_a_tensor_that_was_never_read_is_named():
    with pytest.raises(UserError, match="lacks 2 of 2 tensors"):
        check_loaded(torch.nn.Linear(2, 2, device="meta"), "x")
