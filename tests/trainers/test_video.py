"""Both loops on videos: the same trainers, every family, and what the data may be."""

import json
import shutil

import pytest
import torch
from PIL import Image

from tests.families import each_family
from visalign.config.load import load_config
from visalign.jobs.train import check_training

from .commands import UNMEASURED, fails, rows, run, weights

ODE = {"rollout": {"sampler": "ode"}}


@each_family("video")
def test_every_family_learns_from_pairs_of_videos(recipe, tmp_path, name):
    run(recipe(name, data={"dimensions": {"VQ": 1, "MQ": 0.5, "TA": 1}}))
    folder = tmp_path / "run"
    first, last = weights(folder, 2), weights(folder, 4)
    still = {name for name in first if torch.equal(first[name], last[name])}
    # a text stream that ends with its block has parts that never get a gradient
    assert all("add_" in name or "refiner" in name for name in still) and len(still) <= 4
    assert rows(folder)[0]["loss"] == pytest.approx(0.693147, abs=1e-4)
    held = rows(folder, "held_out")[0]
    assert "diversity/motion" in held["values"] and len(held["values"]["diversity/motion"]) == 2
    assert len(list((folder / "samples" / "step-00000000").glob("*.mp4"))) == 4
    assert (folder / "samples" / "step-00000000" / "grid.webp").exists()
    assert (folder / "report.html").read_text().count("data:image/webp") >= 8


@pytest.mark.parametrize("method, data", [("flow_rwr", {"score_with": "tiny-reward"}), ("sft", {})])
def test_other_methods_learn_from_videos(recipe, tmp_path, method, data):
    run(recipe("wan", method, data=data))
    assert len(rows(tmp_path / "run")) == 4


@pytest.mark.parametrize("model, method, sections", [
    ("wan", "grpo", {"objective": {"beta": 0.1}}), ("wan", "grpo_guard", {}), ("wan", "nft", ODE),
    ("wan", "grpo", {"rollout": {"sampler": "dance_sde", "noise_level": 0.3, "guidance_scale": 3.0}}),
    ("wan", "raft", ODE), ("wan", "d3po", {}), ("ltx", "grpo", {}),
    ("hunyuan", "grpo", {"rollout": {"same_noise": True}}), ("cogvideox", "grpo", {}), ("cogvideox", "d3po", {})])
def test_online_methods_on_videos(online_recipe, tmp_path, model, method, sections):
    run(online_recipe(model, method, **sections), "train.epochs=2")
    folder = tmp_path / "run"
    trained = rows(folder)
    first, last = weights(folder, 1), weights(folder, 2)
    assert len(trained) == 2 and any(not torch.equal(first[name], last[name]) for name in first)
    if method.startswith("grpo"):
        assert trained[0]["ratio"] == pytest.approx(1, abs=1e-5) and trained[0]["clipped_above"] == 0
    assert list((folder / "rollouts").glob("*.webp"))
    assert "diversity/motion" in rows(folder, "held_out")[0]["values"]


def test_a_killed_run_of_videos_continues_to_the_same_weights(online_recipe, tmp_path):
    file = online_recipe("wan", "grpo", output={"keep_checkpoints": 0}, eval=UNMEASURED)
    run(file)
    whole = weights(tmp_path / "run", 3)
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-00000003")
    run(file, "--resume")
    cut = weights(tmp_path / "run", 3)
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_images_in_a_set_for_videos_name_their_row(recipe, pairs_file):
    said = fails(recipe("wan", data={"path": str(pairs_file)}))
    assert "pairs.jsonl line 1: holds an image, and WanPipeline makes videos" in said


def test_a_reward_that_needs_gradients_is_refused_for_videos(online_recipe):
    said = fails(online_recipe("wan", "draft", **ODE))
    assert "has no gradient" in said


def test_rewards_of_the_other_kind_are_refused_before_anything_is_loaded(online_recipe):
    assert "reward flicker: scores videos only, and this model makes images" in fails(
        online_recipe("sd3", "grpo", reward={"models": "flicker"}))


def test_feedback_makes_pairs_of_videos(recipe, tmp_path):
    (tmp_path / "train.txt").write_text("a red fruit\na cat face\na blue heart\n")
    feedback = {"prompts": str(tmp_path / "train.txt"), "samples_per_prompt": 2, "reward": "motion", "steps": 2}
    file = recipe("wan", data={"path": None, "feedback": feedback, "holdout": 0.0})
    check_training(load_config(file))
    run(file)
    assert (tmp_path / "run" / "pairs.parquet").exists() and len(rows(tmp_path / "run")) == 4


def test_a_missing_video_names_its_row(recipe, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    (tmp_path / "p.jsonl").write_text(json.dumps({"prompt": "x", "chosen": "gone.mp4", "rejected": "x.png"}))
    assert "line 1: 'chosen' names" in fails(recipe("wan", data={"path": str(tmp_path / "p.jsonl")}))
