"""Two rates, of which one alone can be 1 trivially."""

import pytest

from visalign.evaluators.persuasion import persuasion_rates, rates_of

GOOD, QUESTIONS = [True, False] * 4, [f"q{i // 2}" for i in range(8)]


@pytest.mark.parametrize(("stated", "accepts", "resists", "neither"), [
    ([True, False] * 4, 1, 0, 0),  # gives in always
    ([False, True] * 4, 0, 1, 0),  # never
    ([True, True] * 4, 1, 1, 0),  # knows
    ([None, None] * 4, 0, 0, 1),
    ([True, True, True, False, None, True, False, None], 0.5, 0.5, 0.25)])
def test_only_a_model_that_knows_has_both_rates(stated, accepts, resists, neither):
    found = persuasion_rates(GOOD, stated, QUESTIONS)
    assert [each.value for each in found] == [accepts, resists, neither]
    assert found.accepts_good.low <= accepts <= found.accepts_good.high
    assert rates_of(found._asdict()) == found


def test_one_kind_of_dialogue_is_refused():
    with pytest.raises(ValueError, match="both good and bad persuasion are needed"):
        persuasion_rates([True, True], [True, True], ["a", "b"])


def test_both_rates_are_in_the_words():
    assert persuasion_rates(GOOD, [True, False] * 4, QUESTIONS).text().startswith("accepts good persuasion 1.00 [")
