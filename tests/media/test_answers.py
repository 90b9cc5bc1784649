"""Answers as a medium: what a sample of one says, control tokens, words."""

import pytest
from PIL import Image

from visalign.errors import UserError
from visalign.media.answers import Answer, holds_control_tokens, without_control_tokens
from visalign.media.samples import Sample, Video, frames_of
from visalign.media.video_files import media_file
from visalign.media.words import first_words, ngrams, repeated_share, sentences_in, tokens_of, words_in


def test_a_sample_knows_its_medium():
    text, image = Sample("p", Answer("yes")), Sample("p", Image.new("RGB", (4, 4)))
    assert (text.modality, text.answer, text.image, text.video) == ("text", "yes", None, None)
    assert (image.modality, image.answer) == ("image", None)
    assert Sample("p", Video([image.media], 8.0)).modality == "video"
    assert Sample("p", Answer("")).modality == "text"  # an empty answer is an answer
    assert text.with_media(Answer("no")).answer == "no"


def test_a_text_has_no_frames_and_is_a_txt_file():
    with pytest.raises(UserError, match="a text has no frames"):
        frames_of(Answer("x"), 4)
    assert media_file(Answer("é")) == (".txt", "é".encode())


@pytest.mark.parametrize("given, left", [
    ("Paris.<|im_end|>", "Paris."), ("a<|im_end|>\n<|im_start|>user\nb", "a \n user\nb"),
    ("<s>[INST] x [/INST]</s>", "x"), ("<start_of_turn>model", "model"), ("<|eot_id|>", ""),
    ("<｜end▁of▁sentence｜>ok", "ok"),
    ("<|im_<|im_end|>end|>", "<|im_ end|>"),  # what is left when one is taken out must not be another
    ("a < b | c > d, <|> and <b>bold</b>", "a < b | c > d, <|> and <b>bold</b>")])
def test_control_tokens_are_taken_out(given, left):
    assert without_control_tokens(given) == left
    assert not holds_control_tokens(left)


def test_many_nested_control_tokens_take_one_pass():
    hostile = "<|a" * 200_000 + "|>" * 200_000
    assert not holds_control_tokens(without_control_tokens(hostile))


def test_words_tokens_and_sentences():
    assert words_in("It's  a dog.\nYes") == ["It's", "a", "dog.", "Yes"]
    assert words_in("東京 tower") == ["東", "京", "tower"]
    assert tokens_of("It's A dog, 42!") == ["it's", "a", "dog", "42"]
    assert [sentences_in(text) for text in ("", "One", "One. Two", "One! Two? 3.5 is a number.", "。", "好。好。")] == [
        0, 1, 2, 3, 1, 2]
    assert ngrams(["a", "b", "c"], 2) == [("a", "b"), ("b", "c")] and ngrams(["a"], 2) == []
    assert [first_words("a  b c", count) for count in (0, 1, 2, 9)] == ["", "a", "a  b", "a  b c"]


def test_repeated_share():
    """a b c a b c: 3-grams abc bca cab abc, of which 3 differ: 1 - 3 / 4."""
    assert repeated_share(["a", "b", "c"] * 2) == 0.25
    assert repeated_share(["a", "b"]) == 0.0
