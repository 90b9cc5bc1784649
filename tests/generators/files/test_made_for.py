"""Steps and guidance belong to the model: as asked, as its folder says, as its family has them."""

import json
import shutil

import pytest

from visalign.config import ModelSettings
from visalign.config.load import load_config
from visalign.errors import UserError
from visalign.generators import FAMILIES, load_generator
from visalign.generators.export.exporting import export
from visalign.generators.files.locating import sampling_for


def sampling(source, *asked):
    found = sampling_for(ModelSettings(source=str(source)), *asked)
    return found.steps, found.guidance_scale


def test_what_is_asked_for_comes_first(pipelines):
    assert sampling(pipelines("sdxl"), 7, 1.5) == (7, 1.5)


@pytest.mark.parametrize("name, steps, guidance", [("sdxl", 30, 5.0), ("sd15", 50, 7.5), ("sd3", 28, 4.5),
                                                   ("flux", 28, 3.5), ("wan", 50, 5.0)])
def test_a_family_has_its_own(pipelines, name, steps, guidance):
    assert sampling(pipelines(name)) == (steps, guidance)


def test_a_models_folder_knows_better_than_its_family(pipelines, tmp_path):
    shutil.copytree(pipelines("sd3"), tmp_path / "mine")
    (tmp_path / "mine" / "visalign.json").write_text(json.dumps({"steps": 4, "guidance_scale": 1.0}))
    assert sampling(tmp_path / "mine") == (4, 1.0)
    assert sampling("tiny-sd3") == (20, 3.0)


def test_a_full_fine_tune_keeps_what_its_base_was_made_for(recipe, pipelines, tmp_path):
    base = shutil.copytree(pipelines("sd3"), tmp_path / "base")
    (base / "visalign.json").write_text('{"height": 24, "width": 16, "steps": 4, "guidance_scale": 1.5}')
    config = load_config(recipe("sd3", model={"source": str(base), "tuning": "full", "resolution": None}))
    generator = load_generator(config.model, "cpu")
    generator.make_trainable("full")
    export(generator, tmp_path / "export", config, {})
    exported = tmp_path / "export" / "pipeline"
    assert sampling(exported) == sampling(base) == (4, 1.5)
    assert load_generator(str(exported), "cpu").shape == generator.shape


@pytest.mark.parametrize("text", ['{"stepps": 4}', "[4]", "{", '{"steps": "four"}'])
def test_what_the_folder_says_must_be_readable(pipelines, tmp_path, text):
    shutil.copytree(pipelines("sd3"), tmp_path / "mine")
    (tmp_path / "mine" / "visalign.json").write_text(text)
    with pytest.raises(UserError, match="not readable as"):
        sampling(tmp_path / "mine")


def test_every_family_has_both():
    assert all(family.default_steps > 0 and family.default_guidance_scale > 0 for family in FAMILIES.values())
