"""A reward's files are all required, and all of its weights: without them numbers change without a word."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from visalign.errors import UserError
from visalign.rewards import load_reward
from visalign.rewards.openclip import EMBEDDED_CLIPS
from visalign.storage.pretrained import check_processor, check_tokenizer, load_whole


@pytest.fixture
def clip(tmp_path):
    shutil.copytree(EMBEDDED_CLIPS["tiny-clip"], tmp_path / "clip")
    return tmp_path / "clip"


@pytest.mark.parametrize("name, words", [
    ("tokenizer.json", "tokenizer.json .* is missing"), ("tokenizer_config.json", "tokenizer_config.json"),
    ("open_clip_config.json", "open_clip_config.json"), ("open_clip_model.safetensors", "no .safetensors weights")])
def test_every_file_of_an_open_clip_folder_is_needed_before_anything_is_loaded(clip, name, words):
    (clip / name).unlink()
    with pytest.raises(UserError, match=words):
        load_reward(f"clip:{clip}")


def changed(file, change):
    weights = load_file(file)
    change(weights)
    save_file(weights, file, {"format": "pt"})


def test_weights_of_an_open_clip_model_that_are_no_numbers_are_refused(clip):
    changed(clip / "open_clip_model.safetensors", lambda w: w["visual.proj"].fill_(torch.nan))
    with pytest.raises(UserError, match="1 of .* not finite.*visual.proj"):
        load_reward(f"clip:{clip}").network  # noqa: B018  loads


def test_a_unified_reward_needs_its_tokenizer_and_finite_weights(tmp_path):
    from visalign.storage.open_clip_models import CLIP_ASSETS

    shutil.copytree(CLIP_ASSETS / "tiny-reward", tmp_path / "reward")
    changed(tmp_path / "reward" / "reward.safetensors", lambda w: next(iter(w.values())).fill_(torch.inf))
    with pytest.raises(UserError, match="not finite"):
        load_reward(str(tmp_path / "reward")).network  # noqa: B018  loads
    (tmp_path / "reward" / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"tokenizer.json .* is missing"):
        load_reward(str(tmp_path / "reward"))


@pytest.mark.parametrize("names, fits", [
    (("tokenizer.json", "tokenizer_config.json"), True), (("vocab.json", "merges.txt", "tokenizer_config.json"), True),
    (("vocab.json", "tokenizer_config.json"), False), (("vocab.txt", "tokenizer_config.json"), True),
    (("spiece.model", "tokenizer_config.json"), True), (("tokenizer.json",), False), ((), False)])
def test_a_tokenizers_files(tmp_path, names, fits):
    for name in names:
        (tmp_path / name).write_text("{}")
    if fits:
        check_tokenizer(tmp_path, "x")
        with pytest.raises(UserError, match="^x: .*preprocessor_config.json"):
            check_processor(tmp_path, "x")
    else:
        with pytest.raises(UserError, match="^x: "):
            check_tokenizer(tmp_path, "x")


def test_a_hub_id_is_believed_until_it_is_loaded():
    check_processor("someone/something", "x")


@pytest.mark.parametrize("change, words", [
    (lambda w: w.pop("text_projection.weight"), "lacks 1 tensor: text_projection.weight"),
    (lambda w: w.update({"text_projection.weight": torch.ones(1)}), "of another shape: text_projection.weight"),
    (lambda w: w["text_projection.weight"].fill_(torch.nan), "not finite"), (lambda w: w.clear(), "lacks")])
def test_a_network_of_transformers_is_whole_or_refused(pipelines, tmp_path, change, words):
    from transformers import CLIPTextModelWithProjection

    shutil.copytree(pipelines("sdxl") / "text_encoder_2", tmp_path / "clip")
    assert load_whole(CLIPTextModelWithProjection, tmp_path / "clip", "x").training is False
    changed(tmp_path / "clip" / "model.safetensors", change)
    with pytest.raises(UserError, match=f"^x: .*{words}"):
        load_whole(CLIPTextModelWithProjection, tmp_path / "clip", "x")


def test_pickled_weights_of_transformers_are_refused(pipelines, tmp_path):
    from transformers import CLIPTextModel

    shutil.copytree(pipelines("sdxl") / "text_encoder", tmp_path / "clip")
    (tmp_path / "clip" / "model.safetensors").rename(tmp_path / "clip" / "pytorch_model.bin")
    with pytest.raises(UserError, match="^x: transformers could not load"):
        load_whole(CLIPTextModel, tmp_path / "clip", "x")


def test_a_vocabulary_that_no_tokenizer_goes_with_is_named(clip):
    settings = json.loads((clip / "open_clip_config.json").read_text())
    del settings["model_cfg"]["text_cfg"]["hf_tokenizer_name"]
    (clip / "open_clip_config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match="1300 words"):
        load_reward(f"clip:{clip}")
