"""What passes take in memory, counted without weights: against real passes, and against published architectures."""

import pytest
import torch
from torch.utils._pytree import tree_map
from torch.utils.checkpoint import checkpoint

from tests.families import TINY
from tests.published import published
from visalign.config import ModelSettings
from visalign.generators import load_generator
from visalign.generators.base import Generator
from visalign.generators.hardware.activations import tensors_in
from visalign.generators.hardware.weightless import Weightless

CPU = torch.device("cpu")


def kept_by(network, run, given=()) -> int:
    """Bytes that the backward of what is run needs, weights apart; given: tensors to hold beside."""
    weights = {each.untyped_storage().data_ptr() for each in (*network.parameters(), *network.buffers())}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    for tensor in given:
        pack(tensor)
    return sum(storage.nbytes() for storage in kept.values())


def really_kept(generator, rows: int) -> int:
    """Bytes that the backward of a real pass of so many samples needs."""
    conditioning = {name: value.repeat(rows, *[1] * (value.ndim - 1))
                    for name, value in generator.encode_prompts(["a red fruit"]).items()}
    latents, t = torch.randn(rows, *generator.latent_shape()), generator.process.times_at(torch.full((rows,), 0.5))
    return kept_by(generator.denoiser, lambda: generator.predict(latents, t, conditioning))


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


LOOKING = ("hidream", "hunyuan15", "ltx2")
"""Networks or text encoders that look at values: a router of experts, masks, a part beside the encoder."""


@pytest.mark.parametrize("name", [*LOOKING, *(pytest.param(name, marks=pytest.mark.slow) for name in TINY
                                              if name not in LOOKING)])
def test_networks_that_look_at_values_keep_what_is_counted(name, pipelines, monkeypatch):
    monkeypatch.setattr(Generator, "observe", lambda generator: None)  # the pipeline's own arguments are at hand
    settings = ModelSettings(**{"source": str(pipelines(name)), "precision": "bf16", "lora": {"rank": 4},
                                "prompt_tokens": 8} | TINY[name].settings)
    model = Weightless(settings, CPU)
    call = model.call(1 if model.generator.sources else 2)
    counted = model.activations(call)
    generator = load_generator(settings, "cpu")
    generator.make_trainable("lora", rank=4)
    network = generator.networks()[call.network]
    arguments = tree_map(lambda leaf: leaf.to(network.dtype) if isinstance(leaf, torch.Tensor)
                         and leaf.is_floating_point() else leaf, call.arguments)
    assert counted.kept == pytest.approx(kept_by(network, lambda: called(generator, network, arguments)), rel=0.04)
    given = []

    def recomputed(block, *inputs, **options):
        given.extend(tensors_in(inputs, options))  # those in tuples are kept as well, where no hook sees them
        return checkpoint(block, *inputs, use_reentrant=False, **options)

    if not generator.recomputes_wrongly:
        network.enable_gradient_checkpointing(recomputed)
        kept = kept_by(network, lambda: called(generator, network, arguments), given)
        assert counted.with_checkpointing == pytest.approx(kept, rel=0.02)


def called(generator, network, arguments):
    with generator.arithmetic():
        network(**arguments)


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
