"""Held-out samples: what cannot be scored is counted by one rule, in a run as in `evaluate`."""

import json

import numpy as np
import pytest
from PIL import Image

from visalign.data.entry import Entry
from visalign.evaluation.measure import MetricSuite, measure_generations, metrics_of
from visalign.media.samples import Sample
from visalign.rewards import load_reward

from ..jobs.generations import drawing
from ..trainers.commands import fails, rows, run

PROMPTS = ["a red disc", "a cat face", "a blue disc"]


@pytest.fixture
def drawn(tmp_path):
    """Three drawings of each prompt, as samples and as entries of files with the same pixels."""
    samples, entries = [], []
    for p, prompt in enumerate(PROMPTS):
        entries.append([])
        for k in range(3):
            file = tmp_path / f"{p}-{k}.png"
            drawing(p, k, 3).save(file)
            samples.append(Sample(prompt, Image.open(file).convert("RGB")))
            entries[-1].append(Entry(file.name, file, prompt, k, None))
    return samples, entries


def test_samples_in_memory_and_files_give_the_same_numbers(drawn):
    samples, entries = drawn
    tools = MetricSuite([load_reward("colour"), load_reward("contrast")], load_reward("tiny-clip"))
    memory, files = metrics_of(PROMPTS, samples, tools), measure_generations("files", PROMPTS, entries, tools).measured
    assert memory.prompts == files.prompts and memory.unscored == files.unscored
    assert memory.notes() == ["colour could not score 3 of 9 generations (the prompt names no colour)"]
    for metric, values in memory.values.items():
        np.testing.assert_allclose(values, files.values[metric], rtol=1e-4, atol=1e-5, err_msg=metric)
    assert np.isnan(memory.values["reward/colour"]).tolist() == [False, True, False]


def test_a_run_goes_on_without_the_scores_that_are_missing_and_says_so(recipe, tmp_path):
    file = recipe("sd3", eval={"reward": "colour", "also": ["contrast"]}, guard={"action": "rollback", "every": 2})
    result = run(file)
    first = rows(tmp_path / "run", "held_out")[0]
    assert first["unscored"] == {"colour": [2, "the prompt names no colour"]}
    said = "colour could not score 2 of 4 generations (the prompt names no colour)"
    assert f"samples, step 0: {said}" in result.output
    assert said in (tmp_path / "run" / "report.html").read_text()
    assert "unscored" not in json.dumps(rows(tmp_path / "run", "train"))


def test_a_reward_that_scores_nothing_ends_the_run_before_it_trains(recipe, tmp_path):
    (tmp_path / "none.txt").write_text("a cat face\na tree\n")
    message = fails(recipe("sd3", eval={"reward": "colour"}), f"eval.prompts={tmp_path / 'none.txt'}")
    assert "eval: reward colour could score none of the 4 held-out samples (the prompt names no colour)" in message
    assert rows(tmp_path / "run", "train") == []
