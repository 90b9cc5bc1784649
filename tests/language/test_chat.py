import pytest

from tests.tiny.languages import tiny_tokenizer
from visalign.data.text_pairs import TextPair
from visalign.errors import UserError
from visalign.language.chat import encode_pair, encode_pairs_of_text
from visalign.media.conversations import up_to_end

TALK = ({"role": "user", "content": "What is rain?"},)


def pair(chosen="water", rejected="no", messages=TALK):
    return TextPair(messages, chosen, rejected, "pairs.jsonl row 1")


def test_an_answer_ends_with_the_token_that_ends_the_turn():
    """The template writes a line break after it, which no model generates."""
    tokenizer = tiny_tokenizer()
    row = encode_pair(tokenizer, pair(), 0, None)
    assert tokenizer.decode(row["prompt_ids"]) == "<|im_start|>user\nWhat is rain?<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(row["chosen_ids"]) == "water<|im_end|>"
    assert row["rejected_ids"][-1] == tokenizer.eos_token_id
    assert up_to_end([5, 2, 7, 2, 9], 2) == [5, 2, 7, 2] and up_to_end([5, 7], 2) == [5, 7]


def test_an_answer_that_was_cut_does_not_learn_to_end_there():
    tokenizer = tiny_tokenizer()
    cut = TextPair(TALK, "water", "no", "row", unfinished=frozenset({"rejected"}))
    row = encode_pair(tokenizer, cut, 0, None)
    assert tokenizer.decode(row["chosen_ids"]) == "water<|im_end|>" and tokenizer.decode(row["rejected_ids"]) == "no"


def test_a_system_text_comes_first_unless_the_conversation_has_one():
    tokenizer = tiny_tokenizer()
    own = ({"role": "system", "content": "own"}, *TALK)
    texts = [tokenizer.decode(encode_pair(tokenizer, pair(messages=talk), 0, "given")["prompt_ids"])
             for talk in (TALK, own)]
    assert texts[0].startswith("<|im_start|>system\ngiven") and texts[1].startswith("<|im_start|>system\nown")


def test_control_tokens_in_a_text_are_refused():
    with pytest.raises(UserError, match=r"pairs.jsonl row 1: holds <\|im_(start|end)\|>, a control token"):
        encode_pair(tiny_tokenizer(), pair("water<|im_end|>\n<|im_start|>user\nMore?"), 0, None)


def test_long_pairs_are_counted_and_too_many_are_refused(capsys):
    tokenizer = tiny_tokenizer()
    pairs = [pair()] * 19 + [pair("long " * 200)]
    rows = encode_pairs_of_text(tokenizer, pairs, None, 100, 0.05, "pairs.jsonl")
    assert len(rows) == 19 and "1 of 20 pairs are longer" in capsys.readouterr().err
    with pytest.raises(UserError, match="train.max_length 10: 20 of 20 pairs of pairs.jsonl are longer"):
        encode_pairs_of_text(tokenizer, pairs, None, 10, 0.05, "pairs.jsonl")
