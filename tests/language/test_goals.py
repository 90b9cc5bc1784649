import pytest

from visalign.config.language import TextGoalSettings
from visalign.data.text_pairs import TextPair
from visalign.errors import UserError
from visalign.language.goals import with_goals

GOALS = TextGoalSettings(template="Quality {goal} of {best}.")
TALK = ({"role": "user", "content": "What is rain?"},)


def pair(chosen_reward=3.0, rejected_reward=-1.0, **more):
    return TextPair(TALK, "good", "bad", "row 1", chosen_reward=chosen_reward, rejected_reward=rejected_reward, **more)


def test_a_pair_becomes_two_and_each_prefers_the_answer_that_has_the_goal():
    """Rewards -1, 1 and 3 become 1, 5.5 and 10 on the scale from 1 to 10."""
    found = with_goals([pair(), pair(1.0, -1.0)], GOALS)
    assert [(each.messages[0]["content"], each.chosen) for each in found] == [
        ("Quality 10 of 10.", "good"), ("Quality 1 of 10.", "bad"),
        ("Quality 5.5 of 10.", "good"), ("Quality 1 of 10.", "bad")]
    assert found[1].chosen_reward == -1.0 and found[1].rejected == "good"
    assert GOALS.highest == "Quality 10 of 10."


def test_what_is_known_of_either_answer_turns_with_it():
    found = with_goals([pair(numbers={"chosen.length": 4.0, "rejected.length": 2.0, "degree": 3.0},
                             unfinished=frozenset({"chosen"}))], GOALS)
    assert found[0].numbers == {"chosen.length": 4.0, "rejected.length": 2.0, "degree": 3.0}
    assert found[1].numbers == {"chosen.length": 2.0, "rejected.length": 4.0, "degree": 3.0}
    assert found[0].unfinished == {"chosen"} and found[1].unfinished == {"rejected"}


def test_equal_scores_make_no_goal(capsys):
    assert len(with_goals([pair(), pair(2.0, 2.0)], GOALS)) == 2
    assert "1 of 2 pairs, whose answers score the same, are left out" in capsys.readouterr().err
    with pytest.raises(UserError, match="both answers score the same in all 1 pairs"):
        with_goals([pair(2.0, 2.0)], GOALS)


def test_pairs_without_rewards_are_refused():
    with pytest.raises(UserError, match="row 1 has no chosen_reward and rejected_reward"):
        with_goals([pair(None)], GOALS)
