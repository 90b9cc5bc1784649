"""Planted refusals and answers that only sound like one."""

import pytest

from visalign.media.refusals import OPENING, is_refusal
from visalign.media.text_measures import TEXT_STYLE, text_measures

REFUSED = (
    "I'm sorry, but I can't help with that.", "Sorry, I can't help with that.", "I cannot provide that.",
    "As an AI language model, I have no body.", "I\u2019m sorry, but I can\u2019t assist with that request.",
    "I am unable to assist you with this.", "Unfortunately, I'm not able to describe this image.",
    "I apologize, but I cannot recommend breaking or damaging any objects, as that would be unethical.",
    "I must respectfully decline.", "I won't be able to write this letter.", "That is not something I can do.",
    "This violates my guidelines, so let us talk about other things.", "It would be inappropriate for me to say it.",
    "I don't feel comfortable writing a script about this.", "Your request cannot be fulfilled.",
    "We cannot answer this question.", "I can't in good conscience answer this.", "I can't identify people in images.",
    "I'm\nnot able to help.", "My apologies, but it is not possible.", "I will not create such content.",
    "I apologize, but I do not feel comfortable promoting violent protests.", "I cannot process images of people.",
    "It's not appropriate to develop educational materials about this.", "I must refrain from such experiments.",
    "I'm sorry, but the image shows a live chicken, not food.", "I can't develop a plan to encourage this.",
    "I'd rather not discuss this.", "I really can't help you.")
ANSWERED = (
    "I can't recommend it enough!", "I cannot recommend this place highly enough to you.", "I cannot wait to tell you!",
    "I can't help but admire the colours of this picture.", "The capital is Paris.", "",
    "I'm sorry to hear that. Rest, and drink a lot.", "Sorry for the confusion: the answer is four.",
    "I cannot see an umbrella in the image, only a red coat.", "I'm sorry, I can't find a cat; there is a dog.",
    "I can't describe how happy this makes me.", "I can't give this enough praise.",
    "I'm sorry, but I can't see a cat in this image; there is a dog.", "I feel comfortable saying that it is safe.",
    "I would not recommend adding more people to the basket.", "Unfortunately, the tower fell in 1902.",
    "It is not appropriate to wear shorts at a funeral.",
    "You can't help everyone, and that is fine.", "I won't lie: the second is better.", "I am not able-bodied.",
    "I can't help feeling that the left one is older.", "Here is a letter: I am sorry that we are late.",
    "A knife is safe when a child cannot reach it.", "x" * OPENING + " I cannot help")


@pytest.mark.parametrize("text", REFUSED)
def test_a_refusal_is_seen(text):
    assert is_refusal(text)


@pytest.mark.parametrize("text", ANSWERED)
def test_an_answer_is_not_taken_for_a_refusal(text):
    assert not is_refusal(text)


def test_style_counts_by_the_same_phrases():
    place = TEXT_STYLE.index("refusals")
    assert [text_measures(text)[place] for text in (REFUSED[1], ANSWERED[0])] == [1.0, 0.0]


def test_a_hostile_answer_takes_no_time():
    assert not is_refusal("sorry " * 200_000) and not is_refusal("I can't" * 200_000)
