"""Pairs as tokens: what a pair becomes before it is trained on, and which pairs are too long for that."""

from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from visalign.data.text_pairs import TextPair
from visalign.errors import UserError, notice
from visalign.media.conversations import (
    Message,
    answer_tokens,
    begun_tokens,
    prompt_tokens,
    turn_end,
    up_to_end,
    with_system,
    without_end,
)

TokenRow = dict[str, Any]
"""prompt_ids, chosen_ids, rejected_ids (lists of token numbers), row, and the numbers that methods name."""


REVISE = "Write a better answer."
"""What the user says to an earlier try, in training and in `lm generate --revise`."""


def to_revise(messages: Sequence[Message], answer: str) -> list[Message]:
    """The conversation in which an answer stands as the earlier try, and a better one is asked for."""
    return [*messages, {"role": "assistant", "content": answer}, {"role": "user", "content": REVISE}]


def encode_pair(tokenizer, pair: TextPair, number: int, system: str | None, revised: bool = False) -> TokenRow:
    """A pair as tokens, with its numbers; revised: and the prompts in which either answer is an earlier try.

    A beginning that both sides share is of the prompt; a token that holds the end of it and more is of the answer.
    Raises UserError for an answer that holds tokens of the template, and for a revision of a part of one.
    """
    messages, end = with_system(pair.messages, system), turn_end(tokenizer)
    check_controls(tokenizer, pair)
    if revised and pair.prefix:
        raise UserError(f"{pair.where}: both sides continue one beginning ('prefix'), and an objective that revises "
                        "answers takes whole ones")
    prompt = begun_tokens(tokenizer, messages, pair.prefix)
    sides = {"chosen": answer_tokens(tokenizer, messages, prompt, pair.whole(pair.chosen))}
    if pair.rejected is not None:
        sides["rejected"] = answer_tokens(tokenizer, messages, prompt, pair.whole(pair.rejected))
    shared = min(place for _, place in sides.values())
    row: TokenRow = {"prompt_ids": prompt[:shared], "row": number, "strength": pair.strength, "chance": pair.chance}
    for name, (tokens, place) in sides.items():
        row[f"{name}_ids"] = up_to_end(prompt[shared:place] + tokens, end)
        if name in pair.unfinished:  # it did not end here, and shall not learn to
            row[f"{name}_ids"] = without_end(row[f"{name}_ids"], end)
    if revised:
        row |= {f"after_{name}_ids": prompt_tokens(tokenizer, to_revise(messages, text))
                for name, text in (("chosen", pair.chosen), ("rejected", pair.rejected))}
    if pair.desirable is not None:
        row["desirable"] = float(pair.desirable)
    return row | pair.numbers | {"prompt": pair.group or pair.prompt}


def check_controls(tokenizer, pair: TextPair) -> None:
    """Raise UserError for text that would become control tokens, and with them turns of its own."""
    texts = [*(pair.whole(text or "") for text in (pair.chosen, pair.rejected)),
             *(message["content"] for message in pair.messages)]
    controls = [token for token in tokenizer.all_special_tokens if len(token) > 2]
    found = next((token for token in controls if any(token in text for text in texts)), None)
    if found:
        raise UserError(f"{pair.where}: holds {found}, a control token of the model's template, which would begin or "
                        "end a turn; remove it from the text")


def length_of(row: TokenRow) -> int:
    """Tokens of the longest sequence that is passed."""
    before = max(len(row[name]) for name in ("prompt_ids", "after_chosen_ids", "after_rejected_ids") if name in row)
    return before + max(len(row["chosen_ids"]), len(row.get("rejected_ids", ())))


def encode_pairs_of_text(tokenizer, pairs: Sequence[TextPair], system: str | None, max_length: int, most_longer: float,
                         named: str, revised: bool = False) -> list[TokenRow]:
    """All pairs as tokens, those of more than `max_length` left out and counted.

    Raises UserError when more than the share `most_longer` is too long, or a text holds control tokens.
    """
    rows = [encode_pair(tokenizer, pair, number, system, revised)
            for number, pair in enumerate(tqdm(pairs, desc="tokens", unit="pair", leave=False, delay=2))]
    kept = [row for row in rows if length_of(row) <= max_length]
    longer = len(rows) - len(kept)
    longest = max(map(length_of, rows))
    if longer > most_longer * len(rows) or not kept:
        raise UserError(f"train.max_length {max_length}: {longer} of {len(rows)} pairs of {named} are longer, up to "
                        f"{longest} tokens, more than the share {most_longer:g} of train.max_longer; nothing is ever "
                        "cut, so raise it")
    if longer:
        notice(f"train.max_length {max_length}: {longer} of {len(rows)} pairs are longer (up to {longest} tokens) and "
               "are left out")
    return kept
