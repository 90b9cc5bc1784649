"""Preference pairs of users whose tastes are known: of an embedded drawing made brighter and made darker, some prefer
the one and some the other.

`data.path: emoji:tastes`. The users are bright 1, bright 2 ... and dark 1, dark 2 ..., and every pair of images is
shown to one of each, so that nothing but who is asked says which is better.
"""

import functools
import io
import random
from collections.abc import Iterator

from PIL import Image

from visalign.data.embedded_images import emoji_captions
from visalign.data.embedded_pairs import drawings_by_caption

TASTES = "emoji:tastes"
USERS_OF_A_TASTE = 4
DRAWINGS_A_CAPTION = 2
SHARE = 0.45
"""How far a drawing is moved towards white, or towards black."""


@functools.cache
def moved(image: bytes, towards: int) -> bytes:
    """A drawing moved by SHARE towards a shade (255: white, 0: black), as PNG."""
    with Image.open(io.BytesIO(image)) as opened:
        own = opened.convert("RGB")
    file = io.BytesIO()
    Image.blend(own, Image.new("RGB", own.size, (towards,) * 3), SHARE).save(file, "PNG")
    return file.getvalue()


def taste_rows() -> Iterator[tuple[str, dict]]:
    """(where, {prompt, chosen, rejected, user}) for every training caption; the same each time.

    Captions of the held-out split and drawings nobody trained on are in none.
    """
    drawings, fitting = drawings_by_caption()
    for place, text in enumerate(emoji_captions("train")):
        among = fitting.get(text, [])
        shown = random.Random(f"tastes {text}").sample(among, min(DRAWINGS_A_CAPTION, len(among)))
        for number, drawing in enumerate(shown):
            bright, dark = (moved(drawings[drawing]["image"], shade) for shade in (255, 0))
            one = (place + number) % USERS_OF_A_TASTE + 1
            yield f"{TASTES} '{text}' {number} bright", {"prompt": text, "chosen": bright, "rejected": dark,
                                                         "user": f"bright {one}"}
            yield f"{TASTES} '{text}' {number} dark", {"prompt": text, "chosen": dark, "rejected": bright,
                                                       "user": f"dark {one}"}
