"""Folders as people have them: parts left out, parts nobody needs, files under several names."""

import json
import shutil

import pytest
import torch

from visalign import errors as notices
from visalign.config import ModelSettings
from visalign.errors import UserError
from visalign.generators import load_generator, locate_model
from visalign.generators.files.parts import variant_of


@pytest.fixture
def copy(pipelines, tmp_path):
    return lambda name: shutil.copytree(pipelines(name), tmp_path / name)


def load(folder, **settings):
    return load_generator(ModelSettings(source=str(folder), precision="fp32", **settings), "cpu")


def edit(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def rename(part, variant, keep=False):
    for file in list(part.glob("*.safetensors")):
        (shutil.copyfile if keep else shutil.move)(file, file.with_name(f"{file.stem}.{variant}.safetensors"))


@pytest.mark.parametrize("files, chosen", [
    (["model.safetensors"], None), (["model.fp16.safetensors"], "fp16"), (["model.fp16.safetensors",
     "model.safetensors"], None), (["diffusion_pytorch_model.fp16-00001-of-00002.safetensors"], "fp16"),
    (["model-00001-of-00002.fp16.safetensors"], "fp16"), (["model.fp16.safetensors", "model.bf16.safetensors"], "bf16"),
    (["model.ema.safetensors"], "ema"), (["model-00001-of-00002.safetensors"], None), (["unet.safetensors"], None),
    (["model.non_ema.safetensors", "model.fp16.safetensors"], "fp16")])
def test_which_of_several_files_is_read(tmp_path, files, chosen):
    for name in files:
        (tmp_path / name).touch()
    assert variant_of(tmp_path) == chosen


def test_two_unknown_names_and_no_plain_file_is_a_question(tmp_path):
    for name in ("ema", "non_ema"):
        (tmp_path / f"model.{name}.safetensors").touch()
    with pytest.raises(UserError, match="ema, non_ema"):
        variant_of(tmp_path)


def test_parts_may_have_half_files_whole_files_or_both(copy):
    folder = copy("sdxl")
    plain = load(folder)
    rename(folder / "unet", "fp16")
    rename(folder / "text_encoder", "fp16", keep=True)
    (folder / "unet" / "LICENSE").write_text("a file without an ending")
    mixed = load(folder)
    for name in ("unet", "text_encoder", "text_encoder_2", "vae"):
        a, b = (getattr(generator.pipeline, name).state_dict() for generator in (plain, mixed))
        assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("how", ["null", "no folder", "not named"])
def test_sd3_without_its_t5(copy, how, capsys):
    notices.notice.cache_clear()
    folder = copy("sd3")
    index = json.loads((folder / "model_index.json").read_text())
    for part in ("text_encoder_3", "tokenizer_3"):
        shutil.rmtree(folder / part)
        if how == "null":
            index[part] = [None, None]
        elif how == "not named":
            del index[part]
    (folder / "model_index.json").write_text(json.dumps(index))
    generator = load(folder, prompt_tokens=8)
    hidden = generator.encode_prompts(["a bus"])["encoder_hidden_states"]
    assert generator.pipeline.text_encoder_3 is None and not hidden[:, -8:].any() and hidden.any()
    assert "text_encoder_3" in capsys.readouterr().err


def test_a_missing_part_that_is_needed_is_named(copy):
    folder = copy("sdxl")
    shutil.rmtree(folder / "text_encoder_2")
    with pytest.raises(UserError, match="the part text_encoder_2"):
        locate_model(ModelSettings(source=str(folder)))


@pytest.mark.parametrize("what", ["pickled", "missing"])
def test_nobody_needs_a_safety_checker(copy, what):
    folder = copy("sd15")
    edit(folder / "model_index.json", safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"],
         feature_extractor=["transformers", "CLIPImageProcessor"], requires_safety_checker=True)
    if what == "pickled":
        (folder / "safety_checker").mkdir()
        (folder / "safety_checker" / "pytorch_model.bin").write_bytes(b"pickle")
    assert load(folder).pipeline.safety_checker is None


def test_pickled_weights_of_a_needed_part_are_refused(copy):
    folder = copy("sdxl")
    for file in (folder / "vae").glob("*.safetensors"):
        file.rename(file.with_suffix(".bin"))
    with pytest.raises(UserError, match="vae.*pickled"):
        locate_model(ModelSettings(source=str(folder)))


@pytest.mark.parametrize("size, height, width", [([8, 8], 16, 16), ([8, 16], 16, 32), (8, 16, 16)])
def test_sample_size_may_be_a_list(copy, size, height, width):
    folder = copy("sdxl")
    edit(folder / "unet" / "config.json", sample_size=size)
    shape = load(folder).shape
    assert (shape.height, shape.width) == (height, width)


@pytest.mark.parametrize("name, settings, words", [
    ("sdxl", {"resolution": 60}, ("resolution", "56 or 64")), ("sd15", {"resolution": (64, 20)}, ("width of 20",)),
    ("sd3", {"resolution": 18}, ("16 or 20",)), ("sd3", {"resolution": 64}, ("positions", "32 pixels")),
    ("flux", {"resolution": 18}, ("16 or 20",)), ("wan", {"resolution": 40, "frames": 5}, ("32 or 48",)),
    ("wan", {"resolution": 16, "frames": 6}, ("model.frames 6", "5 or 7")), ("sd3", {"frames": 9}, ("model.frames",)),
    ("sdxl", {"fps": 8}, ("model.fps",)),
    ("cogvideox", {"prompt_tokens": 226}, ("prompt_tokens 226", "8 at most"))])
def test_what_a_model_cannot_make_is_said_before_weights_are_read(pipelines, monkeypatch, name, settings, words):
    from visalign.generators import loading

    monkeypatch.setattr(loading, "load_pipeline", lambda *arguments: pytest.fail("weights were read"))
    with pytest.raises(UserError) as caught:
        load(pipelines(name), **settings)
    assert all(word in str(caught.value) for word in words)


def test_an_unknown_size_must_be_given(copy):
    folder = copy("sdxl")
    edit(folder / "unet" / "config.json", sample_size=None)
    with pytest.raises(UserError, match=r"model\.resolution"):
        load(folder)
    assert load(folder, resolution=16).shape.height == 16


@pytest.mark.parametrize("scheduler, written, words", [
    ("EDMEulerScheduler", {"sigma_data": 0.5}, ("EDMEulerScheduler", "scheduler")),
    ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}, ("FlowMatchEulerDiscreteScheduler",)),
    ("NoSuchScheduler", {}, ("NoSuchScheduler", "diffusers")),
    ("EulerDiscreteScheduler", {"_class_name": "EDMEulerScheduler", "sigma_data": 0.5}, ("EDMEulerScheduler",))])
def test_a_schedulers_name_in_the_index_is_not_enough(copy, scheduler, written, words):
    folder = copy("sdxl")
    edit(folder / "model_index.json", scheduler=["diffusers", scheduler])
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps({"_class_name": scheduler} | written))
    with pytest.raises(UserError) as caught:
        load(folder)
    assert all(word in str(caught.value) for word in (str(folder), *words))
