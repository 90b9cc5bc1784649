"""Sampling that tells its steps and can be ended; an adapter's strength."""

import numpy as np
import pytest

from tests.families import each_family, load_tiny
from tests.generators.test_export import trained
from visalign.config import ModelSettings
from visalign.generators import load_generator
from visalign.generators.export.exporting import export


@each_family()
def test_every_step_is_told(pipelines, name):
    told = []
    sampled = load_tiny(pipelines(name), name).sample(["a cat face"] * 3, [1, 2, 3], steps=2, guidance_scale=2.0,
                                                      batch_size=2, on_step=lambda *step: told.append(step))
    assert len([media for batch in sampled for media in batch]) == 3
    assert told == [(1, 2), (2, 2)] * 2


def test_what_a_step_raises_ends_the_sampling(pipelines):
    class Enough(Exception):
        pass

    def stop(done, steps):
        if done == 2:
            raise Enough

    generator = load_generator(ModelSettings(source=str(pipelines("sd3")), prompt_tokens=8), "cpu")
    with pytest.raises(Enough):
        next(generator.sample(["a cat face"], [1], steps=5, guidance_scale=1.0, on_step=stop))
    assert len(next(generator.sample(["a cat face"], [1], steps=2, guidance_scale=1.0))) == 1


def test_strength_goes_from_the_base_to_beyond_the_adapter(recipe, pipelines, tmp_path):
    config, generator = trained(recipe, "sd3", "lora")
    export(generator, tmp_path / "export", config, {})
    again = load_generator(config.model, "cpu")

    def look():
        [[image]] = again.sample(["a cat face"], [5], steps=3, guidance_scale=2.0)
        return np.asarray(image, dtype=int)

    base = look()
    again.load_adapter(tmp_path / "export")
    full = look()
    looks = {}
    for strength in (0.0, 0.5, 1.0, 1.5):
        again.set_adapter_strength(strength)
        looks[strength] = look()
    assert (looks[0.0] == base).all() and (looks[1.0] == full).all()
    apart = [np.abs(looks[strength] - base).mean() for strength in (0.0, 0.5, 1.0, 1.5)]
    assert apart == sorted(apart) and apart[1] > 0.1 and apart[3] > apart[2]
    again.unload_adapter()
    assert (look() == base).all()
