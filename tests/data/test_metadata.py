"""Prompts and seeds as programs write them into files; strangers' data of any shape never raise."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from visalign.data.comfyui_graphs import prompt_in_graph
from visalign.data.metadata import (
    PromptFound,
    prompt_in_file,
    prompt_in_parameters,
    prompt_in_text,
    seed_of,
    user_comment,
)
from visalign.media.samples import Video
from visalign.media.video_files import to_video_bytes

A1111 = "red apple, (ripe:1.2)\non a table\nNegative prompt: pear\nSteps: 20, Sampler: Euler a, Seed: 1234, Size: 64x64"
APPLE = PromptFound("red apple, (ripe:1.2)\non a table", 1234)
GRAPH = {"3": {"class_type": "KSampler", "inputs": {"seed": 77, "positive": ["8", 0], "negative": ["7", 0],
                                                    "model": ["4", 0]}},
         "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "x.safetensors"}},
         "6": {"class_type": "CLIPTextEncode", "inputs": {"text": ["10", 0], "clip": ["4", 1]}},
         "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "green pear", "clip": ["4", 1]}},
         "8": {"class_type": "FluxGuidance", "inputs": {"guidance": 3.5, "conditioning": ["6", 0]}},
         "9": {"class_type": "SaveImage", "inputs": {"filename_prefix": "x", "images": ["5", 0]}},
         "5": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
         "10": {"class_type": "PrimitiveString", "inputs": {"value": "red apple"}}}
CUSTOM = {"1": {"class_type": "SamplerCustomAdvanced", "inputs": {"noise": ["2", 0], "guider": ["3", 0]}},
          "2": {"class_type": "RandomNoise", "inputs": {"noise_seed": 2**63 + 5}},
          "3": {"class_type": "BasicGuider", "inputs": {"model": ["9", 0], "conditioning": ["4", 0]}},
          "4": {"class_type": "CLIPTextEncodeFlux", "inputs": {"clip_l": "apple", "t5xxl": "red apple"}}}
WORKFLOW = {"nodes": [{"id": 1, "type": "KSampler", "widgets_values": [99, "randomize", 20],
                       "inputs": [{"name": "positive", "link": 11}, {"name": "negative", "link": 12}]},
                      {"id": 2, "type": "CLIPTextEncode", "widgets_values": ["red apple"], "inputs": []},
                      {"id": 3, "type": "CLIPTextEncode", "widgets_values": ["pear"], "inputs": None}],
            "links": [[11, 2, 0, 1, 1, "CONDITIONING"], [12, 3, 0, 1, 2, "CONDITIONING"]]}


@pytest.mark.parametrize("key, text, embedded", [
    ("parameters", A1111, APPLE),
    ("parameters", "red apple", PromptFound("red apple")),
    ("parameters", json.dumps({"sui_image_params": {"prompt": "red apple", "seed": 5}}), PromptFound("red apple", 5)),
    ("prompt", json.dumps(GRAPH), PromptFound("red apple", 77)),
    ("prompt", json.dumps(CUSTOM), PromptFound("red apple", 2**63 + 5)),
    ("workflow", json.dumps(WORKFLOW), PromptFound("red apple", 99)),
    ("prompt", "red apple", PromptFound("red apple")),
    ("invokeai_metadata", json.dumps({"positive_prompt": "red apple", "negative_prompt": "pear", "seed": 3}),
     PromptFound("red apple", 3)),
    ("sd-metadata", json.dumps({"image": {"prompt": [{"prompt": "red apple", "weight": 1}], "seed": 4}}),
     PromptFound("red apple", 4)),
    ("dream", '"red apple" -s50 -S42 -W512', PromptFound("red apple", 42)),
    ("description", "red apple --ar 3:2 --seed 7 --v 6.1 Job ID: 0000-1111", PromptFound("red apple", 7)),
    ("xmp", "red apple --v 5 Job ID: 0000", PromptFound("red apple")),
    ("imagedescription", "OLYMPUS DIGITAL CAMERA", None),
    ("usercomment", "Screenshot", None),
    ("comment", json.dumps({"prompt": "red apple", "seed": 9, "uc": "pear"}), PromptFound("red apple", 9)),
    ("software", "red apple", None),
    ("prompt", "[" * 100_000, None)])
def test_what_a_text_says(key, text, embedded):
    assert prompt_in_text(key, text) == embedded


@pytest.mark.parametrize("text, embedded", [
    ("red apple\n", PromptFound("red apple")), ("Negative prompt: pear\nSteps: 20, Seed: 6", PromptFound("", 6)),
    ("red apple\nSteps: 20", PromptFound("red apple")),
    ("Three\nSteps: climb them", PromptFound("Three\nSteps: climb them")),
    ("cafe\u0301 ", PromptFound("caf\u00e9")), ("x\nSteps: 2, Seed: -1", PromptFound("x"))])
def test_sidecars_end_where_the_settings_begin(text, embedded):
    assert prompt_in_parameters(text) == embedded


@pytest.mark.parametrize("value, seed", [
    (7, 7), ("7", 7), (7.0, 7), ("7.0", 7), (2**64 - 1, 2**64 - 1), (2**64, None), (1.5, None), ("x", None),
    (None, None), (True, None), (float("nan"), None), (float("inf"), None), ([1], None)])
def test_seeds_are_whole_numbers_of_64_bits(value, seed):
    assert seed_of(value) == seed


@pytest.mark.parametrize("value", [
    b"UNICODE\0" + A1111.encode("utf-16-be"), b"UNICODE\0" + A1111.encode("utf-16-le"),
    b"UNICODE\0" + A1111.encode("utf-16"), b"ASCII\0\0\0" + A1111.encode(), A1111.encode(),
    b"\0" * 8 + A1111.encode() + b"\0"])
def test_exif_comments_in_every_form(value):
    assert user_comment(value) == A1111


def test_every_container_that_holds_a_prompt(tmp_path):
    image, info = Image.new("RGB", (32, 32), "red"), PngInfo()
    info.add_itxt("parameters", A1111)
    image.save(tmp_path / "a.png", pnginfo=info)
    comment = Image.Exif()
    comment[0x0131] = "a program"
    comment.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + A1111.encode("utf-16-be")
    for name in ("a.webp", "a.jpg", "a.avif"):
        image.save(tmp_path / name, exif=comment)
    made = Image.Exif()
    made[0x0110] = f"prompt:{json.dumps(GRAPH)}"
    image.save(tmp_path / "comfy.webp", exif=made)
    xmp = b"<x><dc:description><rdf:Alt><rdf:li xml:lang='x'>red &amp; ripe --v 6 Job ID: 1</rdf:li></rdf:Alt></x>"
    image.save(tmp_path / "xmp.jpg", xmp=xmp)
    for name in ("a.png", "a.webp", "a.jpg", "a.avif"):
        assert prompt_in_file(tmp_path / name) == APPLE, name
    assert prompt_in_file(tmp_path / "comfy.webp") == PromptFound("red apple", 77)
    assert prompt_in_file(tmp_path / "xmp.jpg") == PromptFound("red & ripe")
    image.save(tmp_path / "plain.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n nope")
    (tmp_path / "clip.mp4").write_bytes(to_video_bytes(Video([image] * 2, 4)))
    assert not any(prompt_in_file(tmp_path / name) for name in ("plain.png", "broken.png", "clip.mp4"))


def test_a_workflow_longer_than_pillow_s_own_limit_keeps_its_image(tmp_path):
    info = PngInfo()
    info.add_text("prompt", json.dumps(GRAPH | {"99": {"class_type": "Note", "inputs": {"x": "y" * 2_000_000}}}),
                  zip=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=info)
    assert prompt_in_file(tmp_path / "a.png") == PromptFound("red apple", 77)


def test_a_graph_in_a_circle_has_no_prompt():
    assert prompt_in_graph({"1": {"class_type": "KSampler", "inputs": {"positive": ["2", 0]}},
                          "2": {"class_type": "X", "inputs": {"conditioning": ["1", 0], "text": ["2", 0]}}}) is None


NAMES = ["1", "2", "inputs", "class_type", "nodes", "links", "prompt", "image", "positive", "text", "seed", "id",
         "type", "widgets_values", "link", "name", "KSampler", "workflow", "guider"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=5),
    max_leaves=30)


@settings(max_examples=50, deadline=None)
@given(JSON, st.sampled_from(["parameters", "prompt", "workflow", "comment", "dream", "xmp"]))
def test_no_json_is_too_odd(value, key):
    embedded = prompt_in_text(key, json.dumps(value))
    assert embedded is None or isinstance(embedded.prompt, str)
    if isinstance(value, dict):
        prompt_in_graph(value)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=80), st.binary(max_size=80), st.sampled_from(["parameters", "description", "dream"]))
def test_no_text_is_too_odd(text, data, key):
    prompt_in_text(key, text)
    prompt_in_parameters(text)
    user_comment(data)
