"""Prompts in which one word is another one: what was true of a sample is said no more."""

import random
import re
from collections.abc import Sequence

COLOUR_WORDS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "grey")
SPELT = {"gray": "grey", "violet": "purple"}
"""Other words for one of COLOUR_WORDS."""
COUNT_WORDS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
"""Without `one`, which also stands for a thing."""
OBJECT_WORDS = (
    ("cat", "dog", "horse", "cow", "sheep", "elephant", "bear", "zebra", "giraffe", "rabbit", "lion", "tiger", "fox",
     "frog", "fish", "bird", "monkey", "snake", "turtle", "pig"),
    ("car", "bus", "train", "truck", "boat", "airplane", "bicycle", "motorcycle", "helicopter"),
    ("apple", "banana", "pear", "lemon", "cherry", "strawberry", "carrot", "tomato", "pizza", "cake", "sandwich",
     "donut", "bread", "cheese"),
    ("chair", "sofa", "bed", "table", "lamp", "clock", "vase", "bottle", "cup", "bowl", "book", "umbrella", "backpack",
     "laptop", "phone", "guitar", "ball", "key"),
    ("house", "castle", "church", "bridge", "lighthouse", "windmill"),
    ("mountain", "beach", "forest", "desert", "lake", "waterfall"),
    ("man", "woman", "boy", "girl", "robot"),
)
"""Everyday things; of a group a sample seldom shows two at one place."""
_IRREGULAR = re.compile(r"(s|x|z|ch|sh|[^aeiou]y|man|tomato|sheep|fish|bread)$")
_VOWEL = re.compile(r"[aeiou]", re.IGNORECASE)
_UNCOUNTED = frozenset(("a", "an", "the", "of", "and", "or", "in", "on", "at", "to", "is", "are", "with", "for", "by"))


def with_other_colour(prompt: str, rng: random.Random) -> str | None:
    """The prompt with another colour in place of one that it names; None where it names none."""
    return _with_other(prompt, (COLOUR_WORDS,), SPELT, rng)


def with_other_count(prompt: str, rng: random.Random) -> str | None:
    """The prompt with another number in place of one that it spells, two to ten; None where it spells none."""
    return _with_other(prompt, (COUNT_WORDS,), {}, rng)


def with_other_object(prompt: str, rng: random.Random,
                      groups: Sequence[Sequence[str]] | None = None) -> str | None:
    """The prompt with another word of the same group (None: OBJECT_WORDS) in place of one, also in a regular plural;
    None where it has none."""
    return _with_other(prompt, groups or OBJECT_WORDS, {}, rng, plural=True)


def _with_other(prompt: str, groups: Sequence[Sequence[str]], spelt: dict[str, str], rng: random.Random,
                plural: bool = False) -> str | None:
    group_of = {word.lower(): group for group in groups for word in group}
    group_of |= {other: group_of[word] for other, word in spelt.items() if word in group_of}
    words = "|".join(sorted(map(re.escape, group_of), key=len, reverse=True))
    found = list(re.finditer(rf"(?<![\w-])({words})({'s?' if plural else ''})(?![\w-])", prompt, re.IGNORECASE))
    if not found:
        return None
    match = rng.choice(found)
    word, ending = match[1].lower(), match[2]
    others = [each for each in group_of[word] if each.lower() not in (word, spelt.get(word))
              and not (ending and _IRREGULAR.search(each))]
    if not others:
        return None
    new = rng.choice(others)
    new = (new[0].upper() + new[1:] if match[1][0].isupper() else new) + ending
    return _with_article(prompt[:match.start()], new) + new + prompt[match.end():]


def _with_article(before: str, word: str) -> str:
    """What stands before a word, its `a` or `an` as the word asks for."""
    article = re.search(r"(?<!\w)(a)(n?)(\s+)$", before, re.IGNORECASE)
    if not article:
        return before
    return before[:article.start()] + article[1] + ("n" if _VOWEL.match(word) else "") + article[3]


def unrelated(one: str, other: str) -> bool:
    """Whether two prompts share no word that says anything."""
    said = [{word.removesuffix("s") for word in re.findall(r"\w+", text.lower())} - _UNCOUNTED for text in (one, other)]
    return not said[0] & said[1]
