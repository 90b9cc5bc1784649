"""Conversations, and what they are to a model: tokens by its chat template.

An answer's tokens are those that its conversation has beyond the prompt's, up to and including the token that ends the
turn; whatever a template writes after that token, such as a line break, no model ever generates.
"""

import functools
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


def begun_tokens(tokenizer, messages: Sequence[Message], answer: str) -> list[int]:
    """Tokens of a conversation whose last turn is the beginning of an answer: nothing ends it; of an empty beginning
    those of the prompt."""
    prompt = prompt_tokens(tokenizer, messages)
    if not answer:
        return prompt
    tokens, shared = answer_tokens(tokenizer, messages, prompt, answer)
    return prompt[:shared] + without_end(up_to_end(tokens, turn_end(tokenizer)), turn_end(tokenizer))


def without_end(tokens: list[int], end: int | None) -> list[int]:
    """The tokens without one that ends a turn at their end."""
    return tokens[:-1] if tokens and tokens[-1] == end else tokens


def up_to_end(tokens: list[int], end: int | None) -> list[int]:
    """The tokens up to the last one that ends a turn."""
    places = [i for i, token in enumerate(tokens) if token == end]
    return tokens[:places[-1] + 1] if places else tokens


@functools.lru_cache(32)
def turn_end(renderer) -> int | None:
    """The token that ends an answer in a template: of a tokenizer or a processor, what follows whatever is said.

    It need not be the tokenizer's own end, which ends a whole text in some models.
    """
    tokenizer = getattr(renderer, "tokenizer", renderer)
    said = [renderer.apply_chat_template([{"role": "user", "content": _part(renderer, "?")}, {
        "role": "assistant", "content": _part(renderer, text)}], tokenize=False) for text in ("A", "B")]
    after = said[0][next(i for i, (a, b) in enumerate(zip(*said, strict=False)) if a != b) + 1:]
    tokens = tokenizer(after, add_special_tokens=False)["input_ids"]
    special = frozenset(tokenizer.all_special_ids)
    return next((token for token in tokens if token in special), tokenizer.eos_token_id)


def _part(renderer, text: str) -> str | list[dict[str, str]]:
    """Words as a tokenizer's template takes them, or as a processor's."""
    return [{"type": "text", "text": text}] if hasattr(renderer, "tokenizer") else text
