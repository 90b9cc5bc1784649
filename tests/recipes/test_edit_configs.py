"""The recipes of edits are valid, and the embedded model that they train edits as it is told."""

from pathlib import Path

import pytest

from visalign.config import ModelSettings
from visalign.config.load import load_config
from visalign.data import read_prompts
from visalign.generators import load_generator
from visalign.media.emoji_edits import score_edit
from visalign.media.source_images import source_images_of, words_of
from visalign.trainers.online.epoch_shape import check_arithmetic

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs" / "edit").glob("tiny_edit_*.yaml"))


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_recipe_validates(file):
    config = load_config(file)
    assert config.model.source == "tiny-edit" and config.eval.prompts == "emoji-edits:held_out"
    if config.loop == "online":
        check_arithmetic(config, 1)


def test_the_embedded_model_does_what_a_held_out_prompt_asks_for(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    prompt = next(each for each in read_prompts("emoji-edits:held_out") if words_of(each) == "remove the top half")
    generator = load_generator(ModelSettings(source="tiny-edit", prompt_tokens=8), "cpu")
    ((result,),) = generator.sample([prompt], [0], steps=4, guidance_scale=1.0)
    assert score_edit("remove the top half", source_images_of(prompt)[0], result).product > 0.7
