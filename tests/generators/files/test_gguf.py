"""A denoiser in a GGUF file is a frozen, packed base: it samples, a LoRA learns on it, and all weights cannot."""

import shutil
import sys

import numpy as np
import pytest
import torch

from tests.generators.files.original_files import sd3_tensors
from visalign.config import ModelSettings
from visalign.errors import UserError
from visalign.generators import load_generator, locate_model
from visalign.generators.files.gguf_files import packed_size
from visalign.generators.files.sketching import sketch
from visalign.generators.hardware.weightless import Weightless
from visalign.jobs import memory_levers
from visalign.jobs.memory_sizes import PassSizes

gguf = pytest.importorskip("gguf")


@pytest.fixture(scope="module")
def base(pipelines, tmp_path_factory):
    """A pipeline whose rows are long enough to be packed, 32 numbers together."""
    from diffusers import SD3Transformer2DModel

    torch.manual_seed(1)
    folder = shutil.copytree(pipelines("sd3"), tmp_path_factory.mktemp("gguf") / "sd3")
    transformer = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=32, caption_projection_dim=32, pooled_projection_dim=32,
        pos_embed_max_size=8)
    torch.nn.init.normal_(transformer.proj_out.weight, std=0.1)
    transformer.save_pretrained(folder / "transformer")
    return folder


@pytest.fixture(scope="module")
def packed(base):
    """The pipeline's transformer in GGUF, under its authors' names, its matrices in 8 bits."""
    from diffusers import SD3Transformer2DModel

    transformer = SD3Transformer2DModel.from_pretrained(base, subfolder="transformer")
    return write(base.parent / "sd3-Q8_0.gguf", {
        name.removeprefix("model.diffusion_model."): tensor for name, tensor in sd3_tensors(transformer).items()})


def write(path, tensors):
    writer = gguf.GGUFWriter(path, "sd3")
    for name, tensor in tensors.items():
        values = tensor.detach().numpy().astype(np.float32)
        if values.ndim == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def predicted(generator):
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return generator.predict(latents, torch.tensor([500.0]), generator.encode_prompts(["a red fruit"]))


@pytest.mark.parametrize("apart", [False, True])
def test_it_computes_as_the_weights_do_and_a_lora_learns_on_it(base, packed, apart):
    whole = predicted(load_generator(ModelSettings(source=str(base), precision="fp32"), "cpu"))
    given = {"source": str(base), "parts": {"transformer": str(packed)}} if apart else {
        "source": str(packed), "base": str(base)}
    generator = load_generator(ModelSettings(**given, precision="fp32"), "cpu")
    found = predicted(generator)
    assert 1e-6 < (found - whole).norm() / whole.norm() < 0.02  # 8 bits a number
    trained = generator.make_trainable("lora", rank=2)
    assert torch.equal(predicted(generator), found)
    predicted(generator).square().sum().backward()
    reached = [p.grad.abs().sum() > 0 for n, p in generator.denoiser.named_parameters() if "lora_B" in n]
    assert len(trained) == 2 * len(reached) == 30 and sum(reached) == 14  # the last block asks nothing of the words


def test_the_plan_counts_what_is_held_packed(base, packed):
    settings = ModelSettings(source=str(base), parts={"transformer": str(packed)}, precision="fp32", lora={"rank": 2})
    numbers, size = packed_size(locate_model(settings).denoiser_file)
    assert size == numbers // 32 * 34 > 0  # Q8_0: 32 numbers of a byte and a scale of two
    held = PassSizes(Weightless(settings, torch.device("cpu"))).held
    denoiser = load_generator(settings, "cpu").denoiser
    assert held.packed == size and held.frozen + held.packed == sum(
        tensor.nbytes for tensor in (*denoiser.parameters(), *denoiser.buffers()))
    assert memory_levers.packed(settings)


def test_what_a_packed_file_cannot_is_one_sentence(base, packed, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="packed and cannot be trained"):
        locate_model(ModelSettings(source=str(packed), base=str(base), tuning="full"))
    with pytest.raises(UserError, match="quantization none"):
        locate_model(ModelSettings(source=str(packed), base=str(base), quantization="int8"))
    with pytest.raises(UserError, match="only a model's transformer is read"):
        locate_model(ModelSettings(source=str(base), parts={"vae": str(packed)}))
    settings = ModelSettings(source=str(write(tmp_path / "odd.gguf", {
        "joint_blocks.0.x_block.attn.qkv.bias": torch.ones(96), "pos_embed": torch.ones(1, 64, 32)})), base=str(base))
    with pytest.raises(UserError, match="odd.gguf, its transformer: lacks"):
        sketch(locate_model(settings), settings)
    (tmp_path / "broken.gguf").write_bytes(b"GGUF and no more")
    with pytest.raises(UserError, match="cannot be read as GGUF"):
        locate_model(ModelSettings(source=str(tmp_path / "broken.gguf"), base=str(base)))
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(UserError, match=r"pip install 'visalign\[gguf\]'"):
        locate_model(ModelSettings(source=str(packed), base=str(base)))
