"""`visalign init` asks three questions; what it writes passes its dry run, and what it refuses says what to type."""

import pytest
import yaml
from click.testing import CliRunner
from PIL import Image

from visalign.cli import main
from visalign.jobs.new_recipe import is_reward


def init(tmp_path, *options, answers=None, file="recipe.yaml"):
    return CliRunner().invoke(main, ["init", str(tmp_path / file), *map(str, options)], input=answers)


def dry_run(tmp_path, *overrides):
    return CliRunner().invoke(main, ["train", str(tmp_path / "recipe.yaml"), "--dry-run", *overrides])


def test_three_questions_are_asked_and_the_recipe_passes_its_dry_run(tmp_path, pairs_file):
    result = init(tmp_path, answers=f"tiny-sd3\n{pairs_file}\n0\n")
    assert result.exit_code == 0, result.output
    assert result.output.count("Which checkpoint") == result.output.count("Memory of your card") == 1
    assert f"visalign train {tmp_path / 'recipe.yaml'} --dry-run" in result.output
    text = (tmp_path / "recipe.yaml").read_text()
    assert yaml.safe_load(text)["objective"]["name"] == "flow_dpo" and text.count("#") > 5
    done = dry_run(tmp_path)
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("family, objective", [("sd15", "diffusion_dpo"), ("sdxl", "diffusion_dpo"),
                                               ("sd3", "flow_dpo"), ("flux", "flow_dpo")])
def test_the_objective_follows_from_the_checkpoint_alone(family, objective, tmp_path, pipelines, pairs_file):
    assert init(tmp_path, "--checkpoint", pipelines(family), "--learn-from", pairs_file,
                "--memory", 24).exit_code == 0
    assert yaml.safe_load((tmp_path / "recipe.yaml").read_text())["objective"]["name"] == objective
    done = dry_run(tmp_path)
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("model, objective", [("tiny-sd3", "nft"), ("tiny-sdxl", "grpo")])
def test_a_reward_makes_an_online_recipe(model, objective, tmp_path):
    result = init(tmp_path, "--checkpoint", model, "--learn-from", "tiny-reward", "--memory", 0)
    assert result.exit_code == 0, result.output
    raw = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
    assert raw["objective"]["name"] == objective and raw["reward"]["models"] == "tiny-reward"
    done = dry_run(tmp_path)
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("options, words", [
    (["--checkpoint", "nowhere"], "visalign init --checkpoint tiny-sd3"),
    (["--checkpoint", "someone/no-such-model"], "hf download someone/no-such-model"),
    (["--learn-from", "no_such_pairs.jsonl"], "visalign list rewards"),
    (["--learn-from", "tiny-rewrd"], "visalign list rewards"),
])
def test_what_is_refused_names_the_next_command(options, words, tmp_path):
    given = dict(zip(["--checkpoint", "--learn-from", "--memory"], ["tiny-sd3", "tiny-reward", 0], strict=True))
    given |= dict(zip(options[::2], options[1::2], strict=True))
    result = init(tmp_path, *(word for pair in given.items() for word in pair))
    assert result.exit_code == 1 and words in result.output and result.output.count("\n") == 1, result.output
    assert not (tmp_path / "recipe.yaml").exists()


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "recipe.yaml").write_text("mine")
    result = init(tmp_path, "--checkpoint", "tiny-sd3", "--learn-from", "tiny-reward", "--memory", 0)
    assert result.exit_code == 1 and "visalign init" in result.output and "recipe-2.yaml" in result.output
    assert (tmp_path / "recipe.yaml").read_text() == "mine"


def test_a_reward_without_prompts_asks_for_them(tmp_path, pipelines):
    (tmp_path / "prompts.txt").write_text("a red square\na blue square\n")
    result = init(tmp_path, "--checkpoint", pipelines("sd3"), "--learn-from", "tiny-reward", "--memory", 0,
                  answers=f"{tmp_path / 'prompts.txt'}\n")
    assert result.exit_code == 0, result.output
    assert yaml.safe_load((tmp_path / "recipe.yaml").read_text())["rollout"]["prompts"].endswith("prompts.txt")


def test_a_folder_of_captioned_images_is_learnt_from_without_pairs(tmp_path, pipelines):
    folder = tmp_path / "mine"
    folder.mkdir()
    for number, colour in enumerate(("red", "blue", "green", "yellow")):
        Image.new("RGB", (16, 16), colour).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"a {colour} square")
    result = init(tmp_path, "--checkpoint", pipelines("sdxl"), "--learn-from", folder, "--memory", 24)
    assert result.exit_code == 0, result.output
    assert yaml.safe_load((tmp_path / "recipe.yaml").read_text())["objective"]["name"] == "sft"
    done = dry_run(tmp_path)
    assert done.exit_code == 0, done.output


def test_data_and_rewards_are_told_apart(tmp_path):
    assert is_reward("tiny-reward") and is_reward("contrast")
    assert not is_reward("emoji:pairs") and not is_reward(str(tmp_path)) and not is_reward("someone/a-data-set")
