"""Pairs of text: what each form of a row becomes, and one sentence for each that cannot be used."""

import json

import pytest

from visalign.config import TextDataSettings
from visalign.data.text_pairs import pair_of_row, read_text_pairs
from visalign.errors import UserError

ROW = {"prompt": "What is rain?", "chosen": "water", "rejected": "no"}
TALK = [{"role": "user", "content": "What is rain?"}]


def said(text):
    return [*TALK, {"role": "assistant", "content": text}]


def read(tmp_path, *rows, compared=True, **settings):
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_text_pairs(TextDataSettings(path=str(file), **settings), compared)


def test_texts_and_conversations_are_the_same_pair(tmp_path):
    forms = [ROW, {"prompt": TALK, "chosen": said("water"), "rejected": said("no")},
             {"Prompt": TALK, "chosen": said("water")[1:], "rejected": said("no")[1:]},
             {"chosen": said("water"), "rejected": said("no")}]
    pairs = read(tmp_path, *forms)
    assert {(pair.messages[0]["content"], pair.chosen, pair.rejected) for pair in pairs} == {
        ("What is rain?", "water", "no")}


def test_a_row_s_numbers_rewards_and_images_each_have_their_place(tmp_path):
    (tmp_path / "a.png").write_bytes(b"x")
    pair = read(tmp_path, ROW | {"strength": 2, "chance": 0.75, "chosen_reward": 3, "rejected_reward": -1,
                                 "chosen.relevance": 0.5, "image": "a.png"})[0]
    assert (pair.strength, pair.chance, pair.chosen_reward, pair.rejected_reward) == (2, 0.75, 3, -1)
    assert pair.numbers == {"chosen.relevance": 0.5} and pair.images == (str(tmp_path / "a.png"),)
    assert pair.desirable is None and pair.unfinished == frozenset()


def test_answers_to_imitate_have_several_names(tmp_path):
    rows = [{"prompt": "What is rain?", name: "water"} for name in ("chosen", "completion", "answer", "response")]
    pairs = read(tmp_path, *rows, {"messages": said("water")}, {"prompt": TALK, "completion": "water", "label": "no"},
                 compared=False)
    assert {pair.chosen for pair in pairs} == {"water"} and pairs[-1].desirable is False


def test_pairs_with_equal_answers_are_left_out_and_counted(tmp_path, capsys):
    assert len(read(tmp_path, ROW, ROW | {"rejected": "water"})) == 1
    assert "in 1 of 2 pairs chosen and rejected are equal; they are left out" in capsys.readouterr().err
    with pytest.raises(UserError, match="chosen and rejected are equal in all 1 pairs"):
        read(tmp_path, ROW | {"rejected": "water"})


def test_empty_chosen_answers_are_refused_above_a_twentieth(tmp_path, capsys):
    rows = [ROW | {"prompt": f"{i}?"} for i in range(20)]
    assert len(read(tmp_path, *rows, ROW | {"chosen": ""})) == 21
    assert "the chosen answer of 1 of 21 pairs is empty" in capsys.readouterr().err
    with pytest.raises(UserError, match="the chosen answer of 1 of 2 pairs is empty, which teaches to say nothing"):
        read(tmp_path, ROW, ROW | {"chosen": ""})


@pytest.mark.parametrize(("row", "words"), [
    ({"prompt": "a?", "chosen": "b"}, "'rejected' is missing"),
    ({"prompt": "a?", "chosen": "b", "rejected": None}, "'rejected' is null"),
    ({"prompt": "a?", "chosen": [{"content": "b"}], "rejected": "c"}, "message 1 of 'chosen' has content; role and"),
    ({"prompt": "a?", "chosen": TALK, "rejected": "c"}, "'chosen' ends with a turn of the user"),
    ({"prompt": "a?", "chosen": 3, "rejected": "c"}, "'chosen' is int 3; text or a list of messages"),
    ({"prompt": "", "chosen": "b", "rejected": "c"}, "'prompt' is empty"),
    ({"prompt": said("x"), "chosen": "b", "rejected": "c"}, "'prompt' ends with a turn of the assistant"),
    ({"chosen": "b", "rejected": "c"}, "'prompt' is missing"),
    ({"chosen": said("b"), "rejected": [{"role": "user", "content": "other?"}, *said("c")[1:]]}, "part before their"),
    ({"prompt": [{"role": "robot", "content": "a"}], "chosen": "b", "rejected": "c"}, "has the role 'robot'"),
    (ROW | {"chance": 0.2}, "'chance' is 0.2"),
    (ROW | {"chosen_reward": float("inf")}, "'chosen_reward' is inf, not a finite number"),
])
def test_a_row_that_cannot_be_used_is_one_sentence(row, words, tmp_path):
    with pytest.raises(UserError, match="pairs.jsonl row 1") as error:
        pair_of_row(row, "pairs.jsonl row 1", True, tmp_path)
    assert words in str(error.value)


def test_a_set_without_rows_says_so(tmp_path):
    with pytest.raises(UserError, match="holds no usable row"):
        read(tmp_path)
