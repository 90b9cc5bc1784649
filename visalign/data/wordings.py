"""From the captions of one medium to the prompts that it is learnt with, made ahead so that each is encoded once.

Which tags are left out, in which order they stand and which wildcard is taken depends on the caption and the number of
the wording alone: equal data give equal prompts in every run, on every machine.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import Any

from visalign.config.sources import CaptionSettings
from visalign.data.rows import BadRow, shortened, take
from visalign.errors import nearest

CAPTION_KEYS = ("prompt", "caption", "text", "captions")
_WILDCARD = re.compile(r"\{([^{}|]*(?:\|[^{}|]*)+)\}")


def row_captions(row: dict, where: str, settings: CaptionSettings) -> tuple[str, ...]:
    """The captions in a row's columns, each a text or a list of texts; () where a row needs none of ours.

    Raises BadRow for columns that are missing or empty, and for lists that hold anything else.
    """
    keys = settings.columns or tuple(key for key in CAPTION_KEYS if isinstance(row.get(key), list))
    if settings.columns and not any(key in row for key in keys):
        unknown = keys[0]
        raise BadRow(f"{where}: has no column '{unknown}' of data.captions.columns{nearest(unknown, row)}")
    found: list[str] = []
    for key in keys:
        given = row.get(key)
        for each in given if isinstance(given, list | tuple) else [given]:
            if each is not None and not isinstance(each, str):
                raise BadRow(f"{where}: '{key}' holds {type(each).__name__} ({shortened(each)}), not text")
            found += [each.strip()] if each and each.strip() else []
    if keys and not found and settings.default is None:
        take(row, keys[0], where)
        raise BadRow(f"{where}: '{keys[0]}' is empty")
    return tuple(dict.fromkeys(found))


def wordings(captions: Sequence[str], settings: CaptionSettings) -> tuple[str, ...]:
    """Every prompt that a medium with these captions is learnt with, each once; the first is the first as written."""
    written = [line for caption in captions for line in (
        map(str.strip, caption.splitlines()) if settings.wildcards else [caption]) if line]
    made: list[str] = []
    for text in written:
        changes = settings.of_tags or settings.wildcards and _WILDCARD.search(text)
        made += [_worded(text, settings, number) for number in range(settings.variants if changes else 1)]
    return tuple(dict.fromkeys(f"{settings.prefix}{each}{settings.suffix}" for each in made if each.strip()))


def _worded(text: str, settings: CaptionSettings, number: int) -> str:
    """Wording `number` of a caption; 0 takes the first of each wildcard and keeps all tags in their order."""
    if settings.wildcards:
        places = iter(range(len(text)))

        def one_of(found: re.Match) -> str:
            options = found[1].split("|")
            return options[int(_chance("wildcard", text, number, next(places)) * len(options)) if number else 0]

        text = _WILDCARD.sub(one_of, text)
    if not settings.of_tags or not number:
        return text
    tags = list(filter(None, map(str.strip, text.split(settings.separator))))
    kept, others = tags[:settings.keep_tags], list(enumerate(tags))[settings.keep_tags:]
    left = [(place, tag) for place, tag in others if _chance("left out", text, number, place) >= settings.tag_dropout]
    if settings.shuffle_tags:
        left.sort(key=lambda each: _chance("order", text, number, each[0]))
    return f"{settings.separator.strip()} ".join([*kept, *(tag for _, tag in left)])


def _chance(what: str, *parts: Any) -> float:
    """A number in [0, 1) that belongs to what it is for."""
    return int(hashlib.sha256(repr((what, *parts)).encode()).hexdigest()[:12], 16) / 16**12
