"""What a user's next turn says of the answer before it, by phrases."""

import pytest

from visalign.data.user_reactions import ReactionPhrases, apologises, read_phrases
from visalign.errors import UserError

PHRASES = ReactionPhrases()


@pytest.mark.parametrize(("turn", "said"), [
    ("Thanks, that is what I needed!", True), ("Perfect.", True), ("oh nice, it works now", True),
    ("That helped a lot", True), ("It\u2019s wrong, 7 times 8 is 56.", False), ("You forgot the second part.", False),
    ("Too long. Make it shorter.", False), ("And what is the capital of Spain?", None), ("Continue", None),
    ("Thanks, but that is wrong.", False),  # a complaint outweighs praise
    ("Write a thank you note to my boss.", None), ("Tell me about the Great Wall.", None),
    ("Thanks in advance: how do I boil eggs?", None), ("What is wrong with this code?", None),
    ("This is not very helpful.", None), ("No problem, that helps.", True),  # a negation reaches to its clause's end
    ("No, that's right.", True), ("The word is thanksgiving", None), (" ".join(["well"] * 40) + " that is wrong", None),
    ("", None)])
def test_a_turn_is_satisfied_dissatisfied_or_neither(turn, said):
    assert PHRASES.reaction(turn) is said


def test_own_phrases_take_the_place_of_the_english_ones(tmp_path):
    file = tmp_path / "phrases.yaml"
    file.write_text("satisfied: [^danke]\ndissatisfied: [das ist falsch]\n")
    own = read_phrases(file)
    assert own.reaction("Danke!") is True and own.reaction("Nein, das ist falsch.") is False
    assert own.reaction("Vielen danke") is None and own.reaction("Thanks!") is None and own.ignored == ()


@pytest.mark.parametrize(("text", "words"), [
    ("satisfied: [a]\n", "needs the lists satisfied and dissatisfied"),
    ("satisfied: [a]\ndissatisfied: [b]\nother: [c]\n", "needs the lists satisfied and dissatisfied"),
    ("satisfied: [a]\ndissatisfied: [1]\n", "dissatisfied must be a list of words or phrases"),
    ("satisfied: a\ndissatisfied: [b]\n", "satisfied must be a list of words or phrases"),
    ("satisfied: [^]\ndissatisfied: [b]\n", "satisfied must be a list of words or phrases"),
    ("[a]\n", "expected a mapping")])
def test_what_is_no_list_of_phrases_is_refused(tmp_path, text, words):
    (tmp_path / "phrases.yaml").write_text(text)
    with pytest.raises(UserError, match=words):
        read_phrases(tmp_path / "phrases.yaml")


def test_an_answer_that_begins_with_an_apology_is_known():
    assert apologises("I'm sorry for that. It is 56.") and apologises("You\u2019re right: 56.")
    assert not apologises("It is 56. Sorry!")
