"""The study of found groups: both kinds of reward learn from the same votes, and its settings make a run."""

import json

import pytest


@pytest.fixture
def study():
    import prove_groups

    return prove_groups


def test_each_group_s_reward_can_be_asked_for_and_the_control_differs_in_groups_alone(study, monkeypatch, tmp_path):
    learnt = []
    monkeypatch.setattr(study, "train_reward", learnt.append)
    runs = {way: study.policy_settings(way, 0, tmp_path) for way in study.WAYS}
    control, groups = learnt[0], learnt[1]
    assert (control.model.groups, control.model.members, groups.model.members) == (None, 1, 1) and groups.model.groups
    assert control.model == groups.model.model_copy(update={"groups": None}) and control.data == groups.data
    assert {way: len(run.reward.models) for way, run in runs.items()} == dict(zip(study.WAYS, (1, 2, 2), strict=True))
    assert [run.advantage.get("combine") for run in runs.values()] == [None, "advantages", "worst"]


def test_wins_are_counted_against_the_untrained_model_at_the_same_prompts_and_seeds(study, tmp_path):
    (tmp_path / "start.json").write_text(json.dumps({"brightness": [[0.5, 0.5], [0.5, 0.5]], "diversity": [1.0, 1.0]}))
    row = {"way": "the least served group", "seed": 0, "brightness": [[0.6, 0.6], [0.6, 0.4]], "diversity": [0.9, 0.9]}
    (tmp_path / "runs.jsonl").write_text(json.dumps(row) + "\n")
    line = study.table(tmp_path).splitlines()[-1]
    assert line.startswith("| the least served group | 75.0 [") and "| 25.0 [" in line and "| -10.0 [" in line
    assert line.endswith("| 1 |")
