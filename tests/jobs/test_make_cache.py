"""`visalign data cache`: what training reads is made ahead, its size said and checked before."""

import re
import shutil

import pytest
import torch
from click.testing import CliRunner

from tests.programs import VISALIGN
from visalign.cli import main
from visalign.config.load import load_config
from visalign.data.preferences import read_pairs
from visalign.generators import load_generator
from visalign.generators.base import Generator
from visalign.generators.observe import keeping, observer
from visalign.sampling.encoding_cache import EncodingCache
from visalign.storage import files as disk
from visalign.storage.shards import ShardStore
from visalign.trainers.offline.encoded_pairs import encode_media


def invoke(*words):
    return CliRunner().invoke(main, [*map(str, words)])


@pytest.fixture
def fails_to_encode(monkeypatch):
    """From now on, whatever encodes anything ends in an error."""
    for name in ("encode_media", "encode_prompts"):
        monkeypatch.setattr(Generator, name, None)


def test_training_by_the_recipe_encodes_nothing_more(recipe, tmp_path, request, undrawn):
    file = recipe("sd3", data={"caption_dropout": 0.5}, train={"steps": 1},
                  eval={"reward": None, "features": None, "max_prompts": 1, "samples_per_prompt": 1})
    made = invoke("data", "cache", file)
    assert made.exit_code == 0, made.output
    media, prompts, pairs, new = map(int, re.findall(r" (\d+) ", made.stdout))
    assert 0 < prompts <= pairs and new == media + prompts + 1, "and the empty prompt"
    request.getfixturevalue("fails_to_encode")
    again = invoke("data", "cache", file)
    assert again.exit_code == 0 and f"{pairs} pairs, of which 0 were not there before" in again.stdout
    trained = invoke("train", file)
    assert trained.exit_code == 0, trained.output


def test_its_size_is_said_and_the_disk_is_checked_before(recipe, tmp_path, monkeypatch):
    file = recipe("sd3")
    said = invoke("train", file, "--dry-run").output
    media, prompts = (int(each) for each in re.search(
        r"cache .* latents of (\d+) images, .* embeddings of (\d+) prompts", said).groups())
    assert media and prompts
    monkeypatch.setattr(disk, "free_space", lambda path: 1000)
    monkeypatch.setattr(EncodingCache, "__init__", None)
    for words in (("data", "cache", file), ("train", file)):
        refused = invoke(*words)
        assert refused.exit_code == 1 and re.match(
            rf"visalign: data\.cache {tmp_path}/cache: about \d+ KiB are needed and 1 KiB are free; \d+ KiB for "
            rf"latents of {media} images, \d+ KiB for embeddings of {prompts} prompts; free some space, or choose "
            r"another data\.cache", refused.output.splitlines()[-1]), refused.output


@pytest.mark.parametrize("name, parts, processes", [("sd3", ["transformer"], 2),
                                                    ("wan22", ["transformer", "transformer_2"], 1)])
def test_weights_of_the_denoiser_are_not_read_and_change_nothing(recipe, tmp_path, pipelines, monkeypatch,
                                                                 two_processes, name, parts, processes):
    broken = shutil.copytree(pipelines(name), tmp_path / "broken")
    for part in parts:
        file = broken / part / "diffusion_pytorch_model.safetensors"
        header = 8 + int.from_bytes(file.read_bytes()[:8], "little")
        file.write_bytes(file.read_bytes()[:header] + b"\xff" * (file.stat().st_size - header))  # NaN throughout
    file = recipe(name, model={"source": str(broken)})
    refused = invoke("train", file, "train.steps=1")
    assert refused.exit_code == 1 and "not finite" in refused.output, refused.output
    known = {}
    monkeypatch.setattr(observer, "_KNOWN", known)
    monkeypatch.setattr(keeping, "FOLDER", tmp_path / "conventions")
    if processes == 2:
        two_processes(VISALIGN, "data", "cache", file)
    else:
        made = invoke("data", "cache", file)
        assert made.exit_code == 0, made.output
    settings = load_config(file)
    whole = load_generator(settings.model.model_copy(update={"source": str(pipelines(name))}), "cpu")
    assert len(known) == (2 if processes == 1 else 1), "what was observed without weights is not believed of the model"
    expected, found = EncodingCache(tmp_path / "whole", whole), ShardStore(tmp_path / "cache")
    for pair in read_pairs(settings.data):
        item = encode_media(pair, expected)
        expected.add_prompts({item.prompt_key: item.prompt})
        for key in (item.chosen_key, item.rejected_key, item.prompt_key):
            mine, theirs = found.get(key), expected.store.get(key)
            assert mine.keys() == theirs.keys()
            for each in mine:  # embeddings alone are made in batches, which are smaller of two processes
                off = 1e-6 if processes == 2 and key == item.prompt_key else 0
                torch.testing.assert_close(mine[each], theirs[each], rtol=off, atol=off)
    assert len(found) == len(expected.store)


def test_samples_that_a_run_makes_itself_cannot_be_made_ahead(recipe):
    refused = invoke("data", "cache", recipe("sd3"), "data.path=null", "data.feedback.prompts=emoji:train")
    assert refused.exit_code == 1 and "this recipe makes its samples itself" in refused.output


def test_the_workers_of_a_cluster_encode_what_one_machine_does(recipe, tmp_path, here, monkeypatch):
    file = recipe("sd3", data={"cache": str(tmp_path / "local")})
    assert invoke("data", "cache", file).exit_code == 0
    encoded = []
    real = EncodingCache._add
    monkeypatch.setattr(EncodingCache, "_add", lambda self, wanted, *how: encoded.extend(
        key for key in wanted if key not in self.store) or real(self, wanted, *how))
    words = ["data", "cache", file, f"data.cache={tmp_path}/ray", "--engine", "ray", "--partition-size", "5"]
    made = invoke(*words)
    assert made.exit_code == 0, made.output
    local, shared = (ShardStore(tmp_path / name) for name in ("local", "ray"))
    assert len(here) > 1 and len(shared) == len(local) and f"of which {len(local)} were not there" in made.stdout
    assert len(encoded) == len(set(encoded)) == len(local), "each once"
    for key in encoded:
        assert all(torch.equal(tensor, local.get(key)[name]) for name, tensor in shared.get(key).items())
    max((tmp_path / "ray").glob("shard-*"), key=lambda shard: shard.stat().st_size).unlink()  # as if killed
    lost = len(local) - len(ShardStore(tmp_path / "ray"))  # of one worker that was fast enough all
    encoded.clear()
    assert invoke(*words).exit_code == 0 and len(encoded) == lost > 0
    assert len(ShardStore(tmp_path / "ray")) == len(local)
