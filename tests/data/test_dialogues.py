"""Dialogues, their complaints and the answers that satisfied at last."""

import json

import pytest

from visalign.data.dialogues import (
    Dialogue,
    SignalQuality,
    complaints_of,
    dialogue_of_row,
    read_dialogues,
    signal_quality,
)
from visalign.data.rows import BadRow
from visalign.errors import UserError


def talk(*turns, role="user"):
    """Turns of user and assistant by turns."""
    roles = ("user", "assistant") if role == "user" else ("assistant", "user")
    return tuple({"role": roles[i % 2], "content": text} for i, text in enumerate(turns))


def complaints(turns, reactions):
    return list(complaints_of(Dialogue(talk(*turns), "row"), reactions))


def test_the_answer_before_a_complaint_is_rejected_and_the_one_that_satisfied_chosen():
    found, = complaints(("q", "a1", "no", "a2", "thanks"), (False, True))
    assert found.messages == talk("q") and (found.rejected, found.complaint, found.better) == ("a1", "no", "a2")


def test_after_several_complaints_each_answer_is_worse_than_the_last():
    first, second = complaints(("q", "a1", "no", "a2", "still no", "a3", "thanks"), (False, False, True))
    assert (first.rejected, first.better) == ("a1", "a3") and first.messages == talk("q")
    assert (second.rejected, second.better) == ("a2", "a3") and second.messages == talk("q", "a1", "no")


@pytest.mark.parametrize("reactions", [(False, None, True), (False, False, None), (False, False, False)])
def test_an_answer_to_something_else_is_no_better_one(reactions):
    """A turn that neither praises nor complains may be another question."""
    assert complaints(("q", "a1", "no", "a2", "and b?", "a3", "thanks"), reactions)[0].better is None


def test_an_answer_to_nothing_makes_no_pair():
    assert not list(complaints_of(Dialogue(talk("hello", "wrong", role="assistant"), "row"), (False,)))


def test_precision_and_recall_are_of_the_turns_that_are_labelled():
    """Found False, False, True, None against False, None, True, False: of two complaints found one is right, of two
    there one is found; of one satisfied all."""
    dialogues = [Dialogue(talk("q", "a", "x", "a", "y"), "1", (False, None)),
                 Dialogue(talk("q", "a", "x", "a", "y"), "2", (True, False)),
                 Dialogue(talk("q", "a", "x"), "3")]
    reactions = [(False, False), (True, None), (False,)]
    found = signal_quality(dialogues, reactions, False)
    assert found == SignalQuality(2, 2, 1) and found.precision == found.recall == 0.5
    assert signal_quality(dialogues, reactions, True).text() == "precision 1.00 (1 of 1), recall 1.00 (1 of 1)"
    assert signal_quality(dialogues[2:], reactions[2:], False) is None
    assert SignalQuality(0, 1, 0).text() == "precision unknown (0 of 0), recall 0.00 (0 of 1)"


def test_columns_of_other_names_and_labels_of_one_turn_are_read():
    row = {"Conversation": list(talk("q", "a", "x")), "satisfied": "yes"}
    assert dialogue_of_row(row, "row").satisfied == (True,)
    row = {"messages": list(talk("q", "a", "x", "a", "y")), "satisfied": [None, 0]}
    assert dialogue_of_row(row, "row").satisfied == (None, False)


@pytest.mark.parametrize(("row", "words"), [
    ({"prompt": "q"}, "has no conversation"), ({"messages": "q"}, "'messages' is text; a list of messages"),
    ({"messages": [{"role": "human", "content": "q"}]}, "has the role 'human'"),
    ({"messages": list(talk("q", "a", "x")), "satisfied": [True, False]},
     "has 2 values, and 1 turns of the user follow an answer"),
    ({"messages": list(talk("q", "a", "x")), "satisfied": ["perhaps"]}, "'satisfied' is 'perhaps'")])
def test_a_row_that_is_no_dialogue_is_named(row, words):
    with pytest.raises(BadRow, match=words):
        dialogue_of_row(row, "file row 1")


def test_dialogues_of_one_turn_each_are_refused(tmp_path):
    file = tmp_path / "chats.jsonl"
    file.write_text(json.dumps({"messages": talk("q", "a")}) + "\n" + json.dumps({"messages": 3}) + "\n")
    with pytest.raises(BadRow, match="'messages' is int"):
        read_dialogues(str(file))
    bad = []
    with pytest.raises(UserError, match="in none of 1 conversations does the user say anything after"):
        read_dialogues(str(file), bad.append)
    assert len(bad) == 1
