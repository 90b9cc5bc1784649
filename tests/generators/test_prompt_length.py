"""Prompts that are cut are counted once, by what all text encoders together still read."""

import pytest

from tests.families import TINY
from visalign import errors as notices
from visalign.config import ModelSettings
from visalign.generators import load_generator
from visalign.generators.prompt_length import limits, say_what_is_cut

LONG = "a red fruit and " * 10


@pytest.fixture(autouse=True)
def _nothing_said_yet():
    notices.notice.cache_clear()


def load(folder, **settings):
    return load_generator(ModelSettings(source=str(folder), precision="fp32", **settings), "cpu")


def test_what_clip_drops_is_said_once(pipelines, capsys):
    generator = load(pipelines("sdxl"))
    limit = generator.pipeline.tokenizer.model_max_length
    assert limits(generator) == {"tokenizer": limit, "tokenizer_2": generator.pipeline.tokenizer_2.model_max_length}
    for _ in range(2):
        assert say_what_is_cut(generator, ["a bus", LONG * 4, "a cat", LONG * 4], "training pairs") == 1
    said = capsys.readouterr().err
    assert said.count("1 of 3 prompts") == 1 and f"{limit} tokens" in said and "a red fruit and" in said
    assert said.count("visalign:") == 1


def test_a_t5_that_reads_on_is_enough(pipelines, capsys):
    sd3 = pipelines("sd3")
    assert say_what_is_cut(load(sd3, prompt_tokens=512), [LONG], "here") == 0
    assert say_what_is_cut(load(sd3, prompt_tokens=8), ["a bus"], "here") == 0
    assert capsys.readouterr().err == ""
    wan = load(pipelines("wan"), prompt_tokens=4, **TINY["wan"].settings)
    assert say_what_is_cut(wan, ["a red square moves right"], "here") == 1
    assert "4 tokens" in capsys.readouterr().err


def test_no_prompt_is_no_matter(pipelines):
    assert say_what_is_cut(load(pipelines("sdxl")), [], "here") == 0
