"""Every family learns through the command line, and its export, in plain diffusers, makes the same samples.

In the default run each family learns in one of three ways; all ways are marked slow.
"""

import json
import re

import numpy as np
import pytest
from PIL import Image

from tests.families import TINY, load_tiny
from tests.tiny import LOADS

from .commands import UNMEASURED, rows, run

WAYS = ("dpo", "grpo", "nft")
GREY = {"allegro"}  # its small VAE is smaller than one of the tiles in which alone it decodes, and so all is grey
SHORT = {"optim": {"lr": 0.02}, "eval": UNMEASURED}


def _ways():
    new = [name for name, tiny in TINY.items() if not tiny.stands_for_all and name not in GREY]
    for place, name in enumerate(new):
        usable = [way for way in WAYS if way != "nft" or not TINY[name].is_diffusion]
        for way in usable:
            quick = way == usable[place % len(usable)]
            yield pytest.param(name, way, id=f"{name}-{way}", marks=() if quick else pytest.mark.slow)


@pytest.fixture
def taught(recipe, online_recipe, tmp_path, pairs_file, video_pairs_file):
    """Trains a tiny pipeline, with a source image for every prompt where the family takes one; returns its prompt."""
    Image.linear_gradient("L").convert("RGB").resize((24, 16)).save(tmp_path / "source.png")

    def train(name: str, way: str, takes_source: bool) -> str:
        prompt = "a red fruit" + (f"@@{tmp_path / 'source.png'}" if takes_source else "")
        if takes_source:
            _add_sources(pairs_file, video_pairs_file)
        (tmp_path / "given.txt").write_text(f"{prompt}\n{prompt.replace('red fruit', 'cat face')}\n")
        prompts = {"prompts": str(tmp_path / "given.txt")}
        if way == "dpo":
            run(recipe(name, **SHORT | {"train": {"steps": 2}, "eval": UNMEASURED | prompts}))
        else:
            sampler = {} if way == "grpo" else {"sampler": "ode"}
            rollout = {"prompts_per_epoch": 1, "group_size": 3, "batch_size": 3, "steps": 2} | prompts | sampler
            run(online_recipe(name, way, **SHORT | {"train": {"epochs": 2}, "rollout": rollout,
                                                    "eval": UNMEASURED | prompts}))
        return prompt

    return train


def _add_sources(pairs_file, video_pairs_file) -> None:
    lines = [json.loads(line) | {"source": "source.png"} for line in pairs_file.read_text().splitlines()]
    pairs_file.write_text("\n".join(map(json.dumps, lines)))
    first, *others = video_pairs_file.read_text().splitlines()
    video_pairs_file.write_text("\n".join([f"{first},source", *(f"{line},source.png" for line in others)]))


def _levels(sample) -> np.ndarray:
    """An image, or the frames of a video, as 0 to 255."""
    values = np.asarray([np.asarray(frame) for frame in getattr(sample, "frames", sample)] if not
                        isinstance(sample, Image.Image) else sample)
    levels = values.astype(float) if values.dtype == np.uint8 else values.astype(float) * 255
    return levels[..., :3]  # without the transparency that some pipelines add


def _plainly(pipeline, generator, prompt: str) -> np.ndarray:
    if getattr(generator.pipeline.vae, "use_tiling", False):
        pipeline.vae.enable_tiling()
    if hasattr(pipeline, "guider"):
        pipeline.guider = generator.pipeline.guider
    with type(generator).at_size(pipeline, generator.shape):
        output = pipeline(**generator.call.options([prompt], steps=2, seeds=[5], scale=2.0))
    return _levels(next(getattr(output, name)[0] for name in ("images", "image", "frames") if hasattr(output, name)))


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("name, way", _ways())
def test_what_was_learnt_is_the_same_in_plain_diffusers(pipelines, taught, tmp_path, name, way):
    from diffusers import DiffusionPipeline

    generator = load_tiny(pipelines(name), name)
    prompt = taught(name, way, generator.sources is not None and generator.sources.least > 0)
    trained = rows(tmp_path / "run")
    assert way != "grpo" or trained[0]["ratio"] == pytest.approx(1, abs=1e-5)
    plain = DiffusionPipeline.from_pretrained(pipelines(name), **LOADS.get(name, {}))
    plain.set_progress_bar_config(disable=True)
    untrained = _plainly(plain, generator, prompt)
    export = tmp_path / "run" / "export"
    generator.load_adapter(export)
    [[mine]] = generator.sample([prompt], [5], steps=2, guidance_scale=2.0)
    lines = re.search("```python\n(.+?)```", (export / "README.md").read_text(), re.DOTALL)[1]
    exec(re.sub(r"pipeline = .+", "", lines).replace("path/to/this/folder", str(export)), {"pipeline": plain})
    theirs = _plainly(plain, generator, prompt)
    assert np.abs(_levels(mine) - theirs).max() <= 2 and np.abs(theirs - untrained).max() > 2
    generator.unload_adapter()
    [[before]] = generator.sample([prompt], [5], steps=2, guidance_scale=2.0)
    assert np.abs(_levels(before) - untrained).max() <= 2
