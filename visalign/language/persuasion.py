"""Pairs that teach to accept good persuasion and to resist bad, and both rates measured (PBT, arXiv 2410.14596, by its
abstract alone).

    question -> first answer -> a turn that argues for the right answer, or for the wrong one -> the reply

Paths part at the reply: chosen states the right answer, rejected the wrong one. Both kinds of dialogues are learnt
equally often. The paper grows trees of dialogues between two models; here the persuader is a template, or the table's
own argument.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from visalign.config.language_answers import AnswerSettings
from visalign.config.language_feedback import PersuasionSettings
from visalign.data.persuasion import DisputedQuestion, PersuadingDialogue
from visalign.data.text_pairs import TextPair
from visalign.errors import UserError, notice
from visalign.evaluators.persuasion import PersuasionRates, persuasion_rates
from visalign.language.feedback import FEEDBACK
from visalign.language.sampling import Answerer, sample_answers
from visalign.parallel.sharing import ALONE, Processes
from visalign.sampling.seeds import second_seed
from visalign.storage.files import write_atomically
from visalign.storage.text_files import read_text
from visalign.trainers.order import is_held_out


def split_questions(questions: Sequence[DisputedQuestion], holdout: float,
                    measured: frozenset[str] = frozenset()) -> tuple[list[DisputedQuestion], list[DisputedQuestion]]:
    """Questions to learn from and held-out ones. Raises UserError where there is none of either."""
    held = [is_held_out(each.question, holdout, measured) for each in questions]
    learnt, kept = ([each for each, out in zip(questions, held, strict=True) if out is wanted]
                    for wanted in (False, True))
    if not learnt:
        raise UserError(f"data.holdout {holdout:g}: leaves no question of data.persuasion to learn from; take a "
                        "smaller share")
    if not kept:
        raise UserError(f"data.holdout {holdout:g}: holds out none of {len(questions)} questions, so nothing would say "
                        "whether the model accepts good persuasion and resists bad; take a larger share")
    return learnt, kept


def persuasion_pairs(answerer: Answerer, settings: PersuasionSettings, questions: Sequence[DisputedQuestion], seed: int,
                     is_learnt: Callable[[DisputedQuestion], bool] = lambda each: True,
                     processes: Processes = ALONE) -> list[TextPair]:
    """Pairs of all questions; of those that are learnt from there are as many of good as of bad persuasion. Raises
    UserError where one of the kinds is missing."""
    dialogues = dialogues_of(answerer, settings, questions, seed, processes)
    dialogues = [*balanced([each for each in dialogues if is_learnt(each.question)]),
                 *(each for each in dialogues if not is_learnt(each.question))]
    replies = replies_of(answerer, dialogues, settings.replies, settings, second_seed(seed), processes)
    pairs, own = [], 0
    for dialogue, of in zip(dialogues, replies, strict=True):
        pair = pair_of(dialogue, of, settings)
        own += pair is not None
        pairs.append(pair or templates_of(dialogue, settings))
    kinds = Counter(each.good for each in dialogues)
    notice(f"data.persuasion: {kinds[True]} dialogues with good persuasion and {kinds[False]} with bad; both replies "
           f"are the model's own in {own} of {len(dialogues)}")
    return pairs


def dialogues_of(answerer: Answerer, settings: PersuasionSettings, questions: Sequence[DisputedQuestion], seed: int,
                 processes: Processes = ALONE) -> list[PersuadingDialogue]:
    """Both of each question with given first answers; with own ones, the one that the answer asks for."""
    if settings.first == "given":
        return [dialogue for each in questions for dialogue in each.given_dialogues(settings)]
    asked = [each for each in questions if each.answer is None]
    drawn = iter(sample_answers(answerer, [each.question for each in asked], 1, settings, seed=seed,
                                label="first answers", processes=processes))
    answers = [str(next(drawn).answer) if each.answer is None else each.answer for each in questions]
    stated = [each.states_right(answer) for each, answer in zip(questions, answers, strict=True)]
    neither = stated.count(None)
    if neither:
        notice(f"data.persuasion.first own: {neither} of {len(questions)} first answers state neither the right nor "
               "the wrong answer and are left out")
    return [each.dialogue(answer, not right, settings)
            for each, answer, right in zip(questions, answers, stated, strict=True) if right is not None]


def balanced(dialogues: Sequence[PersuadingDialogue]) -> list[PersuadingDialogue]:
    """As many of good as of bad persuasion, the first of the kind of which there are more. Raises UserError where there
    is none of one kind."""
    least = min(sum(each.good is kind for each in dialogues) for kind in (True, False))
    if not least:
        good = sum(each.good for each in dialogues)
        raise UserError(f"data.persuasion: there are {good} dialogues with good persuasion and {len(dialogues) - good} "
                        "with bad, and one kind alone teaches to always give in, or never; set "
                        "data.persuasion.first=given, which makes both")
    if 2 * least < len(dialogues):
        notice(f"data.persuasion: {len(dialogues) - 2 * least} dialogues are left out, so that both kinds of "
               "persuasion are learnt equally often")
    places = [i for kind in (True, False)
              for i in [i for i, each in enumerate(dialogues) if each.good is kind][:least]]
    return [dialogues[i] for i in sorted(places)]


def replies_of(answerer: Answerer, dialogues: Sequence[PersuadingDialogue], count: int, settings: AnswerSettings,
               seed: int, processes: Processes = ALONE) -> list[list[tuple[str, bool]]]:
    """`count` replies of the model to each dialogue, and whether each ended by itself."""
    if not count:
        return [[] for _ in dialogues]
    samples = sample_answers(answerer, [each.messages for each in dialogues], count, settings, seed=seed,
                             label="replies to persuasion", processes=processes)
    told = [(str(sample.answer), bool(sample.known.get("ended", True))) for sample in samples]
    return [told[i * count:(i + 1) * count] for i in range(len(dialogues))]


def pair_of(dialogue: PersuadingDialogue, replies: Sequence[tuple[str, bool]],
            settings: PersuasionSettings) -> TextPair | None:
    """The model's first reply that states the right answer against its first that states the wrong one; None where it
    does not do both."""
    first = {side: next((each for each in replies if dialogue.question.states_right(each[0]) is right), None)
             for side, right in (("chosen", True), ("rejected", False))}
    found = {side: each for side, each in first.items() if each is not None}
    if len(found) < 2:
        return None
    return of_replies(dialogue, found["chosen"][0], found["rejected"][0],
                      frozenset(side for side, (_, ended) in found.items() if not ended))


def templates_of(dialogue: PersuadingDialogue, settings: PersuasionSettings) -> TextPair:
    """Replies by the same template, which differ in the answer alone."""
    chosen, rejected = (dialogue.question.first_answer(right, settings) for right in (True, False))
    return of_replies(dialogue, chosen, rejected)


def of_replies(dialogue: PersuadingDialogue, chosen: str, rejected: str,
               unfinished: frozenset[str] = frozenset()) -> TextPair:
    return TextPair(dialogue.messages, chosen, rejected, dialogue.question.where, unfinished=unfinished,
                    group=dialogue.question.question)


@dataclass(frozen=True)
class PersuasionMeasure:
    """Both rates on held-out questions, with first answers by the templates, so that a model is asked the same before
    and after; replies by the settings and seed of `eval`."""

    persuasion: PersuasionSettings
    questions: Sequence[DisputedQuestion]
    settings: AnswerSettings
    per_dialogue: int
    seed: int
    processes: Processes = ALONE

    def rates(self, answerer: Answerer) -> PersuasionRates:
        dialogues = [each for question in self.questions for each in question.given_dialogues(self.persuasion)]
        replies = replies_of(answerer, dialogues, self.per_dialogue, self.settings, self.seed, self.processes)
        rows = [(dialogue, dialogue.question.states_right(text))
                for dialogue, of in zip(dialogues, replies, strict=True) for text, _ in of]
        return persuasion_rates([dialogue.good for dialogue, _ in rows], [stated for _, stated in rows],
                                [dialogue.question.question for dialogue, _ in rows])

    def numbers(self, answerer: Answerer) -> dict[str, object]:
        """What a held-out row of a run's metrics gets."""
        found = self.rates(answerer)
        notice(f"data.persuasion: {found.text()}")
        return {"held_out/accepts_good": found.accepts_good.value, "held_out/resists_bad": found.resists_bad.value,
                "persuasion": found._asdict() | {"questions": len(self.questions)}}


def write_dialogues(pairs: Sequence[TextPair], folder: Path) -> None:
    """The pairs, so that a run that is continued learns from the same."""
    lines = [json.dumps({"prompt": list(pair.messages), "chosen": pair.chosen, "rejected": pair.rejected,
                         "unfinished": sorted(pair.unfinished), "group": pair.group, "from": pair.where},
                        ensure_ascii=False) for pair in pairs]
    write_atomically(folder / FEEDBACK, ("\n".join(lines) + "\n").encode("utf-8", "backslashreplace"))


def read_dialogue_pairs(folder: Path) -> list[TextPair]:
    """The pairs that an earlier session of the run has made; [] before that."""
    file = folder / FEEDBACK
    if not file.is_file():
        return []
    rows = [json.loads(line) for line in read_text(file, f"run {file}").splitlines()]
    return [TextPair(tuple(row["prompt"]), row["chosen"], row["rejected"], row["from"],
                     unfinished=frozenset(row["unfinished"]), group=row["group"]) for row in rows]
