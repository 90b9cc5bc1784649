"""Pairs to vote on are the images that training draws again; best of N keeps the best."""

import csv
import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from visalign.cli import main
from visalign.config import OnlineConfig
from visalign.config.load import load_config
from visalign.data.seed_preferences import read_seed_preferences
from visalign.errors import UserError
from visalign.generators import load_generator
from visalign.jobs.draw_votes import draw_for_votes
from visalign.parallel.opening import engine_of
from visalign.sampling.encoding_cache import EncodingCache
from visalign.trainers.online.collect import PromptEmbeddings, RolloutCollector, RolloutParts
from visalign.trainers.online.epochs import Epochs, prompt_tasks_of
from visalign.trainers.online.rollout import Sampler
from visalign.trainers.online.step_selection import noisy_steps
from visalign.trainers.opening import open_accelerator


@pytest.mark.parametrize("base", ["sdxl", "sd3"])
def test_training_draws_the_images_that_were_voted_on(online_recipe, tmp_path, base):
    path = online_recipe(base, "d3po", rollout={"group_size": 2})
    config = load_config(path, (), OnlineConfig)
    assert draw_for_votes(config, tmp_path / "votes", pairs=3, reward="colourfulness") == 3
    votes = list(csv.DictReader((tmp_path / "votes" / "votes.csv").open()))
    assert {row["choice"] for row in votes} <= {"a", "b", "tie"} and (tmp_path / "votes" / "sheet.png").exists()
    decided = [row for row in votes if row["choice"] in "ab"]
    config = load_config(path, ("reward.models=[]", f"rollout.votes={tmp_path / 'votes' / 'votes.csv'}"), OnlineConfig)
    generator = load_generator(config.model, "cpu")
    sampler = Sampler(generator, config.rollout, False)
    conditions = PromptEmbeddings(EncodingCache(config.rollout.cache, generator), config, generator.device)
    engine = engine_of(open_accelerator(config))
    noisy = noisy_steps(generator.process, sampler.times, config.rollout)
    epochs = Epochs(config, prompt_tasks_of(read_seed_preferences(config.rollout.votes)), conditions.key,
                    engine.processes, noisy, lambda plan: plan.trained)
    epoch = RolloutCollector(RolloutParts(config, generator, epochs, None, conditions, engine, sampler)).collect(0)
    assert epoch.rewards.flatten().tolist() == [1, 0] * 2
    row = next(row for row in decided if row["prompt"] == epoch.prompts[0])
    rank = [f"{side}" for side in (row["choice"], "b" if row["choice"] == "a" else "a")]
    for place, side in enumerate(rank):
        drawn = generator.decode(epoch.samples[place].latents[None])[0]
        shown = Image.open(tmp_path / "votes" / row[side])
        candidates = [r for r in decided if r["prompt"] == epoch.prompts[0]]
        differences = [np.abs(np.asarray(Image.open(tmp_path / "votes" / r[side]), float) - np.asarray(drawn)).max()
                       for r in candidates for side in "ab"]
        assert shown.size == drawn.size and min(differences) <= 1


def test_people_fill_in_the_choices_and_no_folder_is_overwritten(online_recipe, tmp_path):
    config = load_config(online_recipe("sdxl", "d3po", rollout={"group_size": 2}), (), OnlineConfig)
    draw_for_votes(config, tmp_path / "votes", pairs=1)
    assert next(csv.DictReader((tmp_path / "votes" / "votes.csv").open()))["choice"] == ""
    with pytest.raises(UserError, match="already holds votes.csv"):
        draw_for_votes(config, tmp_path / "votes", pairs=1)
    with pytest.raises(UserError, match="no row has a choice"):
        read_seed_preferences(str(tmp_path / "votes" / "votes.csv"))


def test_best_of_does_not_take_another_command_s_candidates(pipelines, tmp_path):
    command = ["generate", str(pipelines("sd15")), "a red fruit", "--samples-per-prompt", "1", "--best-of", "2",
               "--reward", "contrast", "-o", str(tmp_path / "out"), "--precision", "fp32", "--steps"]
    assert CliRunner().invoke(main, [*command, "2"]).exit_code == 0
    refused = CliRunner().invoke(main, [*command, "3"])
    assert refused.exit_code == 1 and "holds the candidates of another command" in refused.output


def test_votes_are_not_drawn_with_a_sampler_of_another_process(online_recipe, tmp_path):
    result = CliRunner().invoke(main, ["votes", "draw", str(online_recipe("sdxl", "d3po")), "rollout.sampler=cps",
                                       "--out", str(tmp_path / "votes")])
    assert result.exit_code == 1 and "rollout.sampler cps is not for diffusion models" in result.output


def test_best_of_keeps_the_candidate_the_reward_likes_best(pipelines, tmp_path):
    result = CliRunner().invoke(main, [
        "--debug", "generate", str(pipelines("sd15")), "a red fruit", "a cat", "--samples-per-prompt", "2",
        "--best-of", "3", "--reward", "contrast", "--steps", "2", "-o", str(tmp_path / "out"), "--precision", "fp32"],
        catch_exceptions=False)
    assert result.exit_code == 0, result.output
    kept = [json.loads(line) for line in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()]
    every = [json.loads(line) for line in (tmp_path / "out" / "candidates" / "samples.jsonl").read_text().splitlines()]
    assert len(kept) == 4 and len(every) == 12

    def contrast(path):
        return torch.from_numpy(np.asarray(Image.open(path).convert("L"), float)).std(correction=0).item()

    for i, row in enumerate(kept):
        values = [contrast(tmp_path / "out" / "candidates" / each["file"]) for each in every[3 * i:3 * i + 3]]
        assert contrast(tmp_path / "out" / row["file"]) == pytest.approx(max(values))
        assert row["reward"] >= row["candidates_mean"] and row["seed"] == every[3 * i + int(np.argmax(values))]["seed"]
