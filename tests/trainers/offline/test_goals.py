"""Goals in the prompts of images and videos, through the command line a user types."""

import json
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from click.testing import CliRunner

from tests.trainers.commands import UNMEASURED, fails, rows, run, weights
from visalign.cli import main
from visalign.config import DataSettings, ModelSettings
from visalign.config.goals import PromptGoalSettings
from visalign.data.preferences import read_pairs
from visalign.data.usable import BrokenRows
from visalign.generators import load_generator
from visalign.generators.base import Generator
from visalign.sampling.encoding_cache import EncodingCache
from visalign.trainers.offline.encoded_pairs import digest_entry, encode_pairs, prompts_of

GOALS = {"goals": {"template": "{prompt} {goal}/{best}"}}
"""Short, for text encoders of 16 tokens."""


@pytest.fixture
def asked(monkeypatch):
    """The prompts that generators are given to sample from now on."""
    found, sample = [], Generator.sample

    def noting(generator, prompts, *given, **named):
        found.extend(prompts)
        return sample(generator, prompts, *given, **named)

    monkeypatch.setattr(Generator, "sample", noting)
    return found


def without_rewards(pairs_file):
    lines = [json.loads(line) for line in pairs_file.read_text().splitlines()]
    pairs_file.write_text("\n".join(json.dumps({k: row[k] for k in ("prompt", "chosen", "rejected")}) for row in lines))


def test_each_pair_is_two_items_that_share_their_media(tmp_path, pairs_file, pipelines):
    """Rewards 1 to 6 and 0.1: the first chosen one's goal is 1 + 9 (1 - 0.1) / 5.9 = 2.37."""
    sd3 = load_generator(ModelSettings(source=str(pipelines("sd3")), precision="fp32"), "cpu")
    cache = EncodingCache(tmp_path / "cache", sd3)

    def items(goals):
        data = DataSettings(path=str(pairs_file))
        return encode_pairs(read_pairs(data), cache, Accelerator(cpu=True), BrokenRows(data), goals=goals)

    plain, found = items(None), items(PromptGoalSettings())
    assert (len(plain), len(found)) == (6, 12)
    first, second = found[:2]
    assert (first.chosen_key, first.rejected_key) == (second.rejected_key, second.chosen_key) == (
        plain[0].chosen_key, plain[0].rejected_key)
    assert (second.chosen_reward, second.rejected_reward, second.prompt) == (0.1, 1.0, "a red square")
    texts = prompts_of(found)
    assert texts[first.prompt_key] == "a red square, quality 2.4 out of 10"
    assert texts[second.prompt_key] == "a red square, quality 1 out of 10"
    assert len(texts) == 12 and cache.holds(texts) and plain[0].prompt_key not in texts
    assert len({digest_entry(item) for item in found}) == 12
    other = items(PromptGoalSettings(template="{goal} {prompt}"))
    assert [digest_entry(item) for item in other] != [digest_entry(item) for item in found]


def test_every_caption_asks_for_the_goal_and_is_held_out_without_it(tmp_path, pairs_file, pipelines):
    sd3 = load_generator(ModelSettings(source=str(pipelines("sd3")), precision="fp32"), "cpu")
    cache = EncodingCache(tmp_path / "cache", sd3)
    data = DataSettings(path=str(pairs_file), max_pairs=2)
    pairs = [replace(pair, captions=("a shape",)) for pair in read_pairs(data)]
    found = encode_pairs(pairs, cache, Accelerator(cpu=True), BrokenRows(data),
                         goals=PromptGoalSettings(template="{goal}: {prompt}"))
    [(text, key)] = found[0].captions
    assert text == "a shape" and prompts_of(found)[key] == "5.3: a shape"  # 1 + 9 (1 - 0.1) / 1.9 = 5.26
    assert {found[0].prompt_key_at(0, place) for place in range(20)} == {key, found[0].prompt_key}


@pytest.mark.parametrize("model, method, data", [
    ("sd3", "flow_dpo", {}), ("sdxl", "diffusion_dpo", {}), ("sd3", "sft", {}),
    ("wan", "flow_dpo", {"score_with": "tiny-reward"})])
def test_a_model_learns_to_be_asked_and_is_measured_with_the_highest_goal(recipe, tmp_path, asked, model, method, data):
    said = run(recipe(model, method, data=GOALS | data)).output
    folder = tmp_path / "run"
    first, last = weights(folder, 2), weights(folder, 4)
    assert not all(torch.equal(first[name], last[name]) for name in first)
    assert set(asked) == {"a red fruit 10/10", "a cat face 10/10"}
    assert rows(folder, "held_out")[0]["prompts"] == ["a red fruit", "a cat face"], "which rewards see"
    export = folder / "export"
    assert json.loads((export / "goals.json").read_text()) == GOALS["goals"] | {"scale": [1.0, 10.0]}
    assert "`{prompt} 10/10`" in (export / "README.md").read_text()
    assert model == "wan" or "cut off" not in said
    assert f"--lora {folder} --steps 2 --guidance-scale 1.0 --goal best" in said
    if "dpo" in method:
        assert rows(folder)[0]["loss"] == pytest.approx(0.693147, abs=1e-4)


def test_an_export_is_sampled_with_a_goal_and_scored_without(recipe, pipelines, tmp_path, asked):
    assert run(recipe("sd3", data=GOALS, eval=UNMEASURED, train={"steps": 1})).exit_code == 0
    asked.clear()

    def generate(folder, *words):
        return CliRunner().invoke(main, ["generate", str(pipelines("sd3")), "a cat", "--lora",
                                         str(tmp_path / "run"), "--steps", "2", "--samples-per-prompt", "1",
                                         "--set", "prompt_tokens=8", "-o", str(tmp_path / folder), *words])

    done = generate("best", "--goal", "best")
    assert done.exit_code == 0 and asked == ["a cat 10/10"], done.output
    row = json.loads((tmp_path / "best" / "samples.jsonl").read_text())
    assert (row["prompt"], row["rewrite"]) == ("a cat", "a cat 10/10")
    assert generate("four", "--goal", "4").exit_code == 0 and asked[1:] == ["a cat 4/10"]
    plain = generate("plain")
    assert plain.exit_code == 0 and asked[2:] == ["a cat"] and "add --goal best" in plain.output
    assert "this model knows goals from 1 to 10 (or best)" in generate("odd", "--goal", "11").output
    assert "this model knows goals from 1 to 10 (or best)" in generate("odd", "--goal", "good").output
    (tmp_path / "run" / "export" / "goals.json").write_text("{}x")
    assert "is not what a run with data.goals writes" in generate("odd", "--goal", "best").output
    (tmp_path / "run" / "export" / "goals.json").unlink()
    assert "has no goals.json" in generate("odd", "--goal", "best").output
    assert not (tmp_path / "odd").exists()


def test_a_run_is_evaluated_with_its_highest_goal(recipe, tmp_path, asked):
    file = recipe("sd3", data=GOALS, eval=UNMEASURED, output={"checkpoint_every": 2, "keep_checkpoints": 0})
    assert run(file).exit_code == 0
    asked.clear()
    done = CliRunner().invoke(main, [
        "evaluate", str(tmp_path / "run"), "--samples-per-prompt", "2", "--max-prompts", "1", "-r", "contrast",
        "--steps", "2", "--guidance-scale", "1", "-o", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert set(asked) == {"a red fruit 10/10"}
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert found["prompts"] == ["a red fruit"] and found["models"] == ["base", "aligned"]


def test_a_killed_run_continues_to_the_same_bits(recipe, tmp_path):
    options = {"data": GOALS, "eval": UNMEASURED}
    run(recipe("sd3", output={"folder": str(tmp_path / "whole"), "checkpoint_every": 2}, **options))
    cut = recipe("sd3", output={"folder": str(tmp_path / "cut"), "checkpoint_every": 2}, **options)
    run(cut, "train.steps=2")
    run(cut, "train.steps=4", "--resume")
    a, b = weights(tmp_path / "whole", 4), weights(tmp_path / "cut", 4)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert "data.goals" in fails(cut, "data.goals.template='{prompt}: {goal}'", "train.steps=6", "--resume")


def test_its_prompts_are_made_ahead(recipe, tmp_path, monkeypatch):
    file = recipe("sd3", data=GOALS, eval=UNMEASURED, train={"steps": 1})
    made = CliRunner().invoke(main, ["data", "cache", str(file)])
    assert made.exit_code == 0 and "12 pairs" in made.output, made.output
    monkeypatch.setattr(Generator, "encode_media", None)
    monkeypatch.setattr(Generator, "encode_prompts", None)
    assert run(file).exit_code == 0
    refused = CliRunner().invoke(main, ["data", "cache", str(file), "data.score_with=tiny-reward"])
    assert refused.exit_code == 1 and "with data.goals=null" in refused.output


def test_a_goal_that_is_cut_off_is_told(recipe):
    said = run(recipe("wan", data={"goals": {"template": "{prompt} that is " + "very " * 20 + "{goal}"},
                                   "score_with": "tiny-reward"}, eval=UNMEASURED, train={"steps": 1})).output
    assert "training pairs (a goal at the end of one that is cut off is not read): 12 of 12 prompts are longer" in said


@pytest.mark.parametrize("override, words", [
    (["data.goals={}"], "line 1 has no chosen_reward and rejected_reward, which become goals; give both columns, or "
                        "set data.score_with"),
    (["data.goals.template=good {goal}"], "data.goals.template must contain {prompt}"),
    (["data.goals.template='{prompt}, good'"], "data.goals.template must contain {goal}"),
    (["data.goals={}", "objective.margin_of={reward: 0.2}"], "takes a margin by reward (margin_of)")])
def test_what_cannot_be_asked_for_is_refused_before_a_model_is_loaded(recipe, pairs_file, monkeypatch, override, words):
    without_rewards(pairs_file)
    monkeypatch.setattr("visalign.jobs.train.load_generator", None)
    assert words in fails(recipe("sd3"), *override)


def test_reward_weights_do_not_go_with_goals(recipe):
    assert "learns most from samples of high reward" in fails(recipe("sd3", "flow_rwr"), "data.goals={}")
