"""Prompt sets: a text file, one a line; captions of the embedded emoji and clips; families of variety; suites."""

from pathlib import Path

from visalign.data.clips import clip_captions
from visalign.data.emoji import emoji_captions
from visalign.data.families import family_prompts
from visalign.data.suites import read_suite
from visalign.errors import UserError


def read_prompts(source: str, limit: int | None = None) -> list[str]:
    """Prompts of a text file, `emoji:train`, `clips:train`, `families:layout` (data/families.py) or `geneval:FILE`
    (data/suites.py).

    Raises UserError when the file is missing or empty.
    """
    kind, _, rest = source.partition(":")
    if kind in _SETS:
        prompts = _SETS[kind](source, rest)
    else:
        try:
            lines = Path(source).expanduser().read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"prompts {source}: cannot be read ({error})") from None
        prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise UserError(f"prompts {source}: the file holds no prompt; one a line is expected")
    return prompts[:limit]


def _of_emoji(source: str, split: str) -> list[str]:
    if split not in ("train", "held_out"):
        raise UserError(f"prompts {source}: the embedded set has the splits train and held_out")
    return emoji_captions(split)


def _of_clips(source: str, split: str) -> list[str]:
    if split not in ("train", "held_out"):
        raise UserError(f"prompts {source}: the embedded clips have the splits train and held_out")
    return clip_captions(split)


def _of_families(source: str, axis: str) -> list[str]:
    return family_prompts(axis)


def _of_suite(source: str, path: str) -> list[str]:
    return list(dict.fromkeys(item.prompt for item in read_suite(source)[1]))


_SETS = {"emoji": _of_emoji, "clips": _of_clips, "families": _of_families, "geneval": _of_suite,
         "t2i-compbench": _of_suite, "dpg-bench": _of_suite, "vbench": _of_suite}
