"""The trials of the large comparison of online methods; the trainings themselves are run by hand."""

import pytest
import torch

from visalign.objectives.advantages import AdvantageRule
from visalign.rewards.registry import REWARDS


@pytest.fixture(scope="module")
def trials():
    """The module; its planted rewards are known as long as these tests run."""
    known = dict(REWARDS)
    import trade_trials

    yield trade_trials
    REWARDS.clear()
    REWARDS.update(known)


def test_every_trial_is_a_run_in_a_known_world(trials):
    for name, trial in trials.TRIALS.items():
        assert not trial.control or trial.control in trials.TRIALS, name
        assert set(trial.worlds) <= set(trials.WORLDS), name
        assert trials.settings_of(trial, trial.worlds[0], 0, "unused").train.epochs >= 1, name


def test_a_control_differs_from_its_method_in_the_idea_alone(trials):
    for name, trial in trials.METHODS.items():
        control = trials.TRIALS.get(trial.control)
        if control is None or control.learnt_as != name:
            continue
        ours, theirs = (trials.settings_of(each, trial.worlds[0], 0, "unused") for each in (trial, control))
        for section in ("model", "rollout", "reward", "advantage", "objective", "optim"):
            same = getattr(ours, section) == getattr(theirs, section)
            assert same == (section not in control.changes), (name, section)
        assert control.strangers or control.changes, name


def test_strangers_advantages_belong_to_the_next_prompt_and_still_add_up_to_zero(trials):
    rewards, groups = torch.tensor([[0.0], [1.0], [5.0], [3.0]]), torch.tensor([0, 0, 1, 1])
    own = AdvantageRule()(rewards, torch.ones(1), groups)
    found = trials.by_strangers(lambda: own, 2)()
    # own is (-1, 1, 1, -1) up to eps: each pair's deviation is half of its gap
    assert found.advantages.tolist() == pytest.approx([1, -1, -1, 1], abs=1e-3)
    assert found.advantages.view(2, 2).sum(1).tolist() == pytest.approx([0, 0])


def test_a_file_that_a_trial_needs_is_named(trials, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert trials.missing(trials.TRIALS["d2align"]) == "direction.safetensors"
    assert trials.missing(trials.TRIALS["spo"]) == "runs/guide-tiny-sd3" and not trials.missing(trials.TRIALS["dgpo"])
    (tmp_path / "direction.safetensors").touch()
    assert not trials.missing(trials.TRIALS["d2align"])
