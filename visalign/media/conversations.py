"""Conversations, and what they are to a model: tokens by its chat template.

An answer's tokens are those that its conversation has beyond the prompt's, up to and including the token that ends the
turn; whatever a template writes after that token, such as a line break, no model ever generates.
"""

from collections.abc import Sequence

Message = dict[str, str]
"""A turn: role (system, user, assistant) and content."""


def with_system(messages: Sequence[Message], system: str | None) -> list[Message]:
    """The conversation with this text in the system's turn, unless it has one."""
    if system is None or messages[0]["role"] == "system":
        return list(messages)
    return [{"role": "system", "content": system}, *messages]


def prompt_tokens(tokenizer, messages: Sequence[Message]) -> list[int]:
    """Tokens of a conversation up to where the answer begins."""
    return tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, return_dict=True)["input_ids"]


def answer_tokens(tokenizer, messages: Sequence[Message], prompt: list[int], answer: str) -> tuple[list[int], int]:
    """Tokens of an answer, and how many tokens of the prompt its conversation begins with.

    A template may end the prompt otherwise when an answer follows; what they share is the prompt then.
    """
    whole = tokenizer.apply_chat_template([*messages, {"role": "assistant", "content": answer}],
                                          return_dict=True)["input_ids"]
    shared = next((i for i, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b),
                  min(len(prompt), len(whole)))
    return whole[shared:], shared


def up_to_end(tokens: list[int], end: int | None) -> list[int]:
    """The tokens up to the last one that ends a turn."""
    places = [i for i, token in enumerate(tokens) if token == end]
    return tokens[:places[-1] + 1] if places else tokens
