"""`lm train --dry-run` from configurations alone: published vision-language models, and language models."""

import json
import re

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

pytest.importorskip("trl")

from peft import get_peft_model

from tests.rewards.tiny_vlm import build_tiny_vlm
from tests.tiny.vision_models import PUBLISHED_VISION, published_vision, save_tiny_idefics
from visalign.cli import main
from visalign.config.language import LanguageModelSettings, TextDataSettings
from visalign.data.text_pairs import read_text_pairs
from visalign.errors import UserError
from visalign.language.sketch import sketch_language
from visalign.storage.language_models import LanguageSource, locate_language_model

LAYERS = {"Qwen2.5-VL-3B": {"language_model": 7 * 36, "visual": 5 * 32 + 2},
          "Qwen2.5-VL-7B": {"language_model": 7 * 28, "visual": 5 * 32 + 2},
          "SmolVLM-256M": {"text_model": 7 * 30, "vision_model": 6 * 12, "connector": 1},
          "SmolVLM-500M": {"text_model": 7 * 32, "vision_model": 6 * 12, "connector": 1},
          "SmolVLM-2.2B": {"text_model": 7 * 24, "vision_model": 6 * 27, "connector": 1}}


@pytest.fixture(scope="module")
def tiny_processors(tmp_path_factory):
    """Folders of tiny models by the first letter of the family; SmolVLM's processor cuts images as the small ones do,
    into squares of 512 pixels with 64 tokens each."""
    root = tmp_path_factory.mktemp("tiny")
    return {"Q": build_tiny_vlm(root / "qwen"), "S": save_tiny_idefics(root / "smol", 512, 16, 4)}


@pytest.fixture
def pictures(tmp_path):
    """A table of pairs with images of 512 pixels."""
    Image.new("RGB", (512, 512), "red").save(tmp_path / "red.png")
    rows = [{"prompt": f"Which colour is picture {i}?", "chosen": "red " * (1 + i % 3), "rejected": "blue",
             "image": "red.png"} for i in range(6)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "pairs.jsonl"


@pytest.mark.parametrize("name", PUBLISHED_VISION)
def test_published_architectures_have_the_published_sizes_and_adapters_on_linear_layers(name, tmp_path,
                                                                                        tiny_processors):
    """Every linear layer of both towers and what joins them, not the patches' convolution nor the vocabulary's head."""
    folder = published_vision(name, tmp_path / name, tiny_processors[name[0]])
    sketch = sketch_language(locate_language_model(str(folder), weights=False), LanguageModelSettings(
        source=str(folder), vision=True))
    assert sketch.base == PUBLISHED_VISION[name][1] and sketch.adapted == LAYERS[name]
    changed = [layer for path, layer in sketch.model.named_modules() if hasattr(layer, "lora_A")]
    assert all(type(layer.base_layer).__name__ == "Linear" for layer in changed)
    names = [path for path, layer in sketch.model.named_modules() if hasattr(layer, "lora_A")]
    assert not [path for path in names if "lm_head" in path or "patch_embed" in path or "embed_tokens" in path]
    assert sketch.trained == 16 * sum(sum(layer.base_layer.weight.shape) for layer in changed)


@pytest.mark.parametrize("name", ["Qwen2.5-VL-3B", "SmolVLM-256M"])
def test_a_dry_run_needs_no_weights(name, tmp_path, tiny_processors, pictures):
    folder = published_vision(name, tmp_path / name, tiny_processors[name[0]])
    with pytest.raises(UserError, match="holds no weights"):
        locate_language_model(str(folder))
    done = CliRunner().invoke(main, ["lm", "train", "language/vlm_dpo", "--dry-run", "--card", "80", f"model={folder}",
                                     f"data.path={pictures}", "eval={max_prompts: 2}"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert f"parameters        {PUBLISHED_VISION[name][1] / 1e6:,.2f} M, trainable" in done.output
    assert f"adapted layers    {sum(LAYERS[name].values())}: " in done.output and "pairs             6," in done.output
    assert "those of images included" in done.output and "it fits, with" in done.output
    frozen, trained, optimiser = (float(re.search(rf"  {part} +([\d.]+)", done.output)[1]) for part in (
        "frozen weights", "trained weights", "optimiser"))
    assert frozen * 2**30 == pytest.approx(2 * PUBLISHED_VISION[name][1], rel=0.02)  # bf16 on a GPU
    assert optimiser == pytest.approx(2 * trained, abs=0.02)  # two moments in fp32
    assert re.search(r"step.s backward pass +[\d.]+ with [\d.]+ activations, [\d.]+ gradients", done.output)


def test_memory_of_activations_grows_with_the_batch_and_shrinks_with_checkpointing(tmp_path, tiny_processors, pictures):
    folder = published_vision("SmolVLM-256M", tmp_path / "smol", tiny_processors["S"])

    def activations(*more):
        done = CliRunner().invoke(main, [
            "lm", "train", "language/vlm_dpo", "--dry-run", "--card", "80", f"model={folder}", f"data.path={pictures}",
            "eval={max_prompts: 2}", "model.gradient_checkpointing=false", *more], catch_exceptions=False)
        return float(re.search(r"with ([\d.]+) activations", done.output)[1])

    one, two = activations("train.batch_size=1"), activations("train.batch_size=2")
    assert two == pytest.approx(2 * one, rel=0.05)
    assert activations("model.gradient_checkpointing=true") < two / 4


def test_a_language_model_is_planned_from_its_configuration(recipe, tiny_lm, tmp_path):
    from visalign.jobs.language_dry_run import describe_language_run

    said = describe_language_run(recipe())
    assert "adapted layers    14: 14 of language_model" in said and "it fits, with" in said
    assert "24 pairs are longer than train.max_length 1024" in said
    full = describe_language_run(recipe("model.tuning=full", "model.lora={}"), planned=24)
    assert "(full)" in full and "  reference " in full and "adapted layers" not in full  # a copy is compared with
    made = describe_language_run(recipe("data={feedback: {prompts: topics:train, reward: brevity}}"))
    assert re.search(r"at most (\d+), made of 4 answers to each of \1 prompts", made) and "it fits, with" in made
    assert "activations are not counted: every pair is longer" in describe_language_run(recipe("train.max_length=4"))
    small = describe_language_run(recipe("train.batch_size=4096"), planned=1)
    assert "it does not fit" in small and "model.gradient_checkpointing=true" in small


def test_layers_that_are_not_there_and_other_configurations_are_refused(tmp_path, recipe):
    from visalign.jobs.language_dry_run import describe_language_run

    with pytest.raises(UserError, match="model.lora.targets: no adapter fits .*Target modules"):
        describe_language_run(recipe("model.lora={rank: 4, targets: [to_q]}"))
    with pytest.raises(UserError, match="its configuration gives no vision-language model"):
        describe_language_run(recipe("model.vision=true"))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "nothing_known"}))
    with pytest.raises(UserError, match="its configuration gives no language model"):
        sketch_language(LanguageSource(str(tmp_path)), LanguageModelSettings(source=str(tmp_path)))


@pytest.mark.parametrize("family", ["Q", "S"])
def test_what_is_counted_is_what_a_pass_keeps(family, tiny_processors, pictures):
    """A pass of the same batch with weights keeps as many bytes for its backward, on a CPU in fp32; transformers makes
    Idefics3's mask of 1024 x 1024 patches of each square, which it leaves out where it sees that all are seen."""
    from visalign.generators.hardware.activations import SavedTensors
    from visalign.language.convert import peft_config
    from visalign.language.sketch import pass_activations
    from visalign.language.vision import VisionCollator, vision_rows
    from visalign.storage.language_models import load_language_model

    source, settings = str(tiny_processors[family]), LanguageModelSettings(source=str(tiny_processors[family]),
                                                                           vision=True)
    model = load_language_model(source, vision=True)
    pairs = read_text_pairs(TextDataSettings(path=str(pictures)))
    batch = VisionCollator(model.processor, (), 4096)(vision_rows(model, pairs, None, pictures.parent, 4096)[:2])
    batch.pop("completion_mask")
    network = get_peft_model(model.model, peft_config(settings.lora)).train()
    counter = SavedTensors(network)
    with counter.counting(counter.outside):
        network.get_base_model().base_model(**batch, use_cache=False)
    sketch = sketch_language(locate_language_model(source), settings)
    counted = pass_activations(sketch, batch, torch.device("cpu"), torch.float32, torch.float32)
    mask = 4 * batch["pixel_values"].shape[0] * batch["pixel_values"].shape[1] * 1024**2 if family == "S" else 0
    assert counted.kept == pytest.approx(counter.found().kept + mask, rel=0.05)
