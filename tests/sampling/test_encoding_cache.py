"""One key for one encoding: whatever changes what is encoded changes the key, and nothing else does."""

import copy
import errno
import json
import os

import pytest
import torch
from PIL import Image

from tests.families import TINY
from visalign.config import ModelSettings
from visalign.errors import UserError
from visalign.generators import load_generator
from visalign.media.samples import Video
from visalign.sampling.encoding_cache import EncodingCache, KnownMedia


def generator(folder, **settings):
    return load_generator(ModelSettings(source=str(folder), **({"precision": "fp32", "prompt_tokens": 8} | settings)),
                          "cpu")


@pytest.fixture(scope="module")
def sdxl(pipelines):
    return generator(pipelines("sdxl"))


@pytest.fixture(scope="module")
def sd3(pipelines):
    return generator(pipelines("sd3"))


def keys(tmp_path, generator, prompt="grapes", media=None, dtype="fp32"):
    cache = EncodingCache(tmp_path, generator, dtype)
    return cache.prompt_key(prompt), cache.media_key(media or Image.new("RGB", (16, 16), "red"))


def changed(generator, **parts):
    """The generator with copies of some of its pipeline's parts."""
    other = copy.copy(generator)
    other.pipeline = copy.copy(generator.pipeline)
    for name, change in parts.items():
        part = copy.deepcopy(getattr(generator.pipeline, name))
        setattr(other.pipeline, name, change(part) or part)
    return other


def test_the_same_model_has_the_same_keys_before_and_after_use(tmp_path, pipelines, sdxl):
    before = keys(tmp_path, sdxl)
    sdxl.encode_prompts(["a bus", "a cat"])
    assert keys(tmp_path, sdxl) == before == keys(tmp_path, generator(pipelines("sdxl")))


def _swap_words(tokenizer):
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    words = rules["model"]["vocab"]
    first, second = sorted(words)[1000:1002]
    words[first], words[second] = words[second], words[first]
    from tokenizers import Tokenizer

    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(rules))


def _add_word(tokenizer):
    tokenizer.add_tokens(["<mine>"])


def _one_row(encoder):
    with torch.no_grad():
        encoder.get_input_embeddings().weight[777, 3] += 1e-3


def _exchanged_rows(encoder):
    with torch.no_grad():
        weight = encoder.get_input_embeddings().weight
        weight[[5, 6]] = weight[[6, 5]]


def _exchanged_columns(encoder):
    with torch.no_grad():
        weight = encoder.get_input_embeddings().weight
        weight[:, [1, 2]] = weight[:, [2, 1]]


def _other_end(encoder):
    encoder.config.eos_token_id = 7


def _half(encoder):
    return encoder.half()


@pytest.mark.parametrize("part, change", [
    ("tokenizer", _swap_words), ("tokenizer_2", _add_word), ("text_encoder", _one_row),
    ("text_encoder", _exchanged_rows), ("text_encoder_2", _exchanged_columns), ("text_encoder", _other_end),
    ("text_encoder_2", _half)])
def test_what_encodes_prompts_is_in_their_key_alone(tmp_path, sdxl, part, change):
    (prompt, media), (other_prompt, other_media) = keys(tmp_path, sdxl), keys(tmp_path, changed(sdxl, **{part: change}))
    assert prompt != other_prompt and media == other_media


def test_settings_of_the_pipeline_are_in_the_key(tmp_path, sdxl):
    other = changed(sdxl)
    other.pipeline._internal_dict = type(sdxl.pipeline.config)(
        {**sdxl.pipeline.config, "force_zeros_for_empty_prompt": False})
    assert keys(tmp_path, other)[0] != keys(tmp_path, sdxl)[0]


@pytest.mark.parametrize("settings", [{"precision": "bf16"}, {"prompt_tokens": 9}])
def test_settings_of_the_model_are_in_a_prompts_key(tmp_path, pipelines, sd3, settings):
    other = generator(pipelines("sd3"), **settings)
    assert keys(tmp_path, other)[0] != keys(tmp_path, sd3)[0]
    assert keys(tmp_path, other)[1] == keys(tmp_path, sd3)[1]


def test_how_numbers_are_kept_is_in_every_key_and_follows_the_arithmetic(tmp_path, pipelines, sd3):
    exact, rounded = (keys(tmp_path, sd3, dtype=dtype) for dtype in ("fp32", "bf16"))
    assert not set(exact) & set(rounded)
    assert keys(tmp_path, sd3, dtype="auto") == exact
    half = generator(pipelines("sd3"), precision="bf16")
    assert keys(tmp_path, half, dtype="auto")[1] == keys(tmp_path, half, dtype="bf16")[1] == rounded[1]


def test_a_pipeline_without_its_t5_has_another_key(tmp_path, sd3):
    other = changed(sd3)
    other.pipeline.register_modules(text_encoder_3=None)
    assert keys(tmp_path, other)[0] != keys(tmp_path, sd3)[0]


def _other_scale(vae):
    vae.register_to_config(scaling_factor=0.5)


def _tiled(vae):
    vae.enable_tiling()


def _one_weight(vae):
    with torch.no_grad():
        vae.encoder.conv_in.bias[0] += 1e-4


@pytest.mark.parametrize("change", [_other_scale, _tiled, _one_weight])
def test_what_encodes_images_is_in_their_key_alone(tmp_path, sdxl, change):
    (prompt, media), (other_prompt, other_media) = keys(tmp_path, sdxl), keys(tmp_path, changed(sdxl, vae=change))
    assert media != other_media and prompt == other_prompt


def test_size_and_speed_of_videos_are_in_their_key(tmp_path, pipelines, sdxl):
    assert keys(tmp_path, generator(pipelines("sdxl"), resolution=24))[1] != keys(tmp_path, sdxl)[1]
    wan = generator(pipelines("wan"), **TINY["wan"].settings)
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue", "green", "black", "white")]
    assert keys(tmp_path, wan, media=Video(frames, 8.0))[1] != keys(tmp_path, wan, media=Video(frames, 16.0))[1]


def test_a_given_image_is_encoded_by_the_vae_whose_key_it_has(tmp_path, pipelines):
    own = generator(pipelines("wan-image"), **TINY["wan"].settings)
    assert {"vae", "text_encoder"} <= own.prompt_encoders().keys()


def test_what_was_cached_before_does_not_show_in_what_is_encoded_now(tmp_path, sdxl):
    """Alone or among others, the same bits."""
    prompts = ["a red fruit", "a cat face", "grapes", "a bus"]
    images = [Image.effect_noise((16, 16), 80).convert("RGB") for _ in range(4)]
    found = []
    for known in (0, 3):
        cache = EncodingCache(tmp_path / str(known), sdxl)
        texts = {cache.prompt_key(text): text for text in prompts}
        media = {cache.media_key(image): image for image in images}
        for count in {known, 4}:
            cache.add_prompts(dict(list(texts.items())[:count]))
            cache.add_media(dict(list(media.items())[:count]))
        found.append((cache.latents(list(media)), cache.conditioning(list(texts))))
    assert torch.equal(found[0][0], found[1][0])
    assert all(torch.equal(found[0][1][name], found[1][1][name]) for name in found[0][1])


@pytest.mark.parametrize("dtype, error", [("fp32", 0), ("bf16", 2**-8)])
def test_encodings_come_back_as_they_were_computed_or_rounded(tmp_path, sd3, dtype, error):
    image, cache = Image.effect_noise((16, 16), 80).convert("RGB"), EncodingCache(tmp_path, sd3, dtype)
    media, prompt = cache.media_key(image), cache.prompt_key("grapes")
    cache.add_media({media: image})
    cache.add_prompts({prompt: "grapes"})
    assert cache.holds([media, prompt]) and not cache.holds([media, "else"])
    cache.share()
    again = EncodingCache(tmp_path, sd3, dtype)
    computed = {"latents": sd3.encode_media(sd3.to_pixels([image]))} | sd3.encode_prompts(["grapes"])
    for name, kept in ({"latents": again.latents([media])} | again.conditioning([prompt])).items():
        assert kept.dtype == computed[name].dtype == torch.float32
        torch.testing.assert_close(kept, computed[name], rtol=error, atol=0)
        assert torch.equal(kept, computed[name]) == (not error)


def test_media_seen_before_are_known_to_caches_of_the_same_keys(tmp_path, sd3):
    cache, known = EncodingCache(tmp_path, sd3), KnownMedia("key", 1.5)
    assert cache.known("a.png 1-2") is None
    cache.remember("a.png 1-2", known)
    assert cache.known("a.png 1-2") == known and cache.known("a.png 1-3") is None
    cache.share()
    assert EncodingCache(tmp_path, sd3).known("a.png 1-2") == known
    assert EncodingCache(tmp_path, sd3, "bf16").known("a.png 1-2") is None


def test_older_files_are_not_read_and_named(tmp_path, sd3, capsys):
    (tmp_path / "ab").mkdir()
    (tmp_path / "ab" / "abc.safetensors").write_bytes(b"old")
    EncodingCache(tmp_path, sd3)
    assert f"rm -r {tmp_path}/[0-9a-f][0-9a-f]" in capsys.readouterr().err


@pytest.mark.parametrize("code, said", [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "cannot be written")])
def test_a_folder_that_cannot_be_written_is_named(tmp_path, sd3, monkeypatch, code, said):
    def fail(handle):
        raise OSError(code, os.strerror(code))

    cache = EncodingCache(tmp_path, sd3)
    cache.add_prompts({"key": "grapes"})
    with monkeypatch.context() as patch, pytest.raises(UserError, match=rf"data\.cache .*{said}"):
        patch.setattr(os, "fsync", fail)
        cache.share()
    assert not list(tmp_path.iterdir()) and cache.holds(["key"])
    cache.share()
    assert EncodingCache(tmp_path, sd3).holds(["key"])
