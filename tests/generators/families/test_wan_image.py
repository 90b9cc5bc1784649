"""Image to video: the image's latents stand beside the noisy ones, and a prompt is words@@image."""

import numpy as np
import pytest
import torch
from PIL import Image

from visalign.config import ModelSettings, RolloutSettings
from visalign.errors import UserError
from visalign.generators import load_generator
from visalign.generators.base import Guidance
from visalign.sampling.encoding_cache import EncodingCache
from visalign.trainers.online.rollout import Sampler, Start

SHAPE = {"resolution": [16, 32], "frames": 5, "precision": "fp32", "prompt_tokens": 8}


@pytest.fixture
def generator(pipelines):
    return load_generator(ModelSettings(source=str(pipelines("wan-image")), **SHAPE), "cpu")


@pytest.fixture
def prompts(tmp_path):
    for name, colour in (("red", (220, 30, 30)), ("blue", (30, 30, 220))):
        Image.new("RGB", (40, 20), colour).save(tmp_path / f"{name}.png")
    return [f"a fruit moves right@@{tmp_path / 'red.png'}", f"a cat face@@{tmp_path / 'blue.png'}"]


def test_a_run_without_noise_is_the_pipeline_s_own(generator, prompts):
    starts = [Start(i, prompt, prompt, i + 1, 0) for i, prompt in enumerate(prompts)]
    guidance = Guidance(3.0, generator.encode_negatives(prompts))
    ours = Sampler(generator, RolloutSettings(steps=4, sampler="ode"), False).draw(
        starts, generator.encode_prompts(prompts), guidance, frozenset(), torch.empty(2, 0, dtype=torch.int64))
    theirs = [video for [video] in generator.sample(prompts, [1, 2], steps=4, guidance_scale=3.0)]
    for sample, video in zip(ours, theirs, strict=True):
        [mine] = generator.decode(sample.latents[None])
        assert np.abs(np.asarray(mine.frames[3], int) - np.asarray(video.frames[3], int)).max() <= 1


def test_the_prediction_depends_on_the_image(generator, prompts):
    same_words = [prompts[0], prompts[0].replace("red.png", "blue.png")]
    x = torch.randn(1, *generator.latent_shape()).repeat(2, 1, 1, 1, 1)
    with torch.no_grad():
        prediction = generator.predict(x, torch.tensor([0.5, 0.5]), generator.encode_prompts(same_words))
    assert prediction.shape == x.shape and (prediction[0] - prediction[1]).abs().max() > 1e-5


def test_a_changed_image_is_another_prompt(generator, prompts, tmp_path):
    cache = EncodingCache(tmp_path / "cache", generator)
    before = cache.prompt_key(prompts[0])
    Image.new("RGB", (40, 20), "green").save(tmp_path / "red.png")
    assert cache.prompt_key(prompts[0]) != before
    assert generator.text_of(prompts[0]) == "a fruit moves right"


@pytest.mark.parametrize("prompt, words", [("a cat", "names no image; image to video takes 'words@@image file'"),
                                           ("a cat@@gone.png", "names gone.png, which does not exist")])
def test_prompts_without_their_image_are_refused_unloaded(generator, prompt, words):
    with pytest.raises(UserError, match=words):
        type(generator).check_prompts([prompt], "eval.prompts")


def test_it_learns_online_and_rewards_see_the_words_alone(online_recipe, prompts, tmp_path):
    from ...trainers.commands import fails, rows, run

    (tmp_path / "images.txt").write_text("\n".join(prompts))
    sections = {"rollout": {"prompts": str(tmp_path / "images.txt"), "same_noise": True},
                "reward": {"models": [{"reward": "tiny-clip"}]}, "eval": {"prompts": str(tmp_path / "images.txt")}}
    run(online_recipe("wan-image", "grpo", model={"resolution": [16, 32], "frames": 5}, **sections))
    trained = rows(tmp_path / "run")
    assert len(trained) == 3 and trained[0]["ratio"] == pytest.approx(1, abs=1e-5)
    wrong = {"rollout": {"prompts": str(tmp_path / "train.txt")}}
    assert "rollout.prompts 'a red fruit': names no image" in fails(online_recipe(
        "wan-image", "grpo", name="wrong.yaml", **(sections | wrong)))
