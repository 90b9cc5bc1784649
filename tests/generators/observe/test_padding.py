"""Prompts of different lengths in one batch: what each alone gives, in as few passes as the network allows."""

import pytest
import torch

from tests.families import load_tiny
from visalign.generators.base import Guidance

PROMPTS = ["a", "a cat face with a blue tree and a house", "a cat"]


@pytest.mark.parametrize(("name", "passes"), [
    pytest.param("qwen_image", 1, id="padded under a mask that one prompt does without"),
    pytest.param("z_image", 1, id="a list with a tensor for each prompt"),
    pytest.param("cogview4", 2, id="no mask, so one pass for each length")])
def test_a_batch_is_what_each_prompt_alone_gives(pipelines, name, passes):
    generator = load_tiny(pipelines(name), name, prompt_tokens=64)
    latents = torch.randn(3, *generator.conventions.shape)
    times = torch.tensor([0.3, 0.7, 0.5])
    batch = generator.encode_prompts(PROMPTS)
    counted = []
    hook = generator.denoiser.register_forward_hook(lambda *_: counted.append(1))
    with torch.no_grad():
        together = generator.predict(latents, times, batch)
        hook.remove()
        alone = torch.cat([generator.predict(latents[[row]], times[[row]], generator.encode_prompts([prompt]))
                           for row, prompt in enumerate(PROMPTS)])
    assert len(counted) == passes
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5 * float(alone.abs().max()))


def test_gradients_of_a_padded_batch_are_those_of_the_prompts_alone(pipelines):
    generator = load_tiny(pipelines("qwen_image"), "qwen_image", prompt_tokens=64)
    weight = next(parameter for parameter in generator.denoiser.parameters() if parameter.ndim == 2)
    weight.requires_grad_()
    latents, times = torch.randn(2, *generator.conventions.shape), torch.tensor([0.3, 0.7])

    def gradient(rows: list[int]) -> torch.Tensor:
        negative = generator.encode_negatives([PROMPTS[row] for row in rows])
        guided = generator.predict(latents[rows], times[rows], generator.encode_prompts([PROMPTS[row] for row in rows]),
                                   Guidance(3.0, negative))
        return torch.autograd.grad(guided.square().sum(), weight)[0]

    alone = gradient([0]) + gradient([1])
    torch.testing.assert_close(gradient([0, 1]), alone, rtol=1e-4, atol=1e-5 * float(alone.abs().max()))


def test_features_of_a_batch_in_parts_are_those_of_the_prompts_alone(pipelines):
    generator = load_tiny(pipelines("cogview4"), "cogview4", prompt_tokens=64)
    prompts = ["a cat", "a cat face and a blue tree beside a red fruit on a green hill, seen from far away"]
    x, t = torch.randn(2, *generator.latent_shape()), torch.tensor([0.3, 0.7])
    with torch.no_grad():
        [both] = generator.features(x, t, generator.encode_prompts(prompts), (0,))
        for i, prompt in enumerate(prompts):
            [alone] = generator.features(x[i:i + 1], t[i:i + 1], generator.encode_prompts([prompt]), (0,))
            torch.testing.assert_close(both[i:i + 1], alone, atol=1e-5, rtol=1e-4)
