"""What is said of a model before it is trained."""

from types import SimpleNamespace

import pytest
from torch import nn

from visalign.generators.families.hints import PassAll
from visalign.generators.families.remarks import remarks


def generator(companions=(), parts=None, **config):
    return SimpleNamespace(pipeline=SimpleNamespace(config=config, components=parts or {}),
                           conventions=SimpleNamespace(companions=companions))


@pytest.mark.parametrize("source, config, on_noised, words", [
    ("black-forest/schnell", {}, True, "a loss on noised samples undoes"),
    ("a/Z-Image-Turbo", {}, False, "sample as it is made for"), ("a/klein", {"is_distilled": True}, True, "undoes")])
def test_models_of_few_steps(source, config, on_noised, words):
    [said] = remarks(generator(**config), source, on_noised)
    assert said.startswith(f"model {source}: ") and words in said


def test_sound_and_safety_checkers():
    said = remarks(generator({("audio_hidden_states",)}, {"safety_checker": PassAll()}), "a/b", True)
    assert "sound" in said[0] and "safety checker" in said[1]


def test_most_models_need_no_remark():
    assert remarks(generator(parts={"vae": nn.Identity()}), "tiny-sd3", True) == []
