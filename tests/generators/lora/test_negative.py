"""A negative adapter: only the unconditional branch of guidance has it (Diffusion-NPO)."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from tests.families import TINY, each_family, load_tiny, takes_words
from tests.generators.lora.random_lora import write_random_lora
from tests.trainers.commands import UNMEASURED, run
from visalign.cli import main
from visalign.errors import UserError
from visalign.generators import FAMILIES
from visalign.generators.base import Guidance
from visalign.generators.lora.adapters import adapters_of, remove_adapters
from visalign.generators.lora.export import write_loras
from visalign.generators.lora.layers import attach
from visalign.media.samples import frames_of

PROMPTS, SEEDS = ["a cat face", "a red fruit"], [1, 2]


@pytest.fixture
def adapter(tmp_path):
    """Writes a random LoRA for a generator, which stays as it is; times `size`."""
    def write(generator, name, seed, size=1.0):
        return write_random_lora(generator, tmp_path / name, seed, size)

    return write


def look(generator, prompts=PROMPTS, steps=3, scale=3.0):
    media = [each for batch in generator.sample(prompts, SEEDS[:len(prompts)], steps=steps, guidance_scale=scale)
             for each in batch]
    return np.stack([np.stack([np.asarray(frame) for frame in frames_of(each, 99)]) for each in media]).astype(int)


def state_of(generator, count=2):
    """Latents, times, conditioning and negatives of `count` samples."""
    torch.manual_seed(5)
    times = generator.schedule(4)
    return (torch.randn(count, *generator.latent_shape()), times[1].repeat(count),
            generator.encode_prompts(PROMPTS[:count]), generator.encode_negatives(PROMPTS[:count]))


@each_family()
def test_one_that_is_0_leaves_plain_guidance_bit_for_bit(pipelines, adapter, name):
    generator = load_tiny(pipelines(name), name)
    positive, zero = adapter(generator, "positive", 1), adapter(generator, "zero", 2, size=0.0)
    if generator.conventions.embedded:
        with pytest.raises(UserError, match="takes the guidance scale as an input of its network"):
            generator.load_negative_adapter(zero)
        assert not adapters_of(generator.denoiser)
        return
    generator.load_adapter(positive)
    x, t, wanted, negative = state_of(generator)
    with torch.no_grad():
        plain = look(generator), generator.predict(x, t, wanted, Guidance(3.0, negative, apart=True))
        generator.load_negative_adapter(zero)
        again = look(generator), generator.predict(x, t, wanted, Guidance(3.0, negative))
        assert (plain[0] == again[0]).all() and torch.equal(plain[1], again[1])
        generator.unload_negative_adapter()
        assert (look(generator) == plain[0]).all()


@pytest.mark.parametrize("name", ["sd3", "sdxl"])
@pytest.mark.parametrize("less", [0.0, 0.3, 1.0])
def test_guidance_is_that_of_two_predictions_made_by_hand(pipelines, adapter, name, less):
    """v = v_neg + w (v_pos - v_neg), v_neg by a network whose LoRAs are (1 - m) positive + negative."""
    generator = load_tiny(pipelines(name), name)
    files = adapter(generator, "positive", 1), adapter(generator, "negative", 2)
    x, t, wanted, negative = state_of(generator)

    def alone(conditioning, *strengths):
        for file, strength in zip(files, strengths, strict=True):
            [layers] = generator.fit_adapter(file).values()
            attach(generator.denoiser, {module: each.folded(strength) for module, each in layers.items()}, file.name)
        found = generator.predict(x, t, conditioning)
        remove_adapters(generator.denoiser)
        return found

    with torch.no_grad():
        v_pos, v_neg = alone(wanted, 1.0, 0.0), alone(negative, 1.0 - less, 1.0)
        generator.load_adapter(files[0])
        plain = generator.predict(x, t, wanted, Guidance(4.0, negative))
        generator.load_negative_adapter(files[1], less)
        guided = generator.predict(x, t, wanted, Guidance(4.0, negative))
        assert torch.allclose(guided, v_neg + 4.0 * (v_pos - v_neg), atol=1e-5)
        assert not torch.allclose(guided, plain, atol=1e-2)
        assert torch.allclose(generator.predict(x, t, wanted), v_pos, atol=1e-6), "without guidance it has no part"


@each_family()
@pytest.mark.parametrize("less", [0.0, 0.4])
def test_each_sample_in_the_pipelines_own_calls_has_the_adapters_of_its_branch(pipelines, adapter, name, less):
    check_rows(load_tiny(pipelines(name), name), adapter, less)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, tiny in TINY.items()
                                  if not tiny.stands_for_all and takes_words(FAMILIES[tiny.family])])
def test_the_same_of_every_other_family(pipelines, adapter, name):
    check_rows(load_tiny(pipelines(name), name), adapter, 0.4)


def check_rows(generator, adapter, less):
    """The pipeline's noisiest latents are predicted again sample by sample, by networks whose adapters are by hand."""
    from visalign.generators.observe.watching import watching

    if generator.conventions.embedded or generator.conventions.guidance is None:
        pytest.skip("has no unconditional branch")
    files = adapter(generator, "positive", 1), adapter(generator, "negative", 2)
    generator.load_adapter(files[0])
    generator.load_negative_adapter(files[1], less)
    prompts = PROMPTS if generator.sources is None else PROMPTS[:1]
    with watching(generator.pipeline, generator.networks()) as record:
        next(generator.sample(prompts, SEEDS[:len(prompts)], steps=2, guidance_scale=3.0))
    assert [bool(step.calls) for step in record.steps]
    step = record.steps[0]
    generator.unload_adapter()
    network = generator.networks()[step.calls[0].network]
    [part] = [name for name, each in generator.networks().items() if each is network]
    both = {}
    for unconditional, strengths in ((False, (1.0, 0.0)), (True, (1.0 - less, 1.0))):
        for file, strength in zip(files, strengths, strict=True):
            layers = generator.fit_adapter(file)[part]
            attach(network, {module: each.folded(strength) for module, each in layers.items()}, file.name)
        with torch.no_grad():
            both[unconditional] = [predictions(network(**call.arguments)) for call in step.calls]
        remove_adapters(network)
    found, wanted, other = (each if len(each) == 2 else each[0].chunk(2) for each in (
        [predictions(call.output) for call in step.calls], both[False], both[True]))
    place = generator.conventions.wanted_place
    for branch, right, wrong in ((place, wanted, other), (1 - place, other, wanted)):
        assert torch.allclose(found[branch], right[branch], atol=1e-4)
        assert not torch.allclose(found[branch], wrong[branch], atol=1e-3)


def predictions(output):
    from visalign.generators.observe.watching import primary

    first = primary(output)
    return torch.stack(first) if isinstance(first, list) else first


def test_what_cannot_be_a_negative_adapter_is_refused_by_name(pipelines, adapter, tmp_path):
    generator = load_tiny(pipelines("sd3"), "sd3")
    other = load_tiny(pipelines("sdxl"), "sdxl")
    positive, misfit = adapter(generator, "positive", 1), adapter(other, "of-sdxl", 1)
    text = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"
    save_file({f"{text}.lora_A.weight": torch.ones(2, 16), f"{text}.lora_B.weight": torch.ones(16, 2)},
              tmp_path / "text.safetensors")
    layer = "transformer.transformer_blocks.0.attn.to_q"
    save_file({f"{layer}.lora_down.weight": torch.ones(2, 16), f"{layer}.lora_up.weight": torch.ones(16, 2),
               f"{layer}.dora_scale": torch.ones(16, 1)}, tmp_path / "dora.safetensors")
    before = look(generator)
    for path, said in ((misfit, "of-sdxl"), (tmp_path / "text.safetensors", "text.safetensors: changes text_encoder"),
                       (tmp_path / "dora.safetensors", "dora.safetensors: is a dora")):
        with pytest.raises(UserError, match=said):
            generator.load_negative_adapter(path)
    assert (look(generator) == before).all()
    generator.load_adapter(tmp_path / "dora.safetensors")
    with pytest.raises(UserError, match="leave the negative scale at 0"):
        generator.load_negative_adapter(positive, 0.5)
    with_dora = look(generator)
    generator.load_negative_adapter(positive)
    assert (look(generator) != with_dora).any()
    generator.unload_adapter()
    assert (look(generator) == before).all()


@pytest.mark.parametrize("kind", ["loha", "lokr"])
def test_it_is_not_put_on_a_product_of_another_kind(pipelines, adapter, tmp_path, kind):
    generator = load_tiny(pipelines("sd3"), "sd3")
    negative = adapter(generator, "negative", 1)
    generator.make_trainable("lora", kind=kind, rank=2, alpha=2)
    with torch.no_grad():
        for _, parameter in generator.trainable_parameters():
            parameter.copy_(torch.ones_like(parameter))
    (tmp_path / kind).mkdir()
    write_loras(generator, tmp_path / kind)
    with pytest.raises(UserError, match=f"cannot be added to a {kind}, which the model has already"):
        generator.load_negative_adapter(negative)
    done = CliRunner().invoke(main, ["generate", str(pipelines("sd3")), "a cat", "--lora", str(tmp_path / kind),
                                     "--guidance-scale", "2", "--negative-adapter", str(negative),
                                     "-o", str(tmp_path / "bad")])
    assert done.exit_code == 1 and f"cannot be added to a {kind}" in done.output


def test_without_guidance_there_is_no_branch_for_it(pipelines, adapter):
    generator = load_tiny(pipelines("sd3"), "sd3", guidance="none")
    with pytest.raises(UserError, match="is without guidance here, so it has no unconditional branch"):
        generator.load_negative_adapter(adapter(generator, "negative", 2))
    generator = load_tiny(pipelines("sdxl"), "sdxl")
    generator.load_negative_adapter(adapter(generator, "other", 2))
    with pytest.raises(UserError, match="leaves guidance out"):
        look(generator, scale=1.0)


def generate(pipelines, folder, *words):
    return CliRunner().invoke(main, ["generate", str(pipelines("sdxl")), "a cat", "--steps", "2", "-o", str(folder),
                                     "--samples-per-prompt", "2", "--precision", "fp32",
                                     "--set", "prompt_tokens=8", *map(str, words)])


def test_pairs_are_swapped_learnt_and_led_away_from_on_the_command_line(recipe, pipelines, tmp_path):
    options = {"eval": UNMEASURED, "train": {"steps": 2}, "optim": {"lr": 0.05}}
    run(recipe("sdxl", output={"folder": str(tmp_path / "dpo")}, **options))
    run(recipe("sdxl", output={"folder": str(tmp_path / "npo")}, data={"swap": True}, **options))
    dpo, npo = tmp_path / "dpo", tmp_path / "npo"
    asked = ("--lora", dpo, "--guidance-scale", "3")
    plain, led = generate(pipelines, tmp_path / "plain", *asked), \
        generate(pipelines, tmp_path / "led", *asked, "--negative-adapter", npo)
    assert plain.exit_code == led.exit_code == 0, led.output
    half = generate(pipelines, tmp_path / "half", *asked, "--negative-adapter", npo / "export", "--negative-scale", 0.5)
    assert half.exit_code == 0, half.output
    images = [(tmp_path / name / "00000.png").read_bytes() for name in ("plain", "led", "half")]
    assert len(set(images)) == 3
    settings = json.loads((tmp_path / "led" / "settings.json").read_text())
    assert (settings["negative adapter"], settings["negative scale"]) == (str(npo), 0.0)
    assert "negative adapter" not in json.loads((tmp_path / "plain" / "settings.json").read_text())

    (tmp_path / "led" / "samples.jsonl").unlink()
    (tmp_path / "led" / "00001.png").unlink()
    other = generate(pipelines, tmp_path / "led", *asked)
    assert other.exit_code == 1 and "holds unfinished generations of another command" in other.output
    assert generate(pipelines, tmp_path / "led", *asked, "--negative-adapter", npo).exit_code == 0
    assert (tmp_path / "led" / "00000.png").read_bytes() == images[1]
    best = generate(pipelines, tmp_path / "best", *asked, "--negative-adapter", npo, "--best-of", "2")
    assert best.exit_code == 0, best.output

    for words, said in ((["--guidance-scale", "1"], "at guidance scale 1 there is no unconditional branch"),
                        (["--guidance-scale", "3", "--negative-scale", "0.5"], "takes so much of the model's LoRA off"),
                        (["--lora", dpo, "--guidance-scale", "3", "--negative-scale", "1.5"], "--negative-scale")):
        done = generate(pipelines, tmp_path / "bad", *words, "--negative-adapter", npo)
        assert done.exit_code != 0 and said in done.output, done.output
    done = generate(pipelines, tmp_path / "bad", *asked, "--negative-scale", "0.5")
    assert done.exit_code == 1 and "there is none; give both" in done.output
    (npo / "export" / "pytorch_lora_weights.safetensors").write_bytes(b"broken")
    done = generate(pipelines, tmp_path / "bad", *asked, "--negative-adapter", npo)
    assert done.exit_code == 1 and "npo/export/pytorch_lora_weights.safetensors" in done.output
    assert not (tmp_path / "bad").exists()
