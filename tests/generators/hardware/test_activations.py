"""What passes take in memory, counted without weights: against real passes, and against published architectures."""

import pytest
import torch

from tests.published import published
from visalign.config import ModelSettings
from visalign.generators import load_generator
from visalign.generators.hardware.weightless import Weightless

CPU = torch.device("cpu")


def really_kept(generator, rows: int) -> int:
    """Bytes that the backward of a real pass needs, weights apart."""
    weights = {p.untyped_storage().data_ptr() for p in generator.denoiser.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    conditioning = {name: value.repeat(rows, *[1] * (value.ndim - 1))
                    for name, value in generator.encode_prompts(["a red fruit"]).items()}
    latents, t = torch.randn(rows, *generator.latent_shape()), generator.process.times_at(torch.full((rows,), 0.5))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = generator.predict(latents, t, conditioning)
        del output
        return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("name", ["sdxl", "sd3"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_what_is_counted_is_what_a_real_pass_keeps(name, checkpointing, pipelines):
    settings = ModelSettings(source=str(pipelines(name)), precision="bf16", lora={"rank": 4})
    generator = load_generator(settings, "cpu")
    generator.make_trainable("lora", rank=4, gradient_checkpointing=checkpointing)
    model = Weightless(settings, CPU)
    counted = model.activations(model.call(3))
    real = really_kept(generator, 3)
    assert (counted.with_checkpointing if checkpointing else counted.kept) == pytest.approx(real, rel=0.03)


GIB = {
    "sdxl": (512, 64, (3.287, 0.228)),
    "flux": (1024, 16, (50.7, 3.06)),
}
"""By architecture: side, LoRA rank, and what real steps kept for 2 samples, without checkpointing and with."""


@pytest.mark.parametrize("name", GIB)
def test_published_architectures_take_what_was_measured(name, pipelines, tmp_path):
    side, rank, expected = GIB[name]
    tokens = {"prompt_tokens": 512} if name == "flux" else {}
    folder = published(name, pipelines(name), tmp_path)
    model = Weightless(ModelSettings(source=str(folder), resolution=side, precision="bf16", weights="bf16",
                                     lora={"rank": rank}, **tokens), CPU)
    found = model.activations(model.call(2))
    assert (found.kept / 2**30, found.with_checkpointing / 2**30) == pytest.approx(expected, rel=0.03)
