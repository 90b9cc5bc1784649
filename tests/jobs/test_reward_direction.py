"""`visalign reward direct` from end to end: what it writes, what it tells, and what it refuses."""

import json

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from visalign.cli import main
from visalign.media.samples import Sample
from visalign.rewards import load_reward

from .generations import drawing, write_folder


def invoke(*arguments):
    return CliRunner().invoke(main, ["reward", "direct", *map(str, arguments)], catch_exceptions=False)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generations") / "base"
    write_folder(folder, prompts=12, seeds=2)
    return folder


def test_a_direction_is_learnt_told_and_used(source, tmp_path):
    out = tmp_path / "b.safetensors"
    done = invoke("tiny-clip", source, "-o", out, "--steps", "50")
    assert done.exit_code == 0, done.output
    assert "24 samples" in done.output and "before on held-out prompts" in done.output
    assert f"{{kind: directional, of: tiny-clip, correction: {out}, omega: 1.5}}" in done.output
    b = load_file(out)
    assert b.keys() == {"direction"} and b["direction"].shape == (128,) and b["direction"].norm() > 0.1
    reward = load_reward({"kind": "directional", "of": "tiny-clip", "correction": str(out)})
    assert reward.score([Sample("a red fruit", drawing(0, 0, 4))]).values.isfinite().all()
    assert invoke("tiny-clip", source, "-o", out, "--steps", "50").exit_code == 0
    assert torch.equal(load_file(out)["direction"], b["direction"])
    assert invoke("tiny-clip", source, "-o", out, "--steps", "50", "--seed", "1").exit_code == 0
    assert not torch.equal(load_file(out)["direction"], b["direction"])


def test_the_control_is_so_many_times_the_mean_feature(source, tmp_path):
    made = {}
    for weight in ("0.5", "1"):
        done = invoke("tiny-clip", source, "-o", tmp_path / "m.safetensors", "--mean", weight)
        assert done.exit_code == 0 and "cosine +1.000 with their mean feature" in done.output
        assert "omega" not in done.output.splitlines()[-1]
        made[weight] = load_file(tmp_path / "m.safetensors")["mean"]
    torch.testing.assert_close(2 * made["0.5"], made["1"])
    assert 0 < made["1"].norm() <= 1


def test_what_the_prompts_say_and_lose_is_told(source, tmp_path):
    done = invoke("tiny-clip", source, "-o", tmp_path / "b.safetensors", "--steps", "1500", "--rate", "0.1")
    assert "note: more than half of what the prompts say is lost" in done.output


def test_mistakes_end_in_one_sentence(source, tmp_path):
    few = tmp_path / "few"
    write_folder(few, prompts=3, seeds=4)
    nameless = tmp_path / "nameless"
    nameless.mkdir()
    drawing(0, 0, 4).save(nameless / "a.png")
    for arguments, message in (
            (("tiny-clip", source, "-o", tmp_path / "b.pt"), "what is written is a .safetensors file"),
            (("sharpness", source, "-o", tmp_path / "b.safetensors"), "reward sharpness: has no features of images"),
            (("tiny-clip", few, "-o", tmp_path / "b.safetensors"), "has samples of 3 prompts; at least 8 are needed"),
            (("tiny-clip", nameless, "-o", tmp_path / "b.safetensors"), "none of its 1 samples is an image with a"),
            (("tiny-clip", tmp_path / "gone", "-o", tmp_path / "b.safetensors"), "there is no such file or folder")):
        done = invoke(*arguments)
        assert done.exit_code == 1 and message in done.output, done.output
        assert not (tmp_path / "b.safetensors").exists()


def test_the_file_says_what_it_was_made_of(source, tmp_path):
    from visalign.storage.weights import read_metadata

    invoke("tiny-clip", source, "-o", tmp_path / "b.safetensors", "--steps", "3", "--omega", "2")
    told = read_metadata(tmp_path / "b.safetensors", "b")
    assert told["reward"] == "tiny-clip" and told["steps"] == "3" and told["omega"] == "2.0" and json.dumps(told)
