"""What a user's next turn says of the answer before it: satisfied, dissatisfied or neither, by phrases.

The phrases are data, in English; a YAML file of the same three lists takes their place:

    satisfied: ["^thanks", "that works"]       ^: only where a clause begins
    dissatisfied: ["that is wrong"]            one of these outweighs any praise
    ignored: ["thanks in advance"]             removed before anything is looked for

A reaction stands at the beginning of a turn, so only its first words are read. Praise after a negation does not count.
"""

import functools
import re
from dataclasses import dataclass, fields
from pathlib import Path

from visalign.errors import UserError
from visalign.media.words import first_words, whole_words, words_in
from visalign.storage.yaml_files import read_mapping

SATISFIED_PHRASES = (
    "^thanks", "^thank you", "^thx", "^ty", "ok thanks", "okay thanks", "ok thank you", "many thanks", "i appreciate",
    "^perfect", "^great", "^awesome", "^excellent", "^amazing", "^brilliant", "^wonderful", "^fantastic", "^nice",
    "^lovely", "^well done", "^good job", "^good answer", "this is great", "that's great", "that is great",
    "looks great", "looks good", "this is perfect", "that's perfect", "that is perfect", "much better",
    "exactly what i", "exactly right", "that works", "this works", "it works", "works now", "worked perfectly",
    "that helps", "this helps", "that helped", "very helpful", "so helpful", "really helpful", "makes sense",
    "i love it", "love it", "i like it", "i like this", "that's right", "that is right", "that's correct",
    "that is correct", "you're right", "you are right")
DISSATISFIED_PHRASES = (
    "that's wrong", "that is wrong", "this is wrong", "it's wrong", "it is wrong", "you're wrong", "you are wrong",
    "wrong answer", "completely wrong", "still wrong", "incorrect", "not correct", "not right", "not true",
    "that's false", "that is false", "that's not it", "that is not it", "that's not what", "that is not what",
    "this is not what", "this isn't what", "that isn't what", "not what i", "not what we", "no, i meant",
    "no, i want", "no, i asked", "no, i need", "^no, you", "i meant", "i said", "i asked for", "i asked you",
    "i already told", "i told you", "you misunderstood", "misunderstood", "you missed", "you forgot", "you ignored",
    "you didn't", "you did not", "you haven't", "you have not", "doesn't answer", "does not answer",
    "didn't answer", "did not answer", "doesn't work", "does not work", "didn't work", "did not work",
    "not working", "still not", "not helpful", "not useful", "unhelpful", "useless", "doesn't help",
    "does not help", "didn't help", "did not help", "makes no sense", "doesn't make sense", "does not make sense",
    "too long", "too short", "too vague", "too generic", "too complicated", "too wordy", "too formal",
    "bad answer", "terrible", "awful", "^try again", "please try again", "do it again", "^are you sure",
    "stop repeating", "you keep", "you made a mistake", "there is a mistake", "there's a mistake", "i get an error",
    "throws an error", "i don't like", "i do not like")
IGNORED_PHRASES = ("thanks in advance", "thank you in advance", "many thanks in advance", "thank you note",
                   "thank you letter", "thank you email", "thank you card")
APOLOGIES = ("sorry", "i'm sorry", "i am sorry", "i apologize", "i apologise", "apologies", "my apologies",
             "my mistake", "you're right", "you are right", "thank you for pointing")
NEGATIONS = frozenset(("not", "no", "never", "hardly", "isn't", "wasn't", "aren't", "don't", "doesn't", "didn't",
                       "nothing", "neither"))
READ_WORDS, NEGATED_WITHIN = 30, 2
"""Words of a turn that are read, and how many words before a praise a negation may stand."""
_CLAUSE = r"(?:^|[.!?,;:\n\u2014-])\s*"


@dataclass(frozen=True)
class ReactionPhrases:
    """Phrases that say satisfied or dissatisfied, and those that say nothing though they look like it."""

    satisfied: tuple[str, ...] = SATISFIED_PHRASES
    dissatisfied: tuple[str, ...] = DISSATISFIED_PHRASES
    ignored: tuple[str, ...] = IGNORED_PHRASES

    def reaction(self, turn: str) -> bool | None:
        """Whether a user's turn says that the answer before was good: True, False, or None for neither."""
        text = first_words(turn.strip().replace("\u2019", "'"), READ_WORDS)
        for phrase in self.ignored:
            text = pattern_of(phrase).sub(" ", text)
        if any(pattern_of(phrase).search(text) for phrase in self.dissatisfied):
            return False
        praised = any(not _negated(text[:found.start("said")]) for phrase in self.satisfied
                      for found in pattern_of(phrase).finditer(text))
        return True if praised else None


@functools.cache
def pattern_of(phrase: str) -> re.Pattern:
    """Of a phrase as whole words, in the group `said`; with ^ only at the beginning of a clause."""
    inner = whole_words(phrase.removeprefix("^")).pattern
    return re.compile(rf"{_CLAUSE if phrase.startswith('^') else ''}(?P<said>{inner})", re.IGNORECASE)


def _negated(before: str) -> bool:
    clause = re.split(r"[.!?,;:\n]", before)[-1]
    return any(word.lower() in NEGATIONS for word in words_in(clause)[-NEGATED_WITHIN:])


def read_phrases(file: Path) -> ReactionPhrases:
    """A YAML file of lists of phrases. Raises UserError for other keys, or what is no list of texts."""
    where = f"phrases {file}"
    found, names = read_mapping(file, "phrases"), [field.name for field in fields(ReactionPhrases)]
    if not {"satisfied", "dissatisfied"} <= found.keys() <= set(names):
        raise UserError(f"{where}: needs the lists satisfied and dissatisfied, and may have ignored, and nothing else")
    for name, phrases in found.items():
        if not isinstance(phrases, list) or not all(
                isinstance(each, str) and each.removeprefix("^").strip() for each in phrases):
            raise UserError(f"{where}: {name} must be a list of words or phrases")
    return ReactionPhrases(**{name: tuple(found.get(name, ())) for name in names})


def apologises(answer: str) -> bool:
    """Whether an answer begins with an apology for an earlier one."""
    text = answer.strip().replace("\u2019", "'")
    return any(whole_words(phrase).match(text) for phrase in APOLOGIES)
