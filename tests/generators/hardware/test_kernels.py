"""Gradient checkpointing changes memory, not gradients, whatever kernel is chosen."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests.families import each_family, load_tiny
from visalign.config import ModelSettings
from visalign.errors import UserError
from visalign.generators.hardware.kernels import check_attention, kernel


def gradients(folder, name, tuning: str, attention: str, checkpointing: bool, precision: str = "fp32"):
    generator = load_tiny(folder, name, precision=precision, attention=attention)
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
    plain, again = (gradients(pipelines("sd3"), "sd3", tuning, attention, on) for on in (False, True))
    for a, b in zip(plain, again, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


@each_family()
def test_every_family_learns_the_same_with_checkpointing(pipelines, name):
    plain, again = (gradients(pipelines(name), name, "lora", "math", on) for on in (False, True))
    for a, b in zip(plain, again, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_half_precision_with_checkpointing(pipelines):
    plain, again = (gradients(pipelines("sd3"), "sd3", "full", "math", on, "bf16") for on in (False, True))
    pairs = [(a, b) for a, b in zip(plain, again, strict=True) if a is not None]
    assert pairs
    for a, b in pairs:
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("mask", ["none", "bool", "float", "causal"])
@pytest.mark.parametrize("name, backend", [("math", SDPBackend.MATH), ("flash", SDPBackend.FLASH_ATTENTION)])
def test_a_chosen_kernel_is_torch_s_own_to_the_bit(name, backend, mask, autocast):
    query, key, value = torch.randn(3, 2, 4, 17, 20).unbind(0)
    options = {"none": {}, "causal": {"is_causal": True}, "bool": {"attn_mask": torch.rand(17, 17) > 0.2},
               "float": {"attn_mask": torch.randn(2, 1, 17, 17)}}[mask]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        with sdpa_kernel(backend):
            wanted = F.scaled_dot_product_attention(query, key, value, **options)
        with kernel(name):
            found = F.scaled_dot_product_attention(query, key, value, **options)
    assert found.dtype == wanted.dtype and torch.equal(found, wanted)


def test_a_kernel_is_chosen_for_its_own_thread_alone():
    query, key, value = torch.randn(3, 2, 4, 77, 16).unbind(0)
    alone = F.scaled_dot_product_attention(query, key, value)
    with kernel("math"), ThreadPoolExecutor(1) as pool:  # a reward works while the generator samples
        chosen = F.scaled_dot_product_attention(query, key, value)
        beside = pool.submit(F.scaled_dot_product_attention, query, key, value).result()
    assert torch.equal(alone, beside)
    assert not torch.equal(alone, chosen)  # else this test would see nothing


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("name", ["_native_math", "flex"])
def test_a_back_end_of_diffusers_serves_any_network(name, mask):
    query, key, value = torch.randn(3, 2, 4, 17, 20).unbind(0)
    key, value = key[:, :2], value[:, :2]  # two heads of the query share each
    bias = torch.randn(2, 1, 17, 17) if mask else None
    wanted = F.scaled_dot_product_attention(query, key, value, bias, enable_gqa=True)
    with kernel(name):
        torch.testing.assert_close(F.scaled_dot_product_attention(query, key, value, bias, enable_gqa=True), wanted)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["flash", "_native_efficient", "_native_cudnn"])
def test_a_kernel_of_the_card_has_the_gradients_of_the_plain_one(name):
    inputs = torch.randn(3, 2, 4, 77, 64, device="cuda", dtype=torch.bfloat16)
    found = []
    for each in (name, "math"):
        leaf = inputs.clone().requires_grad_()
        with kernel(each):
            output = F.scaled_dot_product_attention(*leaf.unbind(0))
        output.square().sum().backward()
        found.append((output.float(), leaf.grad.float()))
    torch.testing.assert_close(found[0], found[1], rtol=0.05, atol=0.05)


@pytest.mark.parametrize("attention, device, dtype, words", [
    ("_native_cudnn", "cpu", torch.bfloat16, ["_native_cudnn", "needs a GPU", "flash"]),
    ("_native_cudnn", "cuda", torch.float32, ["no single precision", "model.precision=bf16"]),
    ("flash_hub", "cuda", torch.bfloat16, ["flash_hub needs the package kernels", "model.attention=native"])])
def test_a_kernel_that_is_not_there_is_said_before_loading(monkeypatch, attention, device, dtype, words):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError) as told:
        check_attention(attention, torch.device(device), dtype)
    assert all(word in str(told.value) for word in words), told.value


def test_a_back_end_that_diffusers_cannot_use_leaves_others_as_they_were(monkeypatch):
    from diffusers.models import attention_dispatch

    before = attention_dispatch._AttentionBackendRegistry.get_active_backend()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    with pytest.raises(UserError, match="flash_varlen: diffusers .* cannot use it here .*flash-attn"):
        check_attention("flash_varlen", torch.device("cuda"), torch.bfloat16)
    check_attention("flex", torch.device("cuda"), torch.bfloat16)
    assert attention_dispatch._AttentionBackendRegistry.get_active_backend() == before


@pytest.mark.parametrize("settings, words", [
    ({"attention": "sage"}, "sage is for sampling only"), ({"attention": "_flash_3"}, "no gradient passes"),
    ({"attention": "flex"}, "set model.compile: true"), ({"attention": "fast"}, "'_native_cudnn'")])
def test_kernels_that_cannot_train_are_refused_by_the_settings(settings, words):
    with pytest.raises(ValueError, match=words):
        ModelSettings(source="tiny-sd3", **settings)


def test_decoding_in_half_precision_is_the_same_image_and_refused_where_a_vae_overflows(pipelines):
    exact, half = (load_tiny(pipelines("sd3"), "sd3", precision="fp32", vae_precision=each)
                   for each in ("fp32", "bf16"))
    latents = torch.randn(2, *exact.latent_shape())
    wanted, found = exact.decode_pixels(latents), half.decode_pixels(latents)
    assert found.dtype == torch.float32 and not torch.equal(wanted, found)
    assert (wanted - found).abs().mean() < 0.01  # of values between -1 and 1: about a grey level
    with pytest.raises(UserError, match="model.vae_precision bf16: the VAE of StableDiffusionXLPipeline"):
        load_tiny(pipelines("sdxl"), "sdxl", vae_precision="bf16")
