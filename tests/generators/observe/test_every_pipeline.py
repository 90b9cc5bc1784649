"""Every family: the prediction here is what the pipeline gives its scheduler, at each of its steps.

No line about a family: its conventions are observed. A wrong sign, time, layout or guidance rule fails.
"""

import contextlib
import inspect
from pathlib import Path

import pytest
import torch

from tests.families import TINY, load_tiny
from tests.tiny import source_image
from visalign.generators import FAMILIES, Generator
from visalign.generators.base import Guidance
from visalign.generators.observe.watching import noise_levels, scheduler_replaced
from visalign.generators.schedulers import rises
from visalign.media.samples import Video
from visalign.media.source_images import source_images_of

PROMPTS = ["a red fruit", "a cat face and a blue tree"]
WHOLE_TIMES = {"sana", "sana_video", "wan22", "wan22_image", "wan22_small", "wan22_small_image"}
"""Their scheduler cuts the network's time to whole numbers, which are compared at the time they name."""
WITH_SOUND = {"ltx2"}
"""Their sound is sampled along by the pipeline, and follows the noise level here: alike in the first step alone,
with the seed that conditioning is recorded with."""


@pytest.fixture(scope="module")
def loaded(pipelines):
    made: dict[str, Generator] = {}

    def get(name: str) -> Generator:
        if name not in made:
            made[name] = load_tiny(pipelines(name), name)
        return made[name]

    return get


def prompts_for(generator: Generator, folder: Path) -> list[str]:
    if generator.sources is None:
        return PROMPTS
    files = [folder / f"{number}.png" for number in range(len(PROMPTS))]
    for number, file in enumerate(files):
        source_image(40 + 24 * number, 48).save(file)
    return [f"{words}@@{file}" for words, file in zip(PROMPTS, files, strict=True)]


def steps_of(generator: Generator, prompt: str, scale: float) -> list[tuple]:
    """(sample, model_output, process time, scheduler's time) of each step, in the scheduler's layout."""
    scheduler, steps = generator.pipeline.scheduler, []
    names = list(inspect.signature(type(scheduler).step).parameters)[1:]

    def seen(own, arguments, named):
        given = dict(zip(names, arguments, strict=False)) | named
        index = getattr(scheduler, "step_index", None) or 0
        time = noise_levels(scheduler)[index] if generator.process.kind == "flow" else given["timestep"]
        scaled = given["sample"]
        if generator.process.kind == "diffusion" and hasattr(scheduler, "scale_model_input"):
            scaled = scheduler.scale_model_input(scaled, given["timestep"])
        times = (torch.as_tensor(each).reshape(1) for each in (time, given["timestep"]))
        steps.append((scaled.clone(), given["model_output"] * (-1 if rises(scheduler) else 1), *times))
        return own(*arguments, **named)

    made = generator.sample([prompt], [0], steps=3, guidance_scale=scale)
    with torch.no_grad(), scheduler_replaced(scheduler, seen), contextlib.closing(made):
        next(made)
    return steps[:3]  # later ones belong to encoding


@pytest.mark.parametrize("name", TINY)
def test_predictions_are_the_pipeline_s_own(loaded, tmp_path, name):
    generator = loaded(name)
    assert generator.latent_shape() == TINY[name].latents
    prompt = prompts_for(generator, tmp_path)[0]
    texts, negative = generator.encode_prompts([prompt]), generator.encode_negatives([prompt])
    to_latents = generator.conventions.from_rule
    for number, (sample, model_output, t, whole) in enumerate(steps_of(generator, prompt, 4.0)):
        if name in WITH_SOUND and number:
            break
        t = whole / 1000 if name in WHOLE_TIMES else t
        with torch.no_grad():
            mine = generator.predict(to_latents(sample.float()), t, texts, Guidance(4.0, negative))
        theirs = to_latents(model_output.float())
        if generator.conventions.given is not None:  # a first frame: the pipeline puts it back after each step
            theirs = theirs.masked_fill(generator.conventions.given, 0)
        assert (mine - theirs).norm() < 1e-4 * theirs.norm()


@pytest.mark.parametrize("name", TINY)
def test_a_batch_of_unequal_prompts_is_each_alone(loaded, tmp_path, name):
    generator = loaded(name)
    prompts = prompts_for(generator, tmp_path)
    x = torch.randn(2, *generator.latent_shape(), generator=torch.Generator().manual_seed(1))
    t = generator.process.times_at(torch.tensor([0.3, 0.7]))
    with torch.no_grad():
        both = generator.predict(x, t, generator.encode_prompts(prompts))
        alone = torch.cat([generator.predict(x[i:i + 1], t[i:i + 1], generator.encode_prompts(prompts[i:i + 1]))
                           for i in range(2)])
    assert (both - alone).norm() < 1e-4 * alone.norm()
    assert (both[0] - both[1]).norm() > 1e-3 * both.norm()


@pytest.mark.parametrize("name", TINY)
def test_latents_go_to_the_vae_and_back(loaded, name):
    generator = loaded(name)
    own, latents = generator.conventions.vae, torch.randn(1, *generator.latent_shape())
    z = latents * own.scale + own.offset
    torch.testing.assert_close((z - own.offset) / own.scale, latents, atol=1e-5, rtol=1e-5)
    [made] = generator.decode(latents)
    again = generator.encode_media(generator.to_pixels([made]))
    assert again.shape == latents.shape and again.isfinite().all()


def test_every_family_of_hints_is_here():
    assert set(FAMILIES) <= {tiny.family for tiny in TINY.values()}


def test_a_first_frame_that_the_network_sees_in_place_of_the_latents_is_in_samples(loaded, tmp_path):
    """Wan 2.2 5B from an image: its tokens have time 0, its prediction is dropped, and samples begin with it."""
    generator = loaded("wan22_small_image")
    prompt = prompts_for(generator, tmp_path)[0]
    given, texts = generator.conventions.given, generator.encode_prompts([prompt])
    assert given[:, 0].all() and not given[:, 1:].any()
    [rule] = generator.conventions.times.values()
    assert rule(torch.tensor([0.5])).unique().tolist() == [0.0, 500.0]
    x = torch.randn(1, *generator.latent_shape())
    with torch.no_grad():
        assert not generator.predict(x, torch.tensor([0.5]), texts)[:, :, 0].any()
    source = generator.encode_media(generator.to_pixels([Video(source_images_of(prompt) * 5, 8.0)]))
    torch.testing.assert_close(generator.replay.finished(x, texts)[:, :, 0], source[:, :, 0], atol=1e-3, rtol=1e-3)
