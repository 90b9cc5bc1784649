"""Goals of pairs (Zhang et al. 2024): two rows of each, asked for either score."""

import pytest
from pydantic import ValidationError

from visalign.config.goals import PromptGoalSettings
from visalign.data.goals import check_has_rewards, goal_rows, turned
from visalign.data.preference_pair import PreferencePair
from visalign.errors import UserError


def pair(chosen_reward=3.0, rejected_reward=-1.0, rejected="worse.png", **more):
    return PreferencePair("a cat", "better.png", rejected, "row 1", chosen_reward=chosen_reward,
                          rejected_reward=rejected_reward, **more)


def test_n_pairs_become_2n_rows_whose_chosen_score_is_the_goal():
    """Rewards -1, 1 and 3 on the scale from 1 to 10 are 1, 5.5 and 10."""
    rows = goal_rows([pair(), pair(1.0)], PromptGoalSettings(), "samples")
    assert [(row.asking, row.pair.chosen, row.pair.chosen_reward, row.turned) for row in rows] == [
        ("{prompt}, quality 10 out of 10", "better.png", 3.0, False),
        ("{prompt}, quality 1 out of 10", "worse.png", -1.0, True),
        ("{prompt}, quality 5.5 out of 10", "better.png", 1.0, False),
        ("{prompt}, quality 1 out of 10", "worse.png", -1.0, True)]
    assert all(row.pair.prompt == "a cat" for row in rows)


def test_a_label_that_the_rewards_contradict_still_asks_for_its_own_score():
    first, second = goal_rows([pair(0.0, 9.0)], PromptGoalSettings(), "samples")
    assert first.asking.startswith("{prompt}, quality 1 ") and first.pair.chosen == "better.png"
    assert second.asking.startswith("{prompt}, quality 10 ") and second.pair.chosen == "worse.png"


def test_turning_twice_changes_nothing():
    both = pair(strength=2.0, chance=0.8)
    assert turned(turned(both)) == both != turned(both)
    assert (turned(both).chosen_reward, turned(both).strength, turned(both).chance) == (-1.0, 2.0, 0.8)


def test_equal_scores_are_left_out_and_counted(capsys):
    assert len(goal_rows([pair(), pair(2.0, 2.0)], PromptGoalSettings(), "samples")) == 2
    assert "1 of 2 pairs, whose samples score the same, are left out" in capsys.readouterr().err
    with pytest.raises(UserError, match="both samples score the same in all 1 pairs"):
        goal_rows([pair(2.0, 2.0)], PromptGoalSettings(), "samples")


def test_what_has_no_rewards_or_one_side_is_refused():
    with pytest.raises(UserError, match="row 1 has no chosen_reward and rejected_reward, which become goals; do so"):
        check_has_rewards(pair(None), "; do so")
    with pytest.raises(UserError, match="row 1 has no rejected side"):
        check_has_rewards(pair(rejected=None))


@pytest.mark.parametrize("settings, words", [
    ({"template": "quality {goal}"}, "must contain {prompt}, where the prompt is put"),
    ({"template": "{prompt}, good"}, "must contain {goal}, where the score is put"),
    ({"template": "{prompt} {goal} {a}"}, r"has {a}, which nothing is put into \(allowed: {prompt}, {goal}, {best}\)"),
    ({"template": "{prompt}@@{goal}"}, "must not contain @@"),
    ({"scale": [10, 1]}, r"data.goals.scale \[10.0, 1.0\] must rise"),
    ({"scale": [0, 0.5]}, "by 1 at least")])
def test_settings_that_cannot_be_meant_are_named(settings, words):
    with pytest.raises(ValidationError, match=words):
        PromptGoalSettings(**settings)


def test_what_is_asked_for_at_last_is_the_highest():
    goals = PromptGoalSettings(scale=(0, 5), template="{goal}/{best}: {prompt}")
    assert goals.highest == "5/5: {prompt}" and goals.asking(2.25) == "2.2/5: {prompt}"
