"""Pairs are encoded once: later starts decode none, and each prompt is encoded by one process alone."""

import os

import pytest
from accelerate import Accelerator
from PIL import Image

from visalign.config import DataSettings, ModelSettings
from visalign.data.preference_pair import PreferencePair
from visalign.data.usable import BrokenRows
from visalign.generators import load_generator
from visalign.sampling.encoding_cache import EncodingCache
from visalign.trainers.offline.encoded_pairs import encode_pairs


@pytest.fixture(scope="module")
def sd3(pipelines):
    return load_generator(ModelSettings(source=str(pipelines("sd3")), precision="fp32", prompt_tokens=8), "cpu")


@pytest.fixture
def pairs(tmp_path):
    for name in "abc":
        Image.effect_noise((20, 16), 80).convert("RGB").save(tmp_path / f"{name}.png")
    files = [str(tmp_path / f"{name}.png") for name in "abc"]
    data = (tmp_path / "c.png").read_bytes()
    return [PreferencePair("grapes", files[0], files[1], "row 1"), PreferencePair("a bus", files[0], data, "row 2")]


def test_a_second_start_decodes_and_encodes_nothing(tmp_path, sd3, pairs, monkeypatch):
    def items():
        return encode_pairs(pairs, EncodingCache(tmp_path / "cache", sd3), Accelerator(cpu=True),
                            BrokenRows(DataSettings(path="x")))

    first = items()
    decoded = []
    monkeypatch.setattr(PreferencePair, "media",
                        lambda pair, frames, media=PreferencePair.media: decoded.append(pair) or media(pair, frames))
    monkeypatch.setattr(type(sd3), "encode_prompts", None)
    assert items() == first and not decoded
    os.utime(pairs[0].rejected, ns=(1, 1))
    assert items() == first and decoded == pairs[:1], "a changed file is decoded again, and here holds the same"
    [shard, *_] = (tmp_path / "cache").glob("shard-*")
    shard.write_bytes(b"")
    monkeypatch.undo()
    assert items() == first, "what was lost is encoded again"
