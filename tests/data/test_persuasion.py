"""Questions with a right and a wrong answer, and the dialogues about them."""

import pytest

from visalign.config.language_feedback import PersuasionSettings
from visalign.data.persuasion import disputed_of_row, read_disputed
from visalign.data.rows import BadRow
from visalign.errors import UserError

ROW = {"question": "What is the capital of Australia?", "right": ["Canberra", "the ACT"], "wrong": "Sydney",
       "argument_wrong": "It has the opera."}
SETTINGS = PersuasionSettings(path="capitals", arguments=("No: {answer}.", "Surely {answer}?"),
                              answers=("It is {answer}.",))


def contents(dialogue):
    return [message["content"] for message in dialogue.messages]


def test_each_question_gives_a_right_answer_that_is_attacked_and_a_wrong_one_that_is_corrected():
    good, bad = disputed_of_row(ROW, "row", 1).given_dialogues(SETTINGS)
    assert good.good and contents(good) == [ROW["question"], "It is Sydney.", "Surely Canberra?"]
    assert not bad.good and contents(bad) == [ROW["question"], "It is Canberra.",
                                              "Surely Sydney? It has the opera."]
    assert [message["role"] for message in good.messages] == ["user", "assistant", "user"]


@pytest.mark.parametrize(("reply", "stated"), [
    ("It is canberra.", True), ("The ACT", True), ("Sydney!", False), ("Canberra, not Sydney", None), ("Perth", None),
    ("Sydneysider", None), ("", None)])
def test_a_reply_states_an_answer_where_it_names_that_one_alone(reply, stated):
    assert disputed_of_row(ROW, "row").states_right(reply) is stated


@pytest.mark.parametrize(("change", "words"), [
    ({"question": None}, "'question'"), ({"right": None}, "'right' is null"),
    ({"wrong": []}, "'wrong' must be text, or"), ({"right": ["a", 3]}, "'right' must be text, or"),
    ({"wrong": "Canberra City"}, "'right' and 'wrong' hold one another"),
    ({"answer": 3}, "'answer' is not text but int")])
def test_a_row_that_cannot_be_used_is_named(change, words):
    with pytest.raises(BadRow, match=f"file row 1: {words}"):
        disputed_of_row(ROW | change, "file row 1")
    with pytest.raises(BadRow, match="'right' is missing .did you mean 'rigth'"):
        disputed_of_row({"question": "q", "rigth": "a", "wrong": "b"}, "row")


def test_the_capitals_are_all_usable():
    found = read_disputed(SETTINGS)
    assert len(found) == len({each.question for each in found}) == 72
    assert all(each.states_right(each.first_answer(right, SETTINGS)) is right for each in found
               for right in (True, False))
    assert len(read_disputed(PersuasionSettings(path="capitals", max_questions=5))) == 5


@pytest.mark.parametrize("text", ["{answer", "no place", "{answer} {other}", "{answer.__class__} {answer}", "{}"])
def test_a_template_without_a_place_for_the_answer_is_refused(text):
    with pytest.raises(ValueError, match="must contain {answer}"):
        PersuasionSettings(path="capitals", arguments=(text,))


def test_no_template_is_refused():
    with pytest.raises(ValueError, match="data.persuasion.answers: name at least one text"):
        PersuasionSettings(path="capitals", answers=())


def test_a_table_without_a_usable_row_is_refused(tmp_path):
    (tmp_path / "questions.jsonl").write_text('{"question": "q"}\n')
    with pytest.raises(UserError, match="holds no usable question"):
        read_disputed(PersuasionSettings(path=str(tmp_path / "questions.jsonl")), lambda error: None)
