"""Conversations of several turns, what users said next in them, and the pairs that follow (WildFeedback, arXiv
2408.15549, by its abstract alone).

    messages    a list of {role, content}; also conversation or dialogue
    satisfied   optional: whether the user is satisfied in each turn that follows an answer, in order: a list of true,
                false and null (neither), or one value where there is one such turn

An answer that a user complains of is rejected. Chosen is a later answer of the same dialogue, where the user was
satisfied with it after complaints alone: any other turn in between may have asked for something else.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from visalign.data.rows import BadRow, check_row, plain_names, says_yes, table_rows
from visalign.data.text_pairs import as_messages
from visalign.errors import UserError
from visalign.media.conversations import Message

DIALOGUE_COLUMNS = ("messages", "conversation", "dialogue")
Reaction = bool | None
"""Of a user's turn to the answer before it: satisfied, dissatisfied (False), or neither (None)."""


@dataclass(frozen=True)
class Dialogue:
    """A conversation. satisfied: what the table says of each reaction, None where it says nothing."""

    messages: tuple[Message, ...]
    where: str
    satisfied: tuple[Reaction, ...] | None = None

    @property
    def reactions(self) -> tuple[int, ...]:
        """Places of the user's turns that follow an answer."""
        return reactions_in(self.messages)


def reactions_in(messages: Sequence[Message]) -> tuple[int, ...]:
    return tuple(i for i in range(1, len(messages))
                 if messages[i]["role"] == "user" and messages[i - 1]["role"] == "assistant")


class UserComplaint(NamedTuple):
    """messages: the conversation up to the turn whose answer, `rejected`, is complained of. better: the answer of the
    same dialogue that satisfied, None where there is none."""

    messages: tuple[Message, ...]
    rejected: str
    complaint: str
    better: str | None
    where: str


def read_dialogues(source: str, on_bad: Callable[[UserError], None] | None = None) -> list[Dialogue]:
    """All dialogues of a table or a folder of them. on_bad: told of a row that cannot be used, in place of ending
    there. Raises UserError where none has a turn of the user after an answer."""
    found = []
    for where, row in table_rows(source):
        try:
            found.append(dialogue_of_row(row, where))
        except BadRow as error:
            if on_bad is None:
                raise
            on_bad(error)
    if not any(each.reactions for each in found):
        raise UserError(f"dialogues {source}: in none of {len(found)} conversations does the user say anything after "
                        "an answer, so nothing tells good answers from bad")
    return found


def dialogue_of_row(row: dict, where: str) -> Dialogue:
    """Raises BadRow naming the row and the key."""
    check_row(row)
    row = plain_names(row, frozenset((*DIALOGUE_COLUMNS, "satisfied")))
    key = next((name for name in DIALOGUE_COLUMNS if row.get(name) is not None), None)
    if key is None:
        raise BadRow(f"{where}: has no conversation (allowed: {', '.join(DIALOGUE_COLUMNS)}; a list of messages "
                     "{role, content})")
    if isinstance(row[key], str):
        raise BadRow(f"{where}: '{key}' is text; a list of messages {{role, content}} is expected")
    messages = as_messages(row[key], key, where)
    return Dialogue(messages, where, _labels(row, len(reactions_in(messages)), where))


def _labels(row: dict, count: int, where: str) -> tuple[Reaction, ...] | None:
    given = row.get("satisfied")
    if given is None:
        return None
    given = given if isinstance(given, list) else [given]
    if len(given) != count:
        raise BadRow(f"{where}: 'satisfied' has {len(given)} values, and {count} turns of the user follow an answer")
    return tuple(None if each is None else says_yes({"satisfied": each}, "satisfied", where) for each in given)


def complaints_of(dialogue: Dialogue, reactions: Sequence[Reaction]) -> Iterator[UserComplaint]:
    """The dialogue's complaints, of answers to a turn of the user. reactions: in the order of `dialogue.reactions`."""
    places = dialogue.reactions
    for number, (place, said) in enumerate(zip(places, reactions, strict=True)):
        before = dialogue.messages[:place - 1]
        if said is False and before and before[-1]["role"] == "user":
            after, then = next(((places[i], reactions[i]) for i in range(number + 1, len(places))
                                if reactions[i] is not False), (0, None))
            better = dialogue.messages[after - 1]["content"] if then else None
            yield UserComplaint(before, dialogue.messages[place - 1]["content"], dialogue.messages[place]["content"],
                            better, dialogue.where)


class SignalQuality(NamedTuple):
    """Of one kind of reaction: how many were found, how many there are, how many of both are the same."""

    found: int
    there: int
    right: int

    @property
    def precision(self) -> float | None:
        return self.right / self.found if self.found else None

    @property
    def recall(self) -> float | None:
        return self.right / self.there if self.there else None

    def text(self) -> str:
        """Both, and their numbers."""
        return (f"precision {_told(self.precision)} ({self.right} of {self.found}), "
                f"recall {_told(self.recall)} ({self.right} of {self.there})")


def _told(share: float | None) -> str:
    return "unknown" if share is None else f"{share:.2f}"


def signal_quality(dialogues: Sequence[Dialogue], reactions: Sequence[Sequence[Reaction]],
                   kind: bool) -> SignalQuality | None:
    """How well one kind of reaction (True: satisfied) was found in the dialogues that say themselves what each is; None
    where none does."""
    pairs = [(found, there) for each, of in zip(dialogues, reactions, strict=True) if each.satisfied is not None
             for found, there in zip(of, each.satisfied, strict=True)]
    if not pairs:
        return None
    return SignalQuality(sum(found is kind for found, _ in pairs), sum(there is kind for _, there in pairs),
                         sum(found is kind and there is kind for found, there in pairs))


def dialogue_pair_row(complaint: UserComplaint, chosen: str, source: str) -> dict[str, Any]:
    """A row of pairs.jsonl as `data.path` reads it. source: `dialogue` or `revised`."""
    return {"prompt": list(complaint.messages), "chosen": chosen, "rejected": complaint.rejected,
            "complaint": complaint.complaint, "chosen_from": source, "dialogue": complaint.where}
