"""CaPO in the offline loop: pairs whose rewards are win rates, made beforehand or by the run itself."""

import json
import shutil

import pyarrow.parquet as pq
import pytest
import torch

from ..commands import UNMEASURED, WITHOUT_GRADIENT, fails, rows, run, weights

CALIBRATED = {"link": "calibrated", "beta": 200.0}
RATES = [(0.9, 0.2), (0.8, 0.5), (0.6, 0.55), (1.0, 0.0), (0.7, 0.1), (0.5, 0.45)]


@pytest.fixture
def rated(pairs_file):
    """The six pairs with win rates."""
    lines = [json.loads(line) for line in pairs_file.read_text().splitlines()]
    pairs_file.write_text("\n".join(json.dumps(row | {"chosen_reward": chosen, "rejected_reward": rejected})
                                    for row, (chosen, rejected) in zip(lines, RATES, strict=True)))


@pytest.mark.parametrize("model", ["sd3", "sdxl"])
def test_it_starts_from_the_mean_squared_gap_and_trains_every_weight(recipe, rated, tmp_path, model):
    run(recipe(model, objective=CALIBRATED, train={"batch_size": 6}, data={"holdout": 0.0}, eval=UNMEASURED))
    gaps = torch.tensor(RATES)[:, 0] - torch.tensor(RATES)[:, 1]
    trained = rows(tmp_path / "run")
    assert trained[0]["loss"] == pytest.approx(gaps.square().mean().item(), abs=1e-4)  # z is 0 there
    first, last = weights(tmp_path / "run", 2), weights(tmp_path / "run", 4)
    assert {name for name in first if torch.equal(first[name], last[name])} <= WITHOUT_GRADIENT
    assert all(torch.tensor(row["loss"]).isfinite() for row in trained)


def test_noisy_times_weigh_more_and_a_continued_run_ends_in_the_same_bits(recipe, rated, tmp_path):
    options = {"objective": CALIBRATED | {"snr_bias": 0.0}, "eval": UNMEASURED}
    whole = recipe("sd3", name="whole.yaml", output={"folder": str(tmp_path / "whole")}, **options)
    run(whole)
    cut = recipe("sd3", name="cut.yaml", output={"folder": str(tmp_path / "cut")}, **options)
    run(cut)
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "step-00000004")
    run(cut, "--resume")
    a, b = weights(tmp_path / "whole", 4), weights(tmp_path / "cut", 4)
    assert all(torch.equal(a[name], b[name]) for name in a)
    run(recipe("sd3", objective=CALIBRATED, eval=UNMEASURED, output={"folder": str(tmp_path / "even")},
               train={"steps": 1}))
    assert 0 < rows(tmp_path / "whole")[0]["loss"] < rows(tmp_path / "even")[0]["loss"]


def test_a_run_makes_its_own_pairs_from_two_rewards(recipe, tmp_path):
    (tmp_path / "p.txt").write_text("a red fruit\na cat face\na blue heart\n")
    feedback = {"prompts": str(tmp_path / "p.txt"), "samples_per_prompt": 4, "steps": 2, "strategy": "pareto",
                "reward": "saturation", "further": ["contrast"], "standardise": True, "pairs_per_prompt": 2}
    done = run(recipe("sd3", objective=CALIBRATED, data={"path": None, "feedback": feedback, "holdout": 0.0},
                      train={"steps": 1}, eval=UNMEASURED))
    assert "3 of 3 prompts have fewer than 8 scored generations (the fewest 4)" in done.output
    made = pq.read_table(tmp_path / "run" / "pairs.parquet").to_pylist()
    assert made and all(0 < row["rejected_reward"] < row["chosen_reward"] < 1 for row in made)
    assert all(row["strength"] == pytest.approx(row["chosen_reward"] - row["rejected_reward"]) for row in made)
    assert 0 < rows(tmp_path / "run")[0]["loss"] < 1


@pytest.mark.parametrize("data, said", [
    ({}, "has a reward of 2, which is no win rate"),
    ({"score_with": "contrast"}, "data.score_with gives plain rewards"),
    ({"path": None, "feedback": {"prompts": "emoji:train"}}, "data.feedback.strategy best_worst gives plain rewards"),
    ({"swap": True}, "learns from each sample's own reward, so a swap changes nothing"),
    ({"strength": {"flip": 0.9}}, "so that turning a pair changes nothing; leave data.strength.flip out"),
    ({"path": None, "feedback": {"further": ["contrast"]}}, "further is for data.feedback.strategy=pareto, got best"),
    ({"path": None, "feedback": {"standardise": True}}, "data.feedback.standardise is for"),
    ({"path": None, "feedback": {"strategy": "pareto", "reward": "contrast", "further": ["contrast"]}},
     "contrast is given twice")])
def test_what_carries_no_win_rates_is_refused_before_a_model_is_loaded(recipe, data, said):
    message = fails(recipe("sd3", objective=CALIBRATED, data=data))
    assert said in message and len(message.splitlines()) == 1


def test_pairs_without_rewards_are_refused_with_the_way_to_them(recipe, pairs_file):
    lines = [json.loads(line) for line in pairs_file.read_text().splitlines()]
    pairs_file.write_text("\n".join(json.dumps({k: row[k] for k in ("prompt", "chosen", "rejected")}) for row in lines))
    message = fails(recipe("sd3", objective=CALIBRATED))
    assert "has no chosen_reward and rejected_reward" in message and "visalign data pairs --strategy pareto" in message
    assert "link sigmoid or ipo" in message


def test_a_margin_of_what_is_a_win_rate_now_is_not_called_by_the_first_reward(recipe):
    message = fails(recipe("sd3", objective={"margin_of": {"contrast": 0.2}}, data={"path": None, "feedback": {
        "strategy": "pareto", "reward": "contrast"}}))
    assert "the reward that the pairs carry is reward" in message
