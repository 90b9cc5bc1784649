"""`visalign data dialogues`: pairs from what users said next (WildFeedback, arXiv 2408.15549, by its abstract alone).

    1. each turn after an answer is satisfied, dissatisfied or neither: by phrases, or by a reward that reads it
    2. the answer before a complaint is rejected
    3. chosen is the answer of the same dialogue that satisfied at last, else one that a model revises: it sees the
       complaint as a hint, which the pair's prompt has not

    OUT/pairs.jsonl     rows as data.path reads them
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from visalign.config.language_answers import AnswerSettings
from visalign.data.dialogues import (
    Dialogue,
    Reaction,
    UserComplaint,
    complaints_of,
    dialogue_pair_row,
    read_dialogues,
    signal_quality,
)
from visalign.data.text_pairs import TextPair
from visalign.data.user_reactions import ReactionPhrases, apologises
from visalign.errors import UserError
from visalign.generators.hardware.devices import pick_device
from visalign.language.chat import check_controls
from visalign.language.feedback import FEEDBACK
from visalign.language.held_out import load_text_reward
from visalign.language.sampling import Answerer, sample_answers
from visalign.media.answers import Answer
from visalign.media.conversations import Message, prompt_tokens
from visalign.media.samples import Sample
from visalign.rewards import scores_of
from visalign.storage.files import write_atomically
from visalign.storage.language_models import load_language_model, locate_language_model

HINT = "{prompt}\n\n(To an earlier answer I said: {complaint} Please answer so that I need not say it again.)"
"""The user's turn as a model sees it that revises an answer."""


@dataclass(frozen=True)
class RewardedReactions:
    """Reactions by a reward that is given the conversation as prompt and the user's next turn as answer: satisfied from
    `satisfied_at` on, dissatisfied from `dissatisfied_at` down."""

    reward: str
    satisfied_at: float
    dissatisfied_at: float

    def __post_init__(self):
        if not self.dissatisfied_at < self.satisfied_at:
            raise UserError(f"--dissatisfied-at {self.dissatisfied_at:g} must be below --satisfied-at "
                            f"{self.satisfied_at:g}")

    def all_of(self, dialogues: Sequence[Dialogue], device: str) -> list[list[Reaction]]:
        """Of each dialogue its reactions; a turn without a score is neither."""
        samples = [Sample(transcript(each.messages[:place]), Answer(each.messages[place]["content"]))
                   for each in dialogues for place in each.reactions]
        scores = iter(scores_of(load_text_reward(self.reward, device), samples)[0].tolist())
        return [[self.reaction(next(scores)) for _ in each.reactions] for each in dialogues]

    def reaction(self, score: float) -> Reaction:
        if score >= self.satisfied_at:
            return True
        return False if score <= self.dissatisfied_at else None


def transcript(messages: Sequence[Message]) -> str:
    """A conversation as one text."""
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)


def by_phrases(dialogues: Sequence[Dialogue], phrases: ReactionPhrases) -> list[list[Reaction]]:
    return [[phrases.reaction(each.messages[place]["content"]) for place in each.reactions] for each in dialogues]


@dataclass
class DialoguePairs:
    """Rows of pairs and what came of the rest."""

    rows: list[dict] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def text(self) -> str:
        return "\n".join(self.lines)


@dataclass(frozen=True)
class Reviser:
    """A model that writes the chosen answers that no dialogue has. hint: of the user's turn, with {prompt} and
    {complaint} in it."""

    source: str
    settings: AnswerSettings
    hint: str = HINT
    system: str | None = None
    seed: int = 0
    device: str = "auto"

    def check(self) -> None:
        """Raise UserError for what can be known before the model is loaded."""
        if "{complaint}" not in self.hint or "{prompt}" not in self.hint:
            raise UserError("--hint: must contain {prompt} and {complaint}, where the user's turn and what they said "
                            "of the answer are put")
        locate_language_model(self.source, "--model")

    def hinted(self, complaint: UserComplaint) -> tuple[Message, ...]:
        """The conversation as the model sees it."""
        *before, last = complaint.messages
        texts = {"prompt": last["content"], "complaint": complaint.complaint}
        said = re.sub(r"\{(prompt|complaint)\}", lambda found: texts[found[1]], self.hint)
        return (*before, {"role": "user", "content": said})

    def revised(self, complaints: Sequence[UserComplaint]) -> tuple[list[str | None], dict[str, int]]:
        """An answer to each, None where there is no usable one, and how many are lost to what."""
        model = load_language_model(self.source, where="--model")
        model.model.to(pick_device(self.device))
        longest = getattr(model.model.config.get_text_config(), "max_position_embeddings", None)
        talks = [self.hinted(each) for each in complaints]
        for each, talk in zip(complaints, talks, strict=True):
            check_controls(model.tokenizer, TextPair(talk, "", each.rejected, each.where))
        fits = [longest is None or len(prompt_tokens(model.tokenizer, talk)) + self.settings.max_tokens <= longest
                for talk in talks]
        asked = [talk for talk, fit in zip(talks, fits, strict=True) if fit]
        asked = [talk for talk, fit in zip(talks, fits, strict=True) if fit]
        answered = iter(sample_answers(Answerer(model.model, model.tokenizer, self.system), asked, 1, self.settings,
                                       seed=self.seed, label="revised answers"))
        found: list[str | None] = []
        lost = {"conversations are too long for the model": 0, "revised answers were cut at --max-tokens": 0,
                "revised answers are empty or as before": 0}
        too_long, cut, same = lost
        for each, fit in zip(complaints, fits, strict=True):
            sample = next(answered) if fit else None
            answer = None if sample is None else str(sample.answer).strip()
            reason = (too_long if sample is None else cut if not sample.known["ended"]
                      else same if not answer or answer == each.rejected.strip() else None)
            if reason:
                lost[reason] += 1
            found.append(None if reason else answer)
        return found, lost


def dialogue_pairs(source: str, out: Path, signal: ReactionPhrases | RewardedReactions, reviser: Reviser | None = None,
                   device: str = "cpu") -> DialoguePairs:
    """Read, classify, pair and write. Raises UserError where no pair comes of it, or OUT holds pairs already."""
    if (out / FEEDBACK).exists():
        raise UserError(f"out {out}: already holds pairs; choose another folder")
    if reviser:
        reviser.check()
    if isinstance(signal, RewardedReactions):
        load_text_reward(signal.reward)
    broken: list[UserError] = []
    dialogues = read_dialogues(source, broken.append)
    reactions = signal.all_of(dialogues, device) if isinstance(signal, RewardedReactions) else by_phrases(
        dialogues, signal)
    done = DialoguePairs(lines=[*signal_lines(dialogues, reactions), *(f"left out: {each}" for each in broken[:20])])
    if len(broken) > 20:
        done.lines.append(f"left out: and {len(broken) - 20} more rows")
    complaints = [each for talk, said in zip(dialogues, reactions, strict=True) for each in complaints_of(talk, said)]
    done.rows, notes = rows_of_complaints(complaints, reviser)
    done.lines += notes
    if not done.rows:
        more = "" if reviser else "; name a --model, which then writes the better answers that no dialogue has"
        raise UserError(f"dialogues {source}: no pair comes of {len(complaints)} complaints{more}")
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in done.rows)
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / FEEDBACK, lines.encode("utf-8", "backslashreplace"))
    return done


def rows_of_complaints(complaints: Sequence[UserComplaint], reviser: Reviser | None) -> tuple[list[dict], list[str]]:
    """Pairs in the order of the dialogues, and lines on what came of the others."""
    later = [each.better if each.better and each.better.strip() != each.rejected.strip() else None
             for each in complaints]
    open_ones = [each for each, better in zip(complaints, later, strict=True) if better is None]
    revised, lost = reviser.revised(open_ones) if reviser and open_ones else ([None] * len(open_ones), {})
    drawn = iter(revised)
    rows = []
    for complaint, better in zip(complaints, later, strict=True):
        chosen = better or next(drawn)
        if chosen:
            rows.append(dialogue_pair_row(complaint, chosen, "dialogue" if better else "revised"))
    from_dialogue = sum(row["chosen_from"] == "dialogue" for row in rows)
    lines = [f"{len(rows)} pairs of {len(complaints)} complaints: {from_dialogue} with a later answer of the dialogue, "
             f"{len(rows) - from_dialogue} with a revised one"]
    if not reviser and open_ones:
        lines.append(f"{len(open_ones)} complaints have no better answer in their dialogue; --model writes one")
    sorry = sum(map(apologises, (row["chosen"] for row in rows)))
    if sorry:
        lines.append(f"{sorry} chosen answers begin with an apology, which the pair's prompt gives no reason for")
    return rows, [*lines, *(f"{count} {what}" for what, count in lost.items() if count)]


def signal_lines(dialogues: Sequence[Dialogue], reactions: Sequence[Sequence[Reaction]]) -> Iterator[str]:
    """How many reactions of each kind, and how well they are told where the dialogues say themselves."""
    said = [each for of in reactions for each in of]
    yield (f"{len(dialogues)} dialogues with {len(said)} turns after an answer: {said.count(True)} satisfied, "
           f"{said.count(False)} dissatisfied, {said.count(None)} neither")
    for kind, name in ((True, "satisfied"), (False, "dissatisfied")):
        quality = signal_quality(dialogues, reactions, kind)
        if quality:
            yield f"{name}: {quality.text()}"
