"""`visalign reward distance` from end to end: what it writes, what it tells, and what it refuses."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

from visalign.cli import main
from visalign.jobs import reward_distance as module
from visalign.rewards.registry import load_rewards

from .generations import write_folder


def invoke(*arguments):
    return CliRunner().invoke(main, ["reward", "distance", *map(str, arguments)], catch_exceptions=False)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("generations") / "base", prompts=5, seeds=4)


def test_distances_are_told_written_and_found_again(source, tmp_path, monkeypatch):
    out = tmp_path / "d"
    done = invoke(source, "-r", "exposure,sharpness,tiny-clip", "-o", out)
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert "on 20 samples of 5 prompts" in lines and len([line for line in lines if " - " in line]) == 3
    found = json.loads((out / "distances.json").read_text())
    assert found["rewards"] == ["exposure", "sharpness", "tiny-clip"] and len(found["merges"]) == 2
    for i in range(3):
        assert found["distance"][i][i] == 0
        for j in range(3):
            assert found["distance"][i][j] == found["distance"][j][i]
            assert i == j or 0 < found["low"][i][j] <= found["distance"][i][j] <= found["high"][i][j] <= 1
    assert "exposure" in (out / "report.html").read_text()
    assert pq.read_table(out / "scores.parquet").num_rows == 20
    monkeypatch.setattr(module, "score_generations", None)  # the scores are there
    again = invoke(source, "-r", "exposure,sharpness,tiny-clip", "-o", out).output.splitlines()
    assert len(again) == 5 and all(line in lines for line in again[1:])  # the first follows a bar of progress
    other = invoke(source, "-r", "exposure,tiny-clip", "-o", out)
    assert other.exit_code == 1 and "belongs to another reward or other generations" in other.output


def test_a_reward_of_which_less_is_better_is_turned_round():
    rewards = load_rewards(["repetition", "tiny-reward"])
    assert not rewards[0].higher_is_better
    names = [f"{reward.name}.{dimension}" for reward in rewards for dimension in reward.dimensions]
    rewards = module.scores_by_name(pa.table({name: [0.5, 0.25, None] for name in names}), rewards)
    assert list(rewards) == ["repetition", *names[1:]] and len(names) > 2  # a reward for each dimension
    for name, scores in rewards.items():
        np.testing.assert_array_equal(scores, [-0.5, -0.25, np.nan] if name == "repetition" else [0.5, 0.25, np.nan])


def test_mistakes_end_in_one_sentence(source, tmp_path):
    alone = invoke(source, "-r", "exposure", "-o", tmp_path / "a")
    assert alone.exit_code == 1 and "exposure is the only one; name at least two" in alone.output
    single = write_folder(tmp_path / "single", prompts=4, seeds=1)
    lonely = invoke(single, "-r", "exposure,sharpness", "-o", tmp_path / "b")
    assert lonely.exit_code == 1 and "at least 2 samples of one prompt" in lonely.output
    still = invoke(single, "-r", "exposure,motion", "-o", tmp_path / "d")
    assert still.exit_code == 1 and "motion scored no sample with a prompt; leave it out" in still.output
    both = invoke(source, "-r", "tiny-reward", "-o", tmp_path / "f")  # of its dimensions motion is for videos
    assert both.exit_code == 0 and "tiny-reward.motion scored none of them" in both.output, both.output
    grey = tmp_path / "grey"
    grey.mkdir()
    for name in "ab":
        Image.new("RGB", (32, 32), "grey").save(grey / f"{name}.png")
        (grey / f"{name}.txt").write_text("a grey square")
    constant = invoke(grey, "-r", "exposure,sharpness", "-o", tmp_path / "c")
    assert constant.exit_code == 1 and "scores all samples of each prompt alike" in constant.output
    assert not (tmp_path / "c" / "report.html").exists()
