"""Settings of pairs that a language model makes: which of them it is sure of, and dialogues that persuade it."""

import string
from typing import Literal

from pydantic import field_validator

from visalign.config.common import Settings, Text
from visalign.config.language_answers import AnswerSettings
from visalign.validation.ranges import AtLeastTwo, FewOrNone, Limit, Positive, Share, Within


class UncertaintySettings(Settings):
    """Keep the pairs that the current model is sure of (UPO, arXiv 2409.11212, by its abstract alone).

    z is how much more the model has come to prefer the chosen answer than its reference does, in nats:
    z = (lp(w) - lp_ref(w)) - (lp(l) - lp_ref(l)). It is read `passes` times, each with other dropout on what the model
    has learnt since the reference, as `lora.dropout` sits in training; a pair is kept where the mean of z is above 0
    and its standard deviation low. Training itself is as without.

    reference: a model of the same architecture and tokenizer, in `lm rounds` also {base} or {previous}; a round whose
    model is that very reference keeps all pairs, since z is 0. keep: of the pairs with mean z above 0, the share of
    lowest deviation. max_std: and no deviation above this, in nats.
    """

    passes: AtLeastTwo = 10
    dropout: Within = 0.1
    reference: Text = "{base}"
    keep: Share = 0.5
    max_std: Positive | None = None


ARGUMENTS = ("I doubt that. I am sure that the right answer is {answer}.",
             "Think again, please. Everybody whom I asked says {answer}.",
             "I have just looked it up, and it says {answer}. Will you correct your answer?")
"""What a persuader says; the same whether it is right, so that only knowledge tells which to believe."""
ANSWERS = ("The answer is {answer}.",)


class PersuasionSettings(AnswerSettings):
    """Make pairs that teach to accept good persuasion and to resist bad (PBT, arXiv 2410.14596, by its abstract alone).

    A dialogue is a question, a first answer, and a turn that argues for the right answer where the first was wrong
    (good), or for the wrong one where it was right (bad). The chosen reply states the right answer, the rejected one
    the wrong. There are as many good as bad ones.

    path: a table of question, right and wrong (texts, or lists of ways to say it), with `argument_right` and
    `argument_wrong` where the persuader has more to say, and `answer` where the first answer is given; or `capitals`,
    questions after 72 capitals. first: `given` makes both dialogues of each question, with first answers by `answers`;
    `own` asks the model (or takes the column `answer`), and leaves a question out whose answer states neither.
    replies: how often the model itself replies to a dialogue; where it states both, its own replies become the pair,
    else `answers` do. arguments, answers: texts with {answer} in them; {question} may be, too. Questions that are held
    out become the dialogues on which both rates are measured.
    """

    path: Text
    split: Text = "train"
    max_questions: Limit | None = None
    first: Literal["given", "own"] = "given"
    replies: FewOrNone = 4
    arguments: tuple[Text, ...] = ARGUMENTS
    answers: tuple[Text, ...] = ANSWERS

    @field_validator("arguments", "answers")
    @classmethod
    def _templates(cls, value, info):
        if not value:
            raise ValueError(f"data.persuasion.{info.field_name}: name at least one text with {{answer}} in it")
        for each in value:
            try:
                names = {name for _, name, _, _ in string.Formatter().parse(each) if name is not None}
            except ValueError:
                names = {""}
            if "answer" not in names or not names <= {"answer", "question"}:
                raise ValueError(f"data.persuasion.{info.field_name}: {each!r} must contain {{answer}}, where an "
                                 "answer is put, and may contain {question}, but no other braces")
        return value
