"""Compiled blocks compute what they did, under the same names, with and without adapter."""

import pytest
import torch

from tests.families import TINY, load_tiny
from visalign.errors import UserError
from visalign.generators.hardware import compiling


@pytest.fixture(autouse=True)
def _traced_alone(monkeypatch):
    """Traced and put together as for a compiler, which takes a minute to start, and then run by torch."""
    monkeypatch.setattr(compiling, "BACKEND", "eager")
    torch._dynamo.reset()


def learnt(folder, name, compiled: bool, sizes=(2,), checkpointing=True):
    """(names of weights, predictions of reference and policy at each batch size, gradients)."""
    generator = load_tiny(folder, name, precision="fp32", attention="math")
    torch.manual_seed(3)
    generator.make_trainable("lora", rank=2, alpha=4, gradient_checkpointing=checkpointing, compiled=compiled)
    for parameter_name, parameter in generator.trainable_parameters():
        if "lora_B" in parameter_name:
            torch.nn.init.normal_(parameter.data, std=0.1)
    predictions = []
    for count in sizes:
        latents, t = torch.randn(count, *generator.latent_shape()), torch.linspace(0.3, 0.8, count)
        place = latents, generator.process.times_at(t)
        conditioning = generator.encode_prompts(["a red fruit"] * count)
        with generator.reference():
            predictions.append(generator.predict(*place, conditioning))
        predictions.append(generator.predict(*place, conditioning))
        predictions[-1].square().mean().backward()
    return list(generator.denoiser.state_dict()), predictions, [p.grad for _, p in generator.trainable_parameters()]


def check_same(folder, name, **options):
    names, predictions, gradients = learnt(folder, name, True, **options)
    wanted = learnt(folder, name, False, **options)
    assert names == wanted[0]
    assert not torch.equal(predictions[0], predictions[1])  # the adapter does something, so switching it shows
    torch.testing.assert_close(predictions, wanted[1], rtol=1e-5, atol=1e-6)
    for found, other in zip(gradients, wanted[2], strict=True):
        assert (found is None) == (other is None)
        if found is not None:
            torch.testing.assert_close(found, other, rtol=1e-5, atol=1e-7)


def test_compiled_blocks_learn_the_same_under_the_same_names(pipelines):
    check_same(pipelines("sdxl"), "sdxl")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sd3", "flux", "wan", "cogvideox", "chroma", "lumina2"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_every_kind_of_block_can_be_compiled(pipelines, name, checkpointing):
    check_same(pipelines(name), name, sizes=(2, 3), checkpointing=checkpointing)


def test_a_reference_copy_is_compiled_apart(pipelines):
    generator = load_tiny(pipelines("sdxl"), "sdxl")
    generator.make_trainable("full", compiled=True)
    own, frozen = (compiling.repeated_blocks(network)[0] for network in (generator.denoiser, generator._frozen_copy))
    assert own.forward._torchdynamo_orig_callable.__self__ is own
    assert frozen.forward._torchdynamo_orig_callable.__self__ is frozen


def test_families_without_named_blocks_have_some_to_compile(pipelines):
    for name in ("sd3", "cogvideox"):  # diffusers names no class for these
        assert len(compiling.repeated_blocks(load_tiny(pipelines(name), name).denoiser)) >= 2, TINY[name].family


def test_a_machine_that_cannot_compile_is_said_before_the_first_step(monkeypatch):
    def broken(graph, inputs):
        raise OSError("no compiler named g++")

    monkeypatch.setattr(compiling, "BACKEND", broken)
    network = torch.nn.Module()
    network.blocks = torch.nn.ModuleList([torch.nn.Linear(2, 2)])
    with pytest.raises(UserError, match=r"model.compile: torch cannot compile here .*no compiler named g\+\+.*C\+\+"):
        compiling.compile_blocks(network)
    with pytest.raises(UserError, match="Linear has no repeated blocks; leave it out"):
        compiling.compile_blocks(torch.nn.Linear(2, 2))
