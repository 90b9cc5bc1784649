"""Settings: every mistake is one sentence with the key, what was given and what is allowed."""

import pytest
import yaml

from visalign.config.load import load_config
from visalign.config.recipes import find_recipe
from visalign.errors import UserError

MINIMAL = {"model": {"source": "tiny-sd3"}, "data": {"path": "pairs.jsonl"}, "objective": {"name": "flow_dpo"}}


def write(tmp_path, **changes):
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(MINIMAL | changes))
    return file


def test_minimal_recipe_has_documented_defaults(tmp_path):
    config = load_config(write(tmp_path))
    assert config.optim.lr == 1e-4 and config.model.tuning == "lora"


def test_overrides_nest_and_read_numbers(tmp_path):
    config = load_config(write(tmp_path), ("optim.lr=2e-5", "train.steps=7", "model=tiny-sdxl", "model.lora.rank=3"))
    assert (config.optim.lr, config.train.steps, config.model.source, config.model.lora.rank) == \
        (2e-5, 7, "tiny-sdxl", 3)


@pytest.mark.parametrize("changes, overrides, words", [
    ({"optm": {"lr": 1}}, (), ["optm", "did you mean 'optim'"]),
    ({"optim": {"learning_rate": 1}}, (), ["optim.learning_rate", "allowed", "lr"]),
    ({"model": {"source": "x", "lora": {"rnk": 4}}}, (), ["model.lora.rnk", "'rank'"]),
    ({"train": {"steps": "many"}}, (), ["train.steps", "'many'", "integer"]),
    ({"train": {"steps": 0}}, (), ["train.steps", "at least 1"]),
    ({"model": {"source": "x", "precision": "fp8"}}, (), ["model.precision", "'fp8'", "bf16"]),
    ({"objective": {"name": "flow_dop"}}, (), ["objective.name", "flow_dpo"]),
    ({"objective": {}}, (), ["objective.name"]),
    ({"objective": {"name": "flow_dpo", "betta": 3}}, (), ["objective.betta", "'beta'"]),
    ({"objective": {"name": "flow_dpo", "beta": "strong"}}, (), ["objective.beta", "'strong'"]),
    ({"objective": {"name": "flow_dpo", "beta": -1}}, (), ["beta", "greater than 0", "-1"]),
    ({"objective": {"name": "sft", "beta": 1}}, (), ["objective.beta", "sft"]),
    ({"data": {"path": "x", "rerank": True}}, (), ["data.rerank", "data.score_with"]),
    ({}, ("optim.lr",), ["optim.lr", "key=value"]),
    ({}, ("model.source.x=1",), ["source"]),
    ({"optim": {"lr": float("nan")}}, (), ["optim.lr"]),
])
def test_mistakes_are_one_sentence(tmp_path, changes, overrides, words):
    with pytest.raises(UserError) as caught:
        load_config(write(tmp_path, **changes), overrides)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize("content, word", [("a: [", "YAML"), ("- 1", "mapping"), ("", "mapping")])
def test_unreadable_files(tmp_path, content, word):
    (tmp_path / "bad.yaml").write_text(content)
    with pytest.raises(UserError, match=word):
        load_config(tmp_path / "bad.yaml")


def test_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.yaml"):
        load_config(tmp_path / "nowhere.yaml")


def test_yaml_cannot_run_code(tmp_path):
    (tmp_path / "evil.yaml").write_text("model: !!python/object/apply:os.system ['true']")
    with pytest.raises(UserError, match="tags"):
        load_config(tmp_path / "evil.yaml")


@pytest.mark.parametrize("name", ["sdxl_dpo", "sdxl_dpo.yaml", "configs/sdxl_dpo.yaml"])
def test_a_shipped_recipe_is_found_by_its_name_anywhere(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_recipe(name).read_text().startswith("# Diffusion-DPO on SDXL")


def test_a_recipe_in_a_subfolder_is_found_by_its_last_part(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_recipe("sdxl_ddpo") == find_recipe("online/sdxl_ddpo")


def test_a_path_wins_over_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sdxl_dpo").write_text("mine: 1")
    assert find_recipe("sdxl_dpo").read_text() == "mine: 1"


@pytest.mark.parametrize("name, says", [
    ("sdxl_dop", "did you mean 'sdxl_dpo'"), ("nothing.yaml", "no shipped recipe has that name"),
    ("flow_grpo", "write online/flow_grpo or video/flow_grpo")])
def test_an_unknown_recipe_is_answered_with_what_helps(name, says):
    with pytest.raises(UserError, match=says):
        find_recipe(name)


@pytest.mark.parametrize("old, new", [("reward.of=tiny-clip", "reward.of is called reward.models now"),
                                      ("data.image_root=x", "data.image_root is called data.media_root now")])
def test_a_key_of_old_is_answered_with_the_new_one(old, new):
    recipe = "online/flow_grpo" if old.startswith("reward") else "sft"
    with pytest.raises(UserError, match=new):
        load_config(find_recipe(recipe), (old,))
