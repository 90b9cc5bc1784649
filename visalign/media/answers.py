"""Answers: the texts of language models, the third medium beside images and videos."""

import re

LONGEST_ANSWER = 1_000_000
"""Characters. A longer text is a mistake: no language model answers in so many."""
_CONTROL = re.compile(
    r"<[|\uff5c][^\s<>|\uff5c]{1,60}[|\uff5c]>|</?s>|<(?:bos|eos|pad|unk|mask|start_of_turn|end_of_turn)>|\[/?INST\]")
"""Tokens by which chat templates mark turns: those of ChatML, Llama 2 and 3, Gemma, DeepSeek, Mistral."""


class Answer(str):
    """What a language model wrote in answer to a prompt."""

    __slots__ = ()


def holds_control_tokens(text: str) -> bool:
    """Whether a tokenizer may read a part of the text as a mark of a chat template: such a text can open a turn."""
    return _CONTROL.search(text) is not None


def without_control_tokens(text: str) -> str:
    """The text with a space for each control token of a chat template, and none of them at its ends."""
    return _CONTROL.sub(" ", text).strip(" ") if holds_control_tokens(text) else str(text)
