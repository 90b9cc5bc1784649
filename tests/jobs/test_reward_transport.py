"""`visalign reward transport` from end to end: what it writes, what it tells, and what it refuses."""

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from visalign.cli import main
from visalign.jobs.reward_transport import better_than_others
from visalign.media.samples import Sample
from visalign.rewards import load_reward

from .generations import drawing, write_folder


def invoke(*arguments):
    return CliRunner().invoke(main, ["reward", "transport", *map(str, arguments)], catch_exceptions=False)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generations") / "real"
    write_folder(folder, prompts=20, seeds=1)
    return folder


def test_a_map_is_made_told_and_used(source, tmp_path):
    out = tmp_path / "map.safetensors"
    done = invoke("tiny-clip", source, "-o", out)
    assert done.exit_code == 0, done.output
    assert "15 of 20 samples made the map" in done.output and "plain cosine" in done.output
    assert f"{{kind: transport_quality, of: tiny-clip, map: {out}}}" in done.output
    made = load_file(out)
    assert made["matrix"].shape == (128, 128) and made["shift"].shape == (128,)
    reward = load_reward({"kind": "transport_quality", "of": "tiny-clip", "map": str(out)})
    assert reward.score([Sample("a red fruit", drawing(0, 0, 4))]).values.isfinite().all()
    assert invoke("tiny-clip", source, "-o", out).exit_code == 0
    again = load_file(out)
    assert all(torch.equal(made[name], again[name]) for name in made)


def test_a_heavy_ridge_sends_every_text_to_the_mean_video(source, tmp_path):
    out = tmp_path / "map.safetensors"
    assert invoke("tiny-clip", source, "-o", out, "--ridge", "1e6").exit_code == 0
    made = load_file(out)
    assert made["matrix"].abs().max() < 1e-3 and 0.1 < made["shift"].norm() <= 1


def test_how_often_the_own_sample_fits_best_by_hand():
    samples = torch.eye(3)
    # the first text prefers its own sample to both, the second ties with one and beats one, the third loses to both
    texts = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [1.0, 1.0, 0.0]])
    assert better_than_others(samples, texts).value == pytest.approx(np.mean([1.0, 0.75, 0.0]))


def test_mistakes_end_in_one_sentence(source, tmp_path):
    few = tmp_path / "few"
    write_folder(few, prompts=3, seeds=4)
    for arguments, message in (
            (("tiny-clip", source, "-o", tmp_path / "b.pt"), "what is written is a .safetensors file"),
            (("sharpness", source, "-o", tmp_path / "b.safetensors"), "reward sharpness: has no features of images"),
            (("tiny-clip", few, "-o", tmp_path / "b.safetensors"), "has samples of 3 captions; at least 16"),
            (("tiny-clip", tmp_path / "gone", "-o", tmp_path / "b.safetensors"), "there is no such file or folder")):
        done = invoke(*arguments)
        assert done.exit_code == 1 and message in done.output, done.output
        assert not (tmp_path / "b.safetensors").exists()
