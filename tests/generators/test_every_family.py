"""What every generator family must do; a new one is found in FAMILIES and needs an entry in tests/families.py."""

from typing import ClassVar, get_origin

import numpy as np
import pytest
import torch

from tests.families import TINY, each_family, first_of, load_tiny
from visalign.config import ModelSettings
from visalign.generators import FAMILIES, Generator, locate_model
from visalign.generators.sizes import Sized
from visalign.generators.tunable import Tunable


@pytest.mark.parametrize("family", FAMILIES)
def test_has_a_tiny_pipeline(family):
    assert first_of(family), f"{family} is in FAMILIES and has no tiny pipeline: add one to TINY in tests/families.py"


@pytest.mark.parametrize("family", FAMILIES)
def test_says_all_of_itself(family):
    asked = [name for base in (Generator, Sized, Tunable) for name, kind in base.__annotations__.items()
             if get_origin(kind) is ClassVar]
    missing = [name for name in asked if not hasattr(FAMILIES[family], name)]
    assert not missing, f"{family} does not set {', '.join(missing)}; see visalign/generators/base.py"


@pytest.mark.parametrize("name", TINY)
def test_is_told_by_the_index_before_anything_is_loaded(pipelines, name):
    assert locate_model(ModelSettings(source=str(pipelines(name)))).family is FAMILIES[TINY[name].family]


@each_family(also=("sd15-v",))
def test_predictions_have_the_shape_of_latents_and_depend_on_prompt_and_time(pipelines, name):
    generator = load_tiny(pipelines(name), name)
    assert generator.latent_shape() == TINY[name].latents
    x = torch.randn(1, *generator.latent_shape()).repeat(2, *[1] * len(generator.latent_shape()))
    texts, times = generator.encode_prompts(["a red fruit", "a cat face"]), generator.process.times_at
    alike = {key: value[:1].repeat(2, *[1] * (value.ndim - 1)) for key, value in texts.items()}
    with torch.no_grad():
        by_prompt = generator.predict(x, times(torch.tensor([0.5, 0.5])), texts)
        by_time = generator.predict(x, times(torch.tensor([0.2, 0.7])), alike)
    assert by_prompt.shape == x.shape and by_prompt.dtype == torch.float32
    assert (by_prompt[0] - by_prompt[1]).abs().max() > 1e-7 and (by_time[0] - by_time[1]).abs().max() > 1e-7


@each_family("image", also=("sd15-v",))
def test_sampling_is_the_pipeline_s_own(pipelines, name):
    from diffusers import DiffusionPipeline

    generator = load_tiny(pipelines(name), name)
    [[mine]] = generator.sample(["a cat face"], [7], steps=3, guidance_scale=2.0)
    plain = DiffusionPipeline.from_pretrained(pipelines(name))
    plain.set_progress_bar_config(disable=True)
    theirs = plain("a cat face", num_inference_steps=3, guidance_scale=2.0, generator=torch.Generator().manual_seed(7),
                   **generator.call.shaped()).images[0]
    assert np.abs(np.asarray(mine, dtype=int) - np.asarray(theirs, dtype=int)).max() <= 1
