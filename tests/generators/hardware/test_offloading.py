"""What lies in host memory comes when it is used and leaves when the network runs; nothing that is computed changes."""

import pytest
import torch

from visalign.config import ModelSettings
from visalign.config.load import model_of, parse_config
from visalign.errors import UserError
from visalign.generators import load_generator
from visalign.generators.hardware import offloading


def loaded(folder, device="cpu", **settings):
    torch.manual_seed(0)
    return load_generator(ModelSettings(source=str(folder), precision="fp32", **settings), device)


def inputs_of(generator, prompts=("a", "b")):
    torch.manual_seed(1)
    count = len(prompts)
    return (torch.randn(count, *generator.conventions.shape).to(generator.device),
            generator.process.times_at(torch.linspace(0.2, 0.8, count)).to(generator.device),
            generator.encode_prompts(list(prompts)))


@pytest.fixture
def moves(monkeypatch):
    """(part, whether it came) in order; a device that is not there stands for the one that computes."""
    found = []
    monkeypatch.setattr(offloading, "move", lambda part, device: found.append(
        (type(part).__name__, device is not offloading.HOME)))
    return found


def test_frozen_parts_come_when_they_are_used_and_leave_when_the_network_runs(pipelines, moves):
    generator = loaded(pipelines("sd3"), offload="frozen")
    plain = loaded(pipelines("sd3"))
    with torch.no_grad():
        expected = plain.predict(*inputs_of(plain))
        generator.predict(*inputs_of(generator))  # whatever loading left there is gone
        del moves[:]
        conditioning = [generator.encode_prompts([prompt]) for prompt in ("a", "b", "c")]
        came = moves[:]
        assert sorted(came) == [("CLIPTextModelWithProjection", True)] * 2 + [("T5EncoderModel", True)]
        assert len(conditioning) == 3  # and nothing moved between them
        found = generator.predict(*inputs_of(generator))
        assert found.equal(expected)
        assert sorted(moves[len(came):]) == sorted((name, False) for name, _ in came)
        del moves[:]
        pixels = generator.decode_pixels(found)
        generator.encode_prompts(["a"])
        assert moves[1] == ("AutoencoderKL", False) and len(moves) == 5  # it and the text encoders come in turn
        generator.predict(*inputs_of(generator))
    assert pixels.equal(plain.decode_pixels(found))
    assert moves[0] == ("AutoencoderKL", True) and ("AutoencoderKL", False) in moves


def test_samples_are_the_same_wherever_parts_lie(pipelines):
    def drawn(**settings):
        generator = loaded(pipelines("sdxl"), **settings)
        [batch] = generator.sample(["a", "b"], [1, 2], steps=2, guidance_scale=3.0)
        return [image.tobytes() for image in batch]

    assert drawn() == drawn(offload="frozen") == drawn(offload="blocks")


def test_the_reference_of_a_full_fine_tune_is_streamed_and_what_learns_is_not(pipelines, moves):
    generator = loaded(pipelines("sd3"), offload="blocks", tuning="full")
    generator.make_trainable("full")
    inputs = inputs_of(generator)
    with generator.reference():
        reference = generator.predict(*inputs)
    generator.predict(*inputs).square().mean().backward()
    assert reference.equal(loaded(pipelines("sd3")).predict(*inputs))
    gradients = [p.grad for name, p in generator.trainable_parameters() if "transformer_blocks.0.attn" in name]
    assert gradients and all(each is not None for each in gradients)
    assert ("SD3Transformer2DModel", False) in moves  # the copy


def test_blocks_that_never_learn_take_no_adapter(pipelines, tmp_path):
    generator = loaded(pipelines("sd3"), offload="blocks")
    with pytest.raises(UserError, match="use model.offload=frozen"):
        generator.load_adapter(tmp_path)
    with pytest.raises(UserError, match="a latent reward needs gradients"):
        generator.features(*inputs_of(generator), (0,))
    with pytest.raises(UserError, match="an adapter learns inside of every block"):
        parse_config({"model": {"source": "tiny-sd3", "offload": "blocks"}, "objective": {"name": "flow_dpo"}})
    with pytest.raises(UserError, match="without an adapter"):
        model_of("tiny-sd3", ("offload=blocks", "loras=[{path: a.safetensors}]"))
    with pytest.raises(UserError, match="4-bit blocks cannot be moved"):
        model_of("tiny-sd3", ("offload=blocks", "quantization=nf4"))


@pytest.mark.gpu
@pytest.mark.parametrize("offload", ["frozen", "blocks"])
def test_on_a_card_parts_leave_and_samples_stay_the_same(pipelines, offload):
    def drawn(**settings):
        generator = loaded(pipelines("sd3"), "cuda", **settings)
        [batch] = generator.sample(["a", "b"], [1, 2], steps=2, guidance_scale=3.0)
        generator.predict(*inputs_of(generator))
        return generator, [image.tobytes() for image in batch]

    generator, images = drawn(offload=offload)
    assert images == drawn()[1]
    away = [*generator.frozen_modules(), *([generator.denoiser.transformer_blocks] if offload == "blocks" else [])]
    assert all(p.device.type == "cpu" for part in away for p in part.parameters())
