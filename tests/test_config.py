"""Settings: every mistake is one sentence with the key, what was given and what is allowed."""

import pytest
import yaml

from visalign.config.load import load_config, recipe_path
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
    ({"data": {}}, (), ["data.path", "data.feedback"]),
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


def test_shipped_recipe_is_found_by_name():
    assert recipe_path("quickstart.yaml").is_file()
    with pytest.raises(UserError, match="nothing"):
        recipe_path("nothing.yaml")
