"""A rounded, frozen base with an adapter: what it computes, what learns, what is told, what it takes."""

import importlib.util

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests.trainers.commands import fails, run
from visalign.config import ModelSettings
from visalign.config.load import model_of
from visalign.errors import UserError
from visalign.generators import load_generator
from visalign.generators.hardware import quantization
from visalign.generators.hardware.quantization import (
    QUANTIZERS,
    check_quantizer,
    is_quantized,
    plain_tensors,
    quantizable,
    quantize,
    quantized_bytes,
)
from visalign.sampling.fingerprint import fingerprint

ERRORS = {"int8": 0.003, "fp8": 0.005, "nf4": 0.009}
"""Of a small SD3's prediction, as published figures of its attention and feed-forward layers have it."""
needs = {kind: pytest.mark.skipif(importlib.util.find_spec(each.package) is None, reason=f"needs {each.package}")
         for kind, each in QUANTIZERS.items()}
each_kind = pytest.mark.parametrize("kind", [pytest.param(kind, marks=mark) for kind, mark in needs.items()])


def loaded(folder, **settings):
    torch.manual_seed(0)
    return load_generator(ModelSettings(source=str(folder), **settings), "cpu")


@each_kind
@pytest.mark.parametrize("model, precision", [("sd3", "bf16"), ("sdxl", "fp32")])
def test_an_adapter_on_a_rounded_base(pipelines, kind, model, precision):
    whole = loaded(pipelines(model), precision=precision)
    generator = loaded(pipelines(model), precision=precision, quantization=kind)
    torch.manual_seed(1)
    inputs = (torch.randn(3, *whole.conventions.shape), whole.process.times_at(torch.tensor([0.2, 0.5, 0.8])),
              whole.encode_prompts(["a", "b", "c"]))
    with torch.no_grad():
        exact, rounded = whole.predict(*inputs), generator.predict(*inputs)
    assert 0 < (rounded - exact).norm() / exact.norm() < 3 * ERRORS[kind]
    generator.make_trainable("lora", rank=4)
    with torch.no_grad():
        assert generator.predict(*inputs).equal(rounded)  # B is 0
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            generator.denoiser.enable_gradient_checkpointing()
        generator.predict(*inputs).square().mean().backward()
        gradients.append([p.grad for name, p in generator.trainable_parameters() if "lora_B" in name])
        generator.denoiser.zero_grad(set_to_none=True)
    assert all(g is not None for g in gradients[0]) and any(g.any() for g in gradients[0])
    assert all(a.equal(b) for a, b in zip(*gradients, strict=True))
    with torch.no_grad():
        for _, parameter in generator.trainable_parameters():
            parameter.normal_(std=0.1)
        assert not generator.predict(*inputs).equal(rounded)
    with generator.reference():
        assert generator.predict(*inputs).equal(rounded)


@each_kind
def test_a_weight_takes_the_bytes_that_are_said_and_is_known_by_all_of_them(kind):
    network = nn.Sequential(nn.ModuleList([nn.Linear(512, 1024, bias=False)]))
    network.get_submodule("0.0").weight.data.normal_()
    weights, other = network.get_submodule("0.0").weight.numel(), nn.Sequential(nn.ModuleList())
    other[0].append(nn.Linear(512, 1024, bias=False))
    other.get_submodule("0.0").weight.data.copy_(2 * network.get_submodule("0.0").weight)
    expected = quantized_bytes(network, kind, 2)
    for each in (network, other):
        quantize(each, kind, torch.device("cpu"), torch.bfloat16, "it")
    parts = plain_tensors(network.get_submodule("0.0").weight)
    assert sum(part.numel() * part.element_size() for part in parts) == pytest.approx(expected, rel=0.01)
    assert expected == weights * QUANTIZERS[kind].bytes_per_weight
    assert is_quantized(network) and fingerprint(network) != fingerprint(other)  # these differ by their scales alone


def test_layers_inside_blocks_are_quantised_and_no_others():
    class Text(nn.Module):
        _keep_in_fp32_modules = ["wo"]

        def __init__(self):
            super().__init__()
            self.embed, self.norm = nn.Linear(8, 8), nn.LayerNorm(8)
            self.blocks = nn.ModuleList([nn.ModuleDict({"wi": nn.Linear(8, 16), "wo": nn.Linear(16, 8),
                                                        "conv": nn.Conv2d(8, 8, 1)})])

    with torch.device("meta"):
        assert list(quantizable(Text())) == ["blocks.0.wi"]
        total = sum(p.numel() for p in Text().parameters())
        assert quantized_bytes(Text(), "nf4", 2) == 2 * (total - 128) + 0.52 * 128
        assert quantized_bytes(Text(), "none", 2) == 2 * total
    with pytest.raises(UserError, match="saves nothing"):
        quantize(nn.Linear(8, 8), "int8", torch.device("cpu"), torch.float32, "it")


@needs["int8"]
def test_a_text_encoder_is_rounded_too_and_encodes_otherwise(pipelines):
    generator = loaded(pipelines("sd3"), quantization="int8", quantized_parts=("text_encoder_3",))
    assert is_quantized(generator.pipeline.text_encoder_3) and not is_quantized(generator.pipeline.text_encoder)
    exact = loaded(pipelines("sd3")).encode_prompts(["a"])["encoder_hidden_states"].float()
    rounded = generator.encode_prompts(["a"])["encoder_hidden_states"].float()
    assert 0 < (rounded - exact).norm() / exact.norm() < 0.1
    with pytest.raises(UserError, match="no part text_encoder_9"):
        loaded(pipelines("sd3"), quantization="int8", quantized_parts=("text_encoder_9",))


@needs["int8"]
def test_a_run_on_a_rounded_base_leaves_a_lora_like_any_other(recipe, tmp_path):
    unmeasured = {"reward": None, "features": None, "max_prompts": 1, "samples_per_prompt": 1}
    run(recipe("sd3", model={"quantization": "int8"}, eval=unmeasured, train={"steps": 2}))
    lora = load_file(tmp_path / "run" / "export" / "pytorch_lora_weights.safetensors")
    assert lora and all(".lora_" in name and tensor.is_floating_point() for name, tensor in lora.items())
    run(recipe("sd3", model={"quantization": "int8"}, eval=unmeasured), "--resume")


@pytest.mark.parametrize("settings, words", [
    (("quantization=nf4", "tuning=full"), "model.quantization nf4 rounds weights"),
    (("quantization=nf4", "compile=true"), "use int8"), (("quantized_parts=[vae]",), "says nothing without"),
])
def test_settings_that_do_not_go_together(settings, words):
    with pytest.raises(UserError, match=words):
        model_of("tiny-sd3", settings)


def test_a_package_that_is_not_installed_is_named_before_anything_is_loaded(recipe, monkeypatch):
    monkeypatch.setitem(QUANTIZERS, "nf4", quantization.Quantizer("no_such_package", 1, True, lambda *_: None))
    with pytest.raises(UserError, match="needs the package no_such_package: pip install no_such_package"):
        check_quantizer("nf4")
    assert "needs the package no_such_package" in fails(recipe("sd3", model={"quantization": "nf4"}))
