"""The form an answer must have: what is read, what is not, and that no text can make reading fail otherwise."""

import json
import re
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from visalign.rewards.vlm.forms import without_thoughts
from visalign.rewards.vlm.generic import SCORE, WINNER
from visalign.rewards.vlm.local import LocalAsker
from visalign.rewards.vlm.unified import better_one, labelled_score, read_flex


@pytest.mark.parametrize(
    "text, value",
    [
        ("4", 4),
        (" 4.\n", 4),
        ("**4**", 4),
        ("4/5", 4),
        ("4.5", 4.5),
        ("Score: 3", 3),
        ("**Score:** 3", 3),
        ("Score: **3**", 3),
        ("Final Score: 2 / 5", 2),
        ("I see 3 apples, 2 of them red.\nScore: 4", 4),
        ("Score: 1 would be harsh.\n\n- Score: 4\n", 4),
        ('{"score": 4}', 4),
        ('{"Score": 4.0}', 4),
        ('{"reason": "2 of 5 are there", "score": "3"}', 3),
        ('Sure:\n```json\n{\n  "score": 5\n}\n```', 5),
        ("<think>There are 3 apples.</think> 5", 5),
        ("<thinking>Score: 1</thinking>\nScore: 2", 2),
        ("so I say 3 </think> 5", 5),
        ("◁think▷ 3? ◁/think▷ 5", 5),
        ("<think>1</think><answer>Score: 2</answer>", 2),
    ],
)
def test_a_number_in_the_form_is_read(text, value):
    assert SCORE.read(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "", "-3", "4,5", "10", "0", "6", "5.5", "04", "+4", "1e0", "4 or 5", "1-5", "3 4", "four", "４", "Ⅳ", "4/10",
        "NaN", "inf", "On a scale of 1 to 5, I would give it a 4.", "There are 2 apples.", "I see apples:\n2",
        "Score: 4\nbut the apples are blue", "Score: -3", "Score: 4, perhaps 5", "Score: 1-5", "Scores: 4",
        "No score: 4", '{"score": 9}', '{"score": -3}', '{"score": true}', '{"score": [4]}', '{"score": 1, "score": 5}',
        '{"a": {"score": 4}}', '{"score": 4', '{"other": 4}', '[{"score": 4}]', "<think>Score: 4", "<thinking>3",
        "Score: 4 <think>or 3", "<think>3</think>", "Score: 4" + " " * 400 + "x", '{"x": "\\"score\\": 3"}',
    ],
)  # fmt: skip
def test_anything_else_is_no_number_and_its_words_are_the_reason(text):
    with pytest.raises(ValueError) as error:
        SCORE.read(text)
    words = text.split()
    assert not words or words[-1][-8:] in str(error.value).replace("\\\\", "\\").replace("\\'", "'")


def test_a_winner_is_a_whole_number():
    assert [WINNER.read(text) for text in ("0", "Winner: 2", '{"winner": 1}')] == [0, 2, 1]
    for text in ("1.5", "3", "2/2", "Image 1"):
        with pytest.raises(ValueError, match="no winner from 0 to 2"):
            WINNER.read(text)


@pytest.mark.parametrize(
    "text, tokens, place",
    [
        ("4", ["4"], 0),
        ("4", ["4", "<|im_end|>"], 0),
        ("Score: 4", ["Score", ":", " 4"], 2),
        ('{"score": 4}', ['{"', "score", '":', " ", "4", "}"], 4),
        ("4", ["<think>", "3", "</think>", "\n", "4"], 4),  # the thoughts stand in the tokens, not in the content
        ('{"score": 4}', ['{"score":', " 4}"], None),  # not the number alone
        ("4.5", ["4", ".", "5"], None),
        ("10", ["1", "0"], None),
        ("4", ["3"], None),
        ("4", [], None),
    ],
)
def test_probabilities_are_taken_where_one_token_is_the_number_and_nothing_else(text, tokens, place):
    assert SCORE.token(text, tokens) == place


def test_a_local_models_probabilities_are_those_of_the_choices_at_the_answers_token():
    words = ["Score", ":", " 4", " 5", "4", "5", "<end>"]

    class Tokenizer:
        def decode(self, ids):
            return "".join(words[i] for i in ids)

        def encode(self, text, add_special_tokens):
            return [words.index(text)] if text in words else [0, 0]

    asker = LocalAsker.__new__(LocalAsker)
    asker.processor = SimpleNamespace(tokenizer=Tokenizer())
    logits = [torch.zeros(1, 7), torch.zeros(1, 7), torch.tensor([[0.0, 0, 3, 2, 1, 0, 0]]).log_softmax(-1)]
    found = asker._chances(SCORE, "Score: 4", [0, 1, 2, 6], logits)
    chances = torch.tensor([0.0, 0, 3, 2, 1, 0, 0]).softmax(-1)
    assert found["4"] == pytest.approx((chances[2] + chances[4]).item()) and found["1"] == 0
    assert found["5"] == pytest.approx((chances[3] + chances[5]).item())
    assert asker._chances(SCORE, "I say 4", [0, 1, 2, 6], logits) is None


def test_what_is_asked_for_is_what_is_read():
    for form in (SCORE, WINNER):
        for n in form.choices:
            line = re.search("`(.*)`", form.asked(as_json=False))[1].replace("N", str(n))
            asked = re.search(r"\{.*\}", form.asked(as_json=True))[0].replace("N", str(n))
            assert form.read(line) == n == form.read(asked)
        schema = form.schema["json_schema"]["schema"]
        assert schema["required"] == [form.mark] and schema["properties"][form.mark]["enum"] == list(form.choices)


PIECES = st.sampled_from(
    ["4", "-3", "10", "4,5", "Score: 4", "score:", "{", "}", '{"score": 4}', "<think>", "</think>", "<answer>",
     "/5", "é", "</answer>", "```", "```json", "**", "\n", " ", "of 5", "\x00", "\ud800", "Image 1 is better",
     '"winner"', "[" * 2000, "Alignment Score (1-5): 3"]
)  # fmt: skip
TEXTS = st.text() | st.lists(PIECES | st.text(max_size=5)).map("".join)


def read_alignment(text):
    return labelled_score(text, "Alignment")


@given(TEXTS)
@settings(max_examples=300, deadline=None)
def test_no_text_makes_reading_fail_and_a_number_stands_at_the_end_alone(text):
    for read in (SCORE.read, WINNER.read, better_one, read_flex, without_thoughts, read_alignment):
        try:
            value = read(text)
        except ValueError:
            continue
        if read == SCORE.read:
            said = without_thoughts(text).strip("*_`. \n\r\t\x0b\x0c\x1c\x1d\x1e\x1f\x85\xa0")
            assert 1 <= value <= 5
            marked = rf"(^|[:=][*_`\s]*){value:g}(\.0*)?(\s*(/|out of)\s*5)?[*_`.\s]*$"
            assert said.endswith("}") or re.search(marked, said)


@given(TEXTS, st.lists(PIECES))
@settings(max_examples=100, deadline=None)
def test_no_tokens_make_finding_the_number_fail(text, tokens):
    place = SCORE.token(text, tokens)
    assert place is None or tokens[place].strip().isdecimal()


@pytest.mark.parametrize(
    "text, value",
    [
        ("**Image 1** is better", 1.0),
        ("Final verdict: **Image 2** is better than **Image 1**.", 0.0),
        ("Image 1 is better in colour. Overall, Video 2 is better than video 1", 0.0),
        ("Both images are equally good.", 0.5),
        ("a\nlong " * 200 + "text.\nImage 1 is better.", 1.0),
    ],
)
def test_unified_rewards_own_sentence_is_read_bold_or_not(text, value):
    assert better_one(text) == value


@pytest.mark.parametrize(
    "text",
    ["I cannot say whether Image 1 is better", "Image 1 is better than Image 1", "Image 1 is better? No: neither",
     "Image 3 is better", "Image 1 is not better", ""],
)  # fmt: skip
def test_hedged_sentences_say_nothing(text):
    with pytest.raises(ValueError, match="does not end by saying"):
        better_one(text)


@pytest.mark.parametrize(
    "text, value",
    [
        ("Alignment Score (1-5): 2.694700002670288", 2.694700002670288),
        ("**Alignment Score (1-5):** 4", 4),
        ("- Alignment Score: **4**", 4),
        ("Alignment Score: 1\nAlignment Score: 2", 2),
        ("Alignment Score:\n3", 3),
        ("Alignment Score: 4/5", 4),
    ],
)
def test_unified_rewards_lines_are_read(text, value):
    assert labelled_score(text, "Alignment") == value


@pytest.mark.parametrize(
    "text", ["Alignment Score (1-5)", "Alignment Score: 1-5", "Alignment Score: 4,5", "Alignment Score: -3",
             "Alignment Score: 10", "Alignment Score: 4 or 5", "The Alignment Score (1-5) is 4"])  # fmt: skip
def test_lines_that_hold_more_than_a_number_are_refused(text):
    with pytest.raises(ValueError, match="Alignment"):
        labelled_score(text, "Alignment")


def test_a_flex_answer_as_deep_as_it_likes_is_refused():
    for text in ("[" * 100_000, '{"a":' * 100_000, json.dumps({"winner": {"winner": "Image 1"}})):
        with pytest.raises(ValueError):
            read_flex(text)
