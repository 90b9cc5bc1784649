"""Ways to take less memory: what they save, what they go with, and when they are chosen."""

import pytest
import torch

from visalign.config.load import load_config
from visalign.generators.hardware.weightless import Weightless
from visalign.jobs import memory_levers
from visalign.jobs.cards import Card
from visalign.jobs.memory_fit import in_words, least_slow
from visalign.jobs.memory_levers import changed
from visalign.jobs.memory_plan import plan_memory
from visalign.jobs.memory_sizes import PassSizes


def sized(config, device="cuda"):
    return PassSizes(Weightless(config.model, torch.device(device)))


def card_of(size):
    return Card(torch.device("cuda"), size, "a GPU", planned=True)


def test_large_text_encoders_are_rounded_when_nothing_less_will_do(recipe, monkeypatch):
    config = load_config(recipe("sd3", train={"batch_size": 1}), (
        "model.precision=bf16", "model.weights=bf16", "eval.reward=null", "eval.features=null", "eval.batch_size=1",
        "model.gradient_checkpointing=true", "model.vae_tiling=true", "model.vae_slicing=true",
        "model.vae_precision=bf16", "train.one_side_at_a_time=true", "optim.name=adamw8bit"))
    sizes = sized(config, "cpu")
    generator, rounded = sizes.model.generator, changed(config, {"model.quantization": "nf4"})
    assert not memory_levers.large_texts(generator)
    monkeypatch.setattr(memory_levers, "LARGE", 1)
    texts = memory_levers.large_texts(generator)
    assert list(texts) == ["text_encoder", "text_encoder_2", "text_encoder_3"]
    before = plan_memory(rounded, sizes)
    after = plan_memory(changed(rounded, {"model.quantized_parts": tuple(texts)}), sizes)
    saved = before.held["text encoders"] - after.held["text encoders"]
    assert saved == pytest.approx((2 - 0.52) * sum(texts.values()), abs=1)
    [alone] = memory_levers.rounded_weights(rounded, generator)
    assert set(alone.changes) == {"model.quantized_parts"}
    found = least_slow(config, sizes, card_of(after.peak))
    assert in_words(found.choices[-1].changes) == (
        "model.quantization=nf4 model.quantized_parts=[text_encoder,text_encoder_2,text_encoder_3]")
    assert found.time == pytest.approx(1.3 * 1.02)


def test_gradients_are_used_up_at_once_where_all_weights_learn(recipe):
    config = load_config(recipe("sdxl", train={"batch_size": 2, "gradient_accumulation": 1}), (
        "model.tuning=full", "optim.name=adafactor", "model.offload=blocks", "model.gradient_checkpointing=true",
        "eval.batch_size=1", "model.vae_tiling=true", "model.vae_slicing=true", "train.one_side_at_a_time=false",
        "eval.reward=null", "eval.features=null"))
    sizes = sized(config)
    held = sizes.held
    alone = changed(config, {"optim.fused_backward": True, "optim.grad_clip": None})
    before, after = (plan_memory(each, sizes) for each in (config, alone))
    assert before.at("the optimiser's step") - after.at("the optimiser's step") == held.trained - held.largest
    found = least_slow(config, sizes, card_of(after.peak))
    assert found.config.optim.fused_backward and found.config.optim.grad_clip is None
    assert found.config.train.gradient_accumulation == 1 and not found.config.train.one_side_at_a_time
    assert "optim.fused_backward=true optim.grad_clip=null" in " ".join(in_words(c.changes) for c in found.choices)
