"""The frozen reference: the same network without its adapter, or a frozen copy."""

import pytest
import torch

from tests.families import each_family, load_tiny
from visalign.config import ModelSettings
from visalign.generators import load_generator


def prepared(pipelines, name, tuning):
    generator = load_tiny(pipelines(name), name)
    before = sum(p.numel() for p in generator.denoiser.parameters())
    parameters = generator.make_trainable(tuning, rank=2, alpha=4)
    conditioning = generator.encode_prompts(["a red fruit"])
    latents = torch.randn(1, *generator.latent_shape(), generator=torch.Generator().manual_seed(0))
    return generator, parameters, before, (latents, generator.process.times_at(torch.tensor([0.4])), conditioning)


@each_family(also=("sd15-v",))
@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_policy_starts_as_the_reference_and_then_leaves_it(pipelines, name, tuning):
    generator, parameters, _, inputs = prepared(pipelines, name, tuning)
    with generator.reference():
        reference = generator.predict(*inputs)
    torch.testing.assert_close(generator.predict(*inputs), reference, atol=1e-6, rtol=1e-5)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.05 * torch.randn_like(parameter))
    assert (generator.predict(*inputs) - reference).abs().max() > 1e-4
    with generator.reference():
        torch.testing.assert_close(generator.predict(*inputs), reference, atol=1e-6, rtol=1e-5)


@each_family(also=("sd15-v",))
def test_lora_needs_no_second_copy(pipelines, name):
    generator, parameters, before, _ = prepared(pipelines, name, "lora")
    after = sum(p.numel() for p in generator.denoiser.parameters())
    assert generator._frozen_copy is None
    assert after - before == sum(p.numel() for p in parameters) < 0.2 * before


def test_reference_builds_no_graph_and_policy_does(pipelines):
    generator, parameters, _, inputs = prepared(pipelines, "sd3", "lora")
    with generator.reference():
        assert not generator.predict(*inputs).requires_grad
    generator.predict(*inputs).square().mean().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in parameters)


def test_only_trainable_parameters_get_gradients(pipelines):
    generator, parameters, _, _ = prepared(pipelines, "sdxl", "lora")
    trainable = {id(p) for p in parameters}
    everything = [p for m in [generator.denoiser, *generator.frozen_modules()] for p in m.parameters()]
    assert all(p.requires_grad == (id(p) in trainable) for p in everything)


def test_gradient_checkpointing_changes_no_gradient(pipelines):
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        generator = load_generator(ModelSettings(source=str(pipelines("sd3")), precision="fp32", prompt_tokens=8),
                                   "cpu")
        parameters = generator.make_trainable("lora", rank=2, gradient_checkpointing=checkpointing)
        generator.denoiser.train()
        t, conditioning = torch.tensor([0.4]), generator.encode_prompts(["a bus"])
        generator.predict(torch.ones(1, 4, 8, 8), t, conditioning).square().mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in parameters]))
    torch.testing.assert_close(*gradients)
