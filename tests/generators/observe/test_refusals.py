"""What cannot be trained is refused in one sentence that names it: by its class, by its scheduler, or once observed."""

import json
import shutil

import pytest
import torch

from tests.families import TINY
from tests.tiny import builders
from visalign.config import ModelSettings
from visalign.errors import UserError
from visalign.generators import load_generator, locate_model
from visalign.generators.base import Guidance


def settings(folder, **more):
    return ModelSettings(source=str(folder), precision="fp32", **more)


@pytest.mark.parametrize("name, words", [
    ("StableDiffusionInpaintPipeline", "fills in masked parts"), ("StableDiffusionXLControlNetPipeline", "control"),
    ("StableDiffusionUpscalePipeline", "enlarges or refines"), ("StableAudioPipeline", "makes sound"),
    ("StableCascadePriorPipeline", "stage of a cascade"), ("FluxModularPipeline", "modular pipeline"),
    ("FluxImg2ImgPipeline", "varies a given sample"), ("ImaginaryPipeline", "there is no ImaginaryPipeline in")])
def test_other_uses_are_refused_by_their_class(tmp_path, name, words):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": name}))
    with pytest.raises(UserError, match=words):
        locate_model(settings(tmp_path))


def changed_scheduler(pipelines, tmp_path, name, kind, **config):
    folder = tmp_path / name
    shutil.copytree(pipelines(name), folder)
    index = json.loads((folder / "model_index.json").read_text())
    index["scheduler"][1] = kind
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps({"_class_name": kind} | config))
    return folder


@pytest.mark.parametrize("name, kind, config, words", [
    ("sd3", "EDMEulerScheduler", {}, "scheduler"), ("sd3", "DDIMScheduler", {}, "does not step as a rectified flow"),
    ("sd15", "FlowMatchEulerDiscreteScheduler", {}, "no table of betas"),
    ("sd15", "DDIMScheduler", {"prediction_type": "sample"}, "prediction_type 'sample'")])
def test_a_scheduler_that_the_pipeline_was_not_made_for(pipelines, tmp_path, name, kind, config, words):
    folder = changed_scheduler(pipelines, tmp_path, name, kind, **config)
    with pytest.raises(UserError, match=words):
        load_generator(settings(folder, prompt_tokens=8), "cpu")


@pytest.fixture
def lumina(tmp_path):
    folder = tmp_path / "lumina"
    folder.mkdir()
    return builders()["lumina"](folder)


def test_guidance_of_an_unknown_form_is_given_up_only_if_the_user_says_so(lumina, capsys):
    """Lumina-Next guides some channels alone, which is none of the rules."""
    asked = {"resolution": 64, "prompt_tokens": 16, "call": {"clean_caption": False}}
    with pytest.raises(UserError, match="combines two predictions in a way that is not.*model.guidance=none"):
        load_generator(settings(lumina, **asked), "cpu")
    generator = load_generator(settings(lumina, guidance="none", **asked), "cpu")
    texts = generator.encode_prompts(["a cat"])
    x, t = torch.randn(1, *generator.latent_shape()), torch.tensor([0.5])
    with torch.no_grad():
        plain = generator.predict(x, t, texts)
        guided = generator.predict(x, t, texts, Guidance(4.0, generator.encode_negatives(["a cat"])))
    assert torch.equal(plain, guided) and "guidance_scale 4 is not followed" in capsys.readouterr().err


def test_an_argument_that_the_call_lacks_is_named(pipelines):
    with pytest.raises(UserError, match="model.call.colour: StableDiffusion3Pipeline takes no such argument"):
        load_generator(settings(pipelines("sd3"), prompt_tokens=8, call={"colour": 1}), "cpu")


def test_an_argument_that_the_call_needs_is_named(pipelines, monkeypatch):
    import diffusers

    call = diffusers.StableDiffusion3Pipeline.__call__

    def needing(self, prompt=None, *, mood, **named):
        return call(self, prompt, **named)

    monkeypatch.setattr(diffusers.StableDiffusion3Pipeline, "__call__", needing)
    with pytest.raises(UserError, match="needs the argument 'mood'.*model.call: {mood: ...}"):
        load_generator(settings(pipelines("sd3"), prompt_tokens=8), "cpu")


def test_an_editor_without_source_images_is_refused_unloaded(pipelines):
    family = locate_model(settings(pipelines("flux_kontext"))).family
    with pytest.raises(UserError, match="eval.prompts 'make it red': names no image"):
        family.check_prompts(["make it red"], "eval.prompts")


def test_a_model_that_takes_no_image_cannot_edit(pipelines):
    with pytest.raises(UserError, match="model.edit: StableDiffusion3Pipeline takes no source image"):
        locate_model(settings(pipelines("sd3"), edit=True))


def test_a_size_that_the_pipeline_changes_is_named(pipelines):
    asked = TINY["krea2"].settings | {"resolution": [18, 26]}
    with pytest.raises(UserError, match="model.resolution: .*18"):
        load_generator(settings(pipelines("krea2"), **asked), "cpu")


def test_a_network_whose_sign_is_turned_is_still_understood(pipelines):
    """The observed sign follows the pipeline: Z-Image's network gives minus the velocity."""
    generator = load_generator(settings(pipelines("z_image"), **TINY["z_image"].settings), "cpu")
    assert generator.conventions.from_output.sign == -1
