"""Ways to take less memory: what they save, what they go with, and when they are chosen."""

from types import SimpleNamespace

import pytest
import torch

from visalign.config.load import load_config
from visalign.generators.hardware.weightless import Weightless
from visalign.jobs import memory_levers, memory_plan, memory_sizes
from visalign.jobs.cards import Card
from visalign.jobs.memory_fit import in_words, least_slow
from visalign.jobs.memory_levers import changed
from visalign.jobs.memory_plan import plan_memory
from visalign.jobs.memory_sizes import Held
from visalign.parallel.division import Division


def card_of(size):
    return Card(torch.device("cuda"), size, "a GPU", planned=True)


def test_large_text_encoders_can_be_rounded_with_the_denoiser_or_alone(recipe, monkeypatch):
    config = load_config(recipe("sd3"))
    generator = Weightless(config.model, torch.device("cpu")).generator
    assert not memory_levers.large_texts(generator)
    monkeypatch.setattr(memory_levers, "LARGE", 1)
    texts = {name: memory_sizes.roundable(part) for name, part in generator.text_encoders().items()}
    assert memory_levers.large_texts(generator) == texts and len(texts) == 3
    found = [in_words(choice.changes) for choice in memory_levers.rounded_weights(config, generator)]
    parts = "model.quantized_parts=[text_encoder,text_encoder_2,text_encoder_3]"
    assert found == ["model.quantization=int8", f"model.quantization=int8 {parts}", "model.quantization=nf4",
                     f"model.quantization=nf4 {parts}"]
    [alone] = memory_levers.rounded_weights(changed(config, {"model.quantization": "nf4"}), generator)
    assert in_words(alone.changes) == parts and alone.time == 1.02
    given = {"transformer": "flux1-dev-Q4_K_S.GGUF"}
    assert not list(memory_levers.rounded_weights(changed(config, {"model.parts": given}), generator))


class FluxSizes:
    """What PassSizes counted of FLUX.1-dev at 1024 pixels with a LoRA of rank 16 in bf16."""

    held = Held(frozen=23_802_816_640, packed=0, trained=104_595_456, roundable=11_834_228_736,
                roundable_in_block=339_738_624, block=340_617_728, largest=196_608, text_encoders=9_770_742_888,
                vae=335_278_732, frozen_part=23_802_816_640, trained_part=104_595_456)
    division = Division(1, 1, 1)
    roundable_parts = {"text_encoder": 84_934_656, "text_encoder_2": 3_623_878_656}
    model = SimpleNamespace(device=torch.device("cuda"), compute_dtype=torch.bfloat16, held=torch.bfloat16,
                            takes_scale=True, generator=SimpleNamespace(
                                sources=None, exact_vae=False, coded_together=lambda: 2))

    def training(self, rows, checkpointing):
        return rows * (2_117_265_432 if checkpointing else 27_590_333_784)

    def sampling(self, rows):
        return rows * 701_469_444

    def coding(self, tiled):
        return 2_684_354_560, 3_221_225_472


def test_flux_fits_12_gib_no_slower_than_its_recipe(monkeypatch):
    recipe = load_config("configs/low_memory/flux_flow_dpo_12gb.yaml", ("data.path=p.jsonl", "eval.prompts=emoji:test"))
    bare = changed(recipe, {"model.quantization": "none", "model.quantized_parts": (), "model.offload": "none",
                            "model.gradient_checkpointing": False, "model.vae_precision": "fp32",
                            "optim.name": "adamw", "train.one_side_at_a_time": False, "eval.batch_size": 32})
    sizes = FluxSizes()
    monkeypatch.setattr(memory_levers, "large_texts", lambda generator: {"text_encoder_2": 3_623_878_656})
    monkeypatch.setattr(memory_plan, "count", lambda *_: 16)
    card = card_of(12 * 2**30)
    assert plan_memory(recipe, sizes).peak < card.bytes < plan_memory(bare, sizes).peak
    found = least_slow(bare, sizes, card)
    assert {name for choice in found.choices for name in choice.changes} == {
        "model.offload", "model.vae_slicing", "eval.batch_size", "model.gradient_checkpointing", "model.quantization",
        "model.quantized_parts"}
    assert found.config.model.quantized_parts == ("text_encoder_2",) and found.time < 1.3 * 1.25 * 1.25
    # 1.48 bytes less for each rounded number; while prompts are encoded the VAE is away
    frozen, texts = 23_802_816_640 - 1.48 * 11_834_228_736, 9_770_742_888 - 1.48 * 3_623_878_656
    assert found.plan.at("encoding prompts") == pytest.approx(
        frozen + texts + 3 * 104_595_456 + memory_plan.PROGRAM["cuda"], abs=2)
    assert not least_slow(bare, sizes, card_of(16 * 2**30)).config.model.quantized_parts
    assert least_slow(bare, sizes, card_of(8 * 2**30)) is None


class AllOfSdxl(FluxSizes):
    """SDXL with all weights trained; what passes take is about right."""

    held = Held(frozen=0, packed=0, trained=10_270_000_000, roundable=0, roundable_in_block=0, block=200_000_000,
                largest=59_000_000, text_encoders=1_635_600_000, vae=334_800_000, frozen_part=0,
                trained_part=10_270_000_000)
    model = SimpleNamespace(**vars(FluxSizes.model) | {"takes_scale": False})

    def training(self, rows, checkpointing):
        return rows * (550_000_000 if checkpointing else 6_600_000_000)


def test_gradients_are_used_up_at_once_where_all_weights_learn(monkeypatch):
    config = load_config("configs/low_memory/sdxl_full_dpo.yaml", (
        "data.path=p.jsonl", "eval.prompts=emoji:test", "optim.grad_clip=1", "optim.fused_backward=false",
        "model.offload=none", "model.weights=fp32"))
    monkeypatch.setattr(memory_plan, "count", lambda *_: 16)
    sizes = AllOfSdxl()
    assert not list(memory_levers.small_optimizer(changed(config, {"optim.name": "adamw", "optim.options": {
        "amsgrad": True}}), sizes.model.generator))
    alone = changed(config, {"optim.fused_backward": True, "optim.grad_clip": None})
    before, after = (plan_memory(each, sizes) for each in (config, alone))
    assert before.at("the optimiser's step") - after.at("the optimiser's step") == 10_270_000_000 - 59_000_000
    found = least_slow(config, sizes, card_of(24 * 2**30))
    assert found.config.optim.fused_backward and found.config.optim.grad_clip is None
    assert found.config.train.gradient_accumulation == 1 and not found.config.train.one_side_at_a_time
    assert "optim.fused_backward=true optim.grad_clip=null" in " ".join(in_words(c.changes) for c in found.choices)
