"""Measurements of a text, as pixels.py has them of an image."""

import re

from visalign.media.refusals import is_refusal
from visalign.media.words import repeated_share, sentences_in, tokens_of, words_in

TEXT_STYLE = ("words", "sentences", "word_length", "type_token_ratio", "capitals", "list_markers", "refusals",
              "repeated")
"""word_length: signs of a word. capitals: share of letters. list_markers: lines that begin with a dash, star or
number. refusals: 1 or 0. repeated: share of three-word sequences that occurred before."""
_MARKER = re.compile(r"^[ \t]*(?:[-*\u2022]|\d{1,3}[.)])[ \t]+", re.MULTILINE)


def text_measures(text: str) -> list[float]:
    """TEXT_STYLE; of a text without a word all are 0."""
    tokens, letters = tokens_of(text), [letter for letter in text if letter.isalpha()]
    return [float(len(words_in(text))), float(sentences_in(text)), sum(map(len, tokens)) / max(1, len(tokens)),
            len(set(tokens)) / max(1, len(tokens)), sum(letter.isupper() for letter in letters) / max(1, len(letters)),
            float(len(_MARKER.findall(text))), float(is_refusal(text)), repeated_share(tokens)]
