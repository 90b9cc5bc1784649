"""Words and sentences of texts, counted in one way by rewards, measures and reports.

Chinese and Japanese write no spaces: each of their characters counts as a word.
"""

import re
from itertools import islice

_WIDE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_WIDE}]|[^\s{_WIDE}]+")
_TOKEN = re.compile(rf"[{_WIDE}]|[^\W{_WIDE}]+(?:['\u2019][^\W{_WIDE}]+)*")
_SENTENCE_END = re.compile(r"[.!?\u3002\uff01\uff1f]+(?=[\s\"')\]\u201d]|$)|[\u3002\uff01\uff1f]")

_STEP_END = re.compile(r"[.!?\u2026]+[\"'\u201d\u2019)\]]*(?=\s)|[\u3002\uff01\uff1f]+[\u201d\u2019\u300d\u300f]*"
                       r"|(?<=\S)(?=[^\S\n]*\n)")


def words_in(text: str) -> list[str]:
    """What stands between spaces, as written."""
    return _WORD.findall(text)


def tokens_of(text: str) -> list[str]:
    """Words in lower case without punctuation: what n-grams are made of."""
    return _TOKEN.findall(text.lower())


def sentences_in(text: str) -> int:
    """How many sentences end in it; a last one without a mark counts, an empty text has none."""
    ended = list(_SENTENCE_END.finditer(text))
    rest = text[ended[-1].end():] if ended else text
    return len(ended) + bool(_TOKEN.search(rest))


def sentence_ends(text: str) -> list[int]:
    """Characters behind which a sentence, with its closing quotes and brackets, or a line has ended."""
    return [found.end() for found in _STEP_END.finditer(text)]


def ngrams(tokens: list[str], n: int) -> list[tuple[str, ...]]:
    """Every n consecutive tokens, in order; [] of a shorter text."""
    return list(zip(*(islice(tokens, start, None) for start in range(n)), strict=False))


def repeated_share(tokens: list[str], n: int = 3) -> float:
    """1 - distinct / all n-grams, in [0, 1): 0 where none comes twice, and for texts shorter than n."""
    grams = ngrams(tokens, n)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def first_words(text: str, count: int) -> str:
    """The text cut after `count` words."""
    for number, found in enumerate(_WORD.finditer(text), 1):
        if number == count:
            return text[:found.end()]
    return text if count else ""


def whole_words(phrase: str) -> re.Pattern:
    """A pattern that finds a word or phrase as whole words, in any case and with any space between."""
    parts = r"\s+".join(map(re.escape, phrase.split()))
    return re.compile(rf"(?<!\w){parts}(?!\w)", re.IGNORECASE)
