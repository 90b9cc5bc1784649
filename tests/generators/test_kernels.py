"""Gradient checkpointing changes memory, not gradients, whatever kernel is chosen."""

import pytest
import torch

from tests.video_pipelines import SHAPES
from visalign.config import Model
from visalign.generators import load_generator

FAMILIES = ("flux", "sdxl", "sd15", "wan", "ltx", "hunyuan", "cogvideox")


def gradients(folder, shape, tuning: str, attention: str, checkpointing: bool, precision: str = "fp32"):
    generator = load_generator(Model(source=str(folder), precision=precision, attention=attention, prompt_tokens=8,
                                     **shape), "cpu")
    torch.manual_seed(3)
    parameters = generator.make_trainable(tuning, rank=2, alpha=4, gradient_checkpointing=checkpointing)
    generator.denoiser.train()
    latents = torch.randn(2, *generator.latent_shape())
    conditioning = generator.encode_prompts(["a red fruit", "a bus"])
    t = generator.process.times_at(torch.tensor([0.3, 0.8]))
    generator.predict(latents, t, conditioning).square().mean().backward()
    return [parameter.grad for parameter in parameters]


@pytest.mark.parametrize("attention", ["math", "flash", "native"])
@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_every_kernel_learns_the_same_with_checkpointing(pipelines, tuning, attention):
    plain, again = (gradients(pipelines("sd3"), {}, tuning, attention, on) for on in (False, True))
    for a, b in zip(plain, again, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_learns_the_same_with_checkpointing(pipelines, family):
    plain, again = (gradients(pipelines(family), SHAPES.get(family, {}), "lora", "math", on) for on in (False, True))
    for a, b in zip(plain, again, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_half_precision_with_checkpointing(pipelines):
    plain, again = (gradients(pipelines("sd3"), {}, "full", "math", on, "bf16") for on in (False, True))
    pairs = [(a, b) for a, b in zip(plain, again, strict=True) if a is not None]
    assert pairs
    for a, b in pairs:
        torch.testing.assert_close(a, b)
