"""Settings put into the text of a recipe: the value is as asked for, all else is as it was."""

import pytest

from visalign.config.recipes import recipes
from visalign.storage.yaml_edits import quoted, with_settings
from visalign.storage.yaml_files import parse_yaml

TEXT = """# head
model: {source: a, lora: {rank: 4}}   # flow
data:
  # path: yours
  holdout: 0.05            # share
  feedback:                # made
    reward: b
    steps: 4
# between
objective:
  name: dpo   # last
empty:
"""


@pytest.mark.parametrize("changes, old, new", [
    ({"objective.name": "sft"}, "name: dpo   # last", "name: sft   # last"),
    ({"model.source": "my model"}, "source: a,", 'source: "my model",'),
    ({"model.lora.rank": 8}, "rank: 4", "rank: 8"), ({"model.base": "c"}, "{source", "{base: c, source"),
    ({"model.lora": None}, "{source: a, lora: {rank: 4}}", "{source: a}"),
    ({"model.source": None}, "{source: a, lora", "{lora"),
    ({"data.path": "x.csv"}, "data:\n", "data:\n  path: x.csv\n"),
    ({"data.feedback": None}, "  feedback:                # made\n    reward: b\n    steps: 4\n", ""),
    ({"data.feedback": {"reward": "z"}}, "feedback:                # made\n    reward: b\n    steps: 4",
     "feedback: {reward: z}"),
    ({"data.holdout": {"a": [1, True, None]}}, "0.05 ", "{a: [1, true, null]} "),
    ({"objective": {"name": "kto"}}, "objective:\n  name: dpo   # last", "objective: {name: kto}   # last"),
    ({"train.steps": 5}, "empty:\n", "empty:\ntrain: {steps: 5}\n"),
    ({"empty.key": 1}, "empty:\n", "empty: {key: 1}\n"), ({"data.nothing": None}, "head", "head"),
    ({"a.b.c": None}, "head", "head")])
def test_one_change_leaves_the_rest_as_it_was(changes, old, new):
    assert with_settings(TEXT, changes) == TEXT.replace(old, new, 1)


def test_a_section_is_not_emptied_on_the_way():
    text = "data:\n  feedback: {a: 1}\n"
    assert with_settings(text, {"data.feedback": None, "data.path": "x"}) == "data:\n  path: x\n"


@pytest.mark.parametrize("name", ["sdxl_dpo", "ai_feedback", "tiny_goals", "video/flow_dpo", "language/dpo",
                                  "edit/kontext_grpo", "mixed_dpo", "guide/wan21"])
def test_shipped_recipes_read_back_as_asked(name):
    text = recipes()[name].read_text()
    changed = parse_yaml(with_settings(text, {
        "data.path": "my set #1/p: q.csv", "data.feedback": None, "data.sources": None, "model.source": "m",
        "eval.prompts": ["a: b", "c"], "output.folder": "runs/x"}), name)
    expected = parse_yaml(text, name)
    for section, key, value in (("data", "path", "my set #1/p: q.csv"), ("model", "source", "m"),
                                ("eval", "prompts", ["a: b", "c"]), ("output", "folder", "runs/x")):
        expected.setdefault(section, {})[key] = value
    for key in ("feedback", "sources"):
        expected["data"].pop(key, None)
    assert changed == expected


@pytest.mark.parametrize("text", ["a", "./x/y.csv", "~/z", "emoji:pairs", "true", "null", "1", ".5", "-x", "a b", "é",
                                  "runs/x #1", "a: b", "", "[x]", 'say "hi"', "two\nlines", ".inf"])
def test_texts_read_back(text):
    assert parse_yaml(f"key: {quoted(text)}", "t") == {"key": text}
