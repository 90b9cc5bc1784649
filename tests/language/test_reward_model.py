import json

import pytest
from click.testing import CliRunner

from visalign.cli import main
from visalign.media.answers import Answer
from visalign.media.samples import Sample
from visalign.rewards import load_reward
from visalign.storage.run_folder import read_metrics

RECIPE = """
loop: language
model: {{source: {model}, tuning: {tuning}, precision: fp32}}
data: {{path: {pairs}, holdout: 0.25}}
objective: {{name: bradley_terry, margin: 0.5}}
optim: {{lr: 1.0e-2}}
train: {{steps: 20, batch_size: 6}}
output: {{folder: {out}, trackers: []}}
"""


def run(tmp_path, *words):
    return CliRunner().invoke(main, ["--debug", "reward", "train", str(tmp_path / "reward.yaml"), *words])


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_a_reward_of_text_learns_pairs_and_is_named_wherever_a_reward_is(tuning, tiny_lm, text_pairs, tmp_path):
    (tmp_path / "reward.yaml").write_text(RECIPE.format(model=tiny_lm, pairs=text_pairs, out=tmp_path / "run",
                                                        tuning=tuning))
    found = run(tmp_path)
    assert found.exit_code == 0, found.output
    accuracy = json.loads((tmp_path / "run" / "accuracy.json").read_text())
    assert accuracy["accuracy"]["value"] == 1.0 and f"on {accuracy['pairs']} held-out pairs 1.000" in found.output
    rows = [row for row in read_metrics(tmp_path / "run") if row["kind"] == "train"]
    assert len(rows) == 20 and rows[-1]["loss"] < rows[0]["loss"]
    reward = load_reward(f"sequence:{tmp_path / 'run' / 'reward'}")
    scores = reward.score([Sample("Tell me about thing 1.", Answer(text)) for text in (
        "Yes, short.", "No, this is a long answer about thing 1.")]).values
    assert scores[0] > scores[1]
    again = run(tmp_path, "--resume", "train.steps=21")
    assert again.exit_code == 0 and len([row for row in read_metrics(tmp_path / "run") if row["kind"] == "train"]) == 21


def test_what_a_reward_of_text_does_not_have_is_refused(tiny_lm, text_pairs, tmp_path):
    (tmp_path / "reward.yaml").write_text(RECIPE.format(model=tiny_lm, pairs=text_pairs, out=tmp_path / "run",
                                                        tuning="lora"))
    for given, words in (("data.drop_ches=0.1", "learns from the pairs of data.path alone"),
                         ("objective={name: dpo}", "objective.name is 'dpo', which is not an objective"),
                         ("train.max_length=4", "train.max_length 4:")):
        found = run(tmp_path, given)
        assert found.exit_code == 1 and words in str(found.exception), found.exception
