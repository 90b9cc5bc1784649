"""The size of encodings from configurations: what pipelines really give, and the published models' by hand."""

import math
from types import SimpleNamespace

import pytest

from tests.families import TINY
from visalign.config import ModelSettings
from visalign.generators import load_generator
from visalign.generators.encoding_size import numbers_of_latents, numbers_of_prompt

BESIDE = {"sdxl": 6}
"""Sizes and crops, which are not counted."""


@pytest.mark.parametrize("name", ["sdxl", "sd3", "flux", "wan"])
def test_it_is_what_a_pipeline_gives(pipelines, name):
    settings = {"prompt_tokens": 8} | TINY[name].settings
    generator = load_generator(ModelSettings(source=str(pipelines(name)), precision="fp32", **settings), "cpu")
    given = generator.encode_prompts(["grapes"])
    assert numbers_of_prompt(generator) == sum(each.numel() for each in given.values()) - BESIDE.get(name, 0)
    assert numbers_of_latents(generator) == math.prod(TINY[name].latents)


def encoder(kind: str, **config):
    return type(kind, (), {"config": SimpleNamespace(**config)})()


CLIP_L = encoder("CLIPTextModel", max_position_embeddings=77, hidden_size=768)
CLIP_L_PROJECTED = encoder("CLIPTextModelWithProjection", max_position_embeddings=77, projection_dim=768)
CLIP_G = encoder("CLIPTextModelWithProjection", max_position_embeddings=77, projection_dim=1280)
T5 = encoder("T5EncoderModel")


@pytest.mark.parametrize("encoders, config, tokens, numbers", [
    ([CLIP_L], {"cross_attention_dim": 768}, 77, 77 * 768),
    ([CLIP_L, CLIP_G], {"cross_attention_dim": 2048}, 77, 77 * 2048 + 1280),
    ([CLIP_L_PROJECTED, CLIP_G, T5], {"joint_attention_dim": 4096}, 256, (77 + 256) * 4096 + 2048),
    ([CLIP_L, T5], {"joint_attention_dim": 4096}, 512, 512 * 4096 + 768),
    ([T5], {"text_dim": 4096}, 512, 512 * 4096)])
def test_published_models(encoders, config, tokens, numbers):
    generator = SimpleNamespace(text_encoders=lambda: dict(enumerate(encoders)), prompt_tokens=tokens,
                                denoiser=SimpleNamespace(config=config))
    assert numbers_of_prompt(generator) == numbers
