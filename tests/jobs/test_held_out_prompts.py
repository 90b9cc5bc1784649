"""Where nobody names prompts to measure on, they come out of the data, are not trained on, and stand in the run."""

import json

import pytest
from click.testing import CliRunner
from PIL import Image

from visalign.cli import main
from visalign.errors import UserError
from visalign.storage.yaml_files import read_mapping
from visalign.trainers.order import is_held_out, place_of, prompts_to_measure, split_by_prompt


def invoke(*words):
    return CliRunner().invoke(main, ["--debug", *map(str, words)], catch_exceptions=False)


def rows(folder, kind):
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in found if row["kind"] == kind]


def test_the_prompts_are_those_that_holdout_keeps_from_training():
    prompts = [f"prompt {number}" for number in range(200)]
    measured = prompts_to_measure(prompts, "data.holdout", 0.1)
    assert 10 < len(measured) < 32 and measured == tuple(p for p in prompts if is_held_out(p, 0.1))


def test_a_small_set_holds_out_one_prompt_at_least():
    prompts = ["a", "b", "c"]
    [measured] = prompts_to_measure(prompts, "data.holdout", 1e-6)
    assert measured == min(prompts, key=place_of)


@pytest.mark.parametrize("prompts, share, says", [
    (["a", "b"], 0, "data.holdout is 0"), (["a", "a"], 0.1, "one prompt")])
def test_what_cannot_be_held_out_is_said(prompts, share, says):
    with pytest.raises(UserError, match=says):
        prompts_to_measure(prompts, "data.holdout", share)


def test_prompts_that_are_named_one_by_one_are_not_trained_on():
    class Item:
        def __init__(self, prompt):
            self.prompt = prompt

    train, held_out = split_by_prompt([Item("a"), Item("b"), Item("a")], 0.0, ("a",))
    assert [item.prompt for item in train] == ["b"] and [item.prompt for item in held_out] == ["a", "a"]


@pytest.fixture
def folder(tmp_path):
    """Four images with captions in kohya's layout, one image without."""
    root = tmp_path / "mine" / "10_things"
    root.mkdir(parents=True)
    for number, colour in enumerate(("red", "blue", "green", "pink", "black")):
        Image.new("RGB", (20, 16), colour).save(root / f"{number}.png")
        if number:
            (root / f"{number}.txt").write_text(f"a {colour} square\n")
    return root.parent


def test_a_folder_of_captioned_images_is_trained_on_and_measured(recipe, folder, tmp_path):
    file = recipe("sd3", "sft", data={"path": str(folder), "on_error": "skip", "max_skipped": 0.5, "holdout": 0.05},
                  eval={"prompts": None}, train={"steps": 2})
    done = invoke("train", file)
    assert done.exit_code == 0, done.output
    run = tmp_path / "run"
    [prompt] = read_mapping(run / "config.yaml", "run")["eval"]["prompts"]
    assert prompt in {f"a {colour} square" for colour in ("blue", "green", "pink", "black")}
    assert all(row["prompts"] == [prompt] for row in rows(run, "held_out"))
    assert "0.png: has no caption" in (run / "skipped.jsonl").read_text()
    resumed = invoke("train", file, "train.steps=3", "--resume")
    assert resumed.exit_code == 0, resumed.output


def test_a_missing_caption_stops_a_run_before_it_loads_a_model(recipe, folder):
    file = recipe("sd3", "sft", data={"path": str(folder)}, eval={"prompts": "data"})
    done = CliRunner().invoke(main, ["train", str(file)])
    assert done.exit_code == 1 and "0.png: has no caption; write it into 0.txt" in done.output


def test_the_prompts_of_a_hub_set_are_known_once_it_is_read(recipe, pairs_file, tmp_path, monkeypatch):
    from visalign.data import preferences

    entries = [json.loads(line) for line in pairs_file.read_text().splitlines()]
    entries = [entry | {side: str(tmp_path / entry[side]) for side in ("chosen", "rejected")} for entry in entries]
    monkeypatch.setattr(preferences, "hub_rows", lambda source, split: ((source, entry) for entry in entries))
    file = recipe("sd3", data={"path": "someone/pairs"}, eval={"prompts": None}, train={"steps": 1})
    done = invoke("train", file)
    assert done.exit_code == 0, done.output
    measured = read_mapping(tmp_path / "run" / "config.yaml", "run")["eval"]["prompts"]
    assert measured == [entry["prompt"] for entry in entries if is_held_out(entry["prompt"], 0.5)]
    assert invoke("train", file, "train.steps=2", "--resume").exit_code == 0


def test_an_online_run_measures_on_prompts_that_it_does_not_sample(online_recipe, tmp_path):
    file = online_recipe("sd3", "grpo", eval={"prompts": None, "every": 0}, rollout={"holdout": 0.3},
                         train={"epochs": 1}, guard={"action": "off"})
    done = invoke("train", file)
    assert done.exit_code == 0, done.output
    measured = read_mapping(tmp_path / "run" / "config.yaml", "run")["eval"]["prompts"]
    data = json.loads((tmp_path / "run" / "data.json").read_text())
    assert 0 < len(measured) < 4 and data["prompts"] == 4 - len(measured)


def test_a_recipe_without_data_or_prompts_says_what_to_give():
    for name, says in (("sft", "data.path=FILE_OR_FOLDER"), ("online/sdxl_ddpo", "rollout.prompts=FILE")):
        done = CliRunner().invoke(main, ["train", name, "model=tiny-sdxl", "--dry-run"])
        assert done.exit_code == 1 and says in done.output
